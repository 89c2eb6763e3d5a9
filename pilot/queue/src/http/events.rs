//! `GET /v1/events`: what happens to a user's payloads, as it happens (server-sent events).

use super::problem::{self, Refusal};
use super::{Asked, User};
use crate::lanes::Turn;
use crate::state::Queue;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use pilot_api::StateEvent;
use pilot_store::Store;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::io::ReaderStream;

/// Without news a comment is sent this often: both sides see that the other one is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two looks at the store: changes that come in a burst are read together.
const GATHER: Duration = Duration::from_millis(100);
/// Numbers that one look goes through, whosever they are.
const WINDOW: i64 = 10_000;
/// Text that waits for a reader; whoever reads more slowly holds up its own stream, and nothing else.
const BUFFER: usize = 64 << 10;
/// How long a reader may take nothing.
const STALL: Duration = Duration::from_secs(60);
/// Afterwards the reader comes again, with a credential that is judged again.
const LIFE: Duration = Duration::from_secs(3600);

/// Where to begin.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct From {
    after: Option<String>,
}

/// `GET /v1/events?after=SEQ`: changes above that number, and then for as long as both sides stay; from now on without a
/// number. Standard clients say with `Last-Event-ID` what they have seen when they come again.
pub async fn stream(
    State(queue): State<Arc<Queue>>,
    user: User,
    Asked(from): Asked<From>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?").to_owned());
    let after = match last.or(from.after).filter(|text| !text.is_empty()) {
        Some(text) => text.parse::<i64>().ok().filter(|seq| *seq >= 0).ok_or_else(|| {
            problem::invalid("after: write the number of the last event that you have seen, or 0")
        })?,
        None => queue.store.newest().await?,
    };
    let turn = queue.streams.try_turn(user.dn()).ok_or_else(problem::too_many_streams)?;
    let (writer, reader) = tokio::io::duplex(BUFFER);
    tokio::spawn(tell(queue, user.dn().to_owned(), after, writer, turn));
    let kind = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((kind, Body::from_stream(ReaderStream::new(reader))).into_response())
}

/// Ends when the reader goes away or takes nothing, when the queue ends, and after [`LIFE`]: each reader comes again.
async fn tell(queue: Arc<Queue>, owner: String, mut after: i64, mut writer: DuplexStream, _turn: Turn) {
    let end = Instant::now() + LIFE;
    let mut beat = Instant::now();
    while Instant::now() < end && !queue.closing.is_cancelled() {
        let changed = queue.effects.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let (events, until) = match queue.store.events(&owner, after, WINDOW).await {
            Ok(found) => found,
            Err(problem) => {
                tracing::warn!(%problem, "a stream of events waits for the store");
                sleep(GATHER * 10).await;
                continue;
            }
        };
        let more = until - after >= WINDOW;
        after = until;
        let mut text: String = events.iter().map(told).collect();
        if text.is_empty() && Instant::now() >= beat {
            text = ": nothing new\n\n".to_owned();
        }
        if !text.is_empty() {
            if send(&mut writer, &text).await.is_err() {
                return;
            }
            beat = Instant::now() + HEARTBEAT;
        }
        if more {
            continue;
        }
        sleep(GATHER).await;
        tokio::select! {
            _ = timeout_at(beat.min(end), changed) => {}
            () = queue.closing.cancelled() => {}
        }
    }
    let goodbye = format!(": come again with Last-Event-ID, the newest is {after}\n\n");
    // Whoever is gone needs no good-bye.
    let _ = send(&mut writer, &goodbye).await;
}

/// One event: JSON has no line breaks of its own.
fn told(event: &StateEvent) -> String {
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.entry.seq, event.entry.state)
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    timeout(STALL, writer.write_all(text.as_bytes())).await.map_err(std::io::Error::other)?
}
