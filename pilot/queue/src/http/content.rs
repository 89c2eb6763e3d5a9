//! Calls that carry bytes: input files, logs and outputs, up and down.

use super::pilots::entitled;
use super::problem::{self, Refusal};
use super::users::shown;
use super::{Asked, Id, PilotDn, User, bytes, until};
use super::{blocking, detached};
use crate::engine::now;
use crate::files::Channel;
use crate::state::Queue;
use crate::validate;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pilot_api::Problem;
use pilot_core::{Change, Event};
use pilot_store::Store;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

type Shared = State<Arc<Queue>>;

/// Largest chunk of a log that a pilot sends.
const MAX_CHUNK: usize = 4 << 20;
/// Most of a log in one answer: it lies in memory until it is read.
const READ_CHUNK: u64 = 256 << 10;

/// `PUT /v1/blobs/{sha256}`
pub async fn upload(
    State(queue): Shared,
    user: User,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    validate::sha256(&sha256)?;
    user.full()?;
    let limit = queue.settings.max_blob;
    check_length(&headers, "blob", limit)?;
    let (q, mark) = (queue.clone(), queue.settings.high_water);
    blocking(move || q.files.check_room(mark)).await?;
    check_share(&queue, user.dn(), &sha256, announced(&headers)).await?;
    let received = queue.files.receive(body.into_data_stream(), limit, "blob").await?;
    check_share(&queue, user.dn(), &sha256, received.size).await?;
    if received.sha256 != sha256 {
        let title = format!("the content's SHA-256 is {}, not {sha256}; send it again", received.sha256);
        return Err(problem::unsatisfiable("hash_mismatch", title));
    }
    detached(async move {
        let size = received.size;
        let (q, name) = (queue.clone(), queue.files.blob(&sha256));
        blocking(move || q.files.keep(received, &name)).await?;
        let (owner, at) = (user.dn().to_owned(), now());
        queue.decide(Event::Upload(Change::Blob { sha256: sha256.clone(), size, owner, at })).await?;
        tracing::info!(blob = sha256, size, actor = user.dn(), "blob stored");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Bytes that a body says it has; 0 when it does not say.
fn announced(headers: &HeaderMap) -> u64 {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    length.unwrap_or(0)
}

/// Fails when the user's inputs would take more than one user may store. What is there already costs nothing.
async fn check_share(queue: &Queue, owner: &str, sha256: &str, size: u64) -> Result<(), Refusal> {
    let most = queue.settings.max_user_storage;
    let stored = queue.store.stored(owner, sha256).await?;
    match stored.saturating_add(size) > most {
        true => Err(problem::storage_share(stored, most)),
        false => Ok(()),
    }
}

/// What is announced to be too large need not be sent.
fn check_length(headers: &HeaderMap, what: &str, limit: u64) -> Result<(), Refusal> {
    if announced(headers) > limit {
        return Err(problem::too_large(what, limit));
    }
    Ok(())
}

/// `GET /v1/blobs/{sha256}`: for who uploaded it, and for pilots with a lease that needs it.
pub async fn download(
    State(queue): Shared,
    user: User,
    Path(sha256): Path<String>,
) -> Result<Response, Refusal> {
    validate::sha256(&sha256)?;
    let own = queue.store.has_blob(&sha256, user.dn()).await?;
    let leased =
        user.may_be_pilot(&queue) && !user.0.limited && queue.store.blob_leased(&sha256, user.dn()).await?;
    if !own && !leased {
        return Err(problem::unknown("blob"));
    }
    let body = queue.files.stream(&queue.files.blob(&sha256)).await?;
    let body = body.ok_or_else(|| problem::internal("a blob", &"its file is missing"))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(body)).into_response())
}

/// Where a chunk belongs and who says so.
#[derive(Debug, Deserialize)]
pub struct Placed {
    lease: Uuid,
    offset: u64,
}

#[derive(Debug, Deserialize)]
struct ChannelPath {
    channel: Channel,
}

/// `PUT /v1/attempts/{a}/logs/{channel}`
pub async fn append(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Id(attempt): Id,
    channel: Named,
    Asked(placed): Asked<Placed>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    entitled(&queue, attempt, placed.lease, &holder).await?;
    let chunk = bytes(request, &queue, MAX_CHUNK).await?;
    let q = queue.clone();
    blocking(move || q.files.append(attempt, channel.0, placed.offset, &chunk)).await?;
    queue.effects.log_waiters.ring(attempt);
    Ok(StatusCode::NO_CONTENT)
}

/// The channel in a path.
#[derive(Debug, Clone, Copy)]
pub struct Named(Channel);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<ChannelPath>::from_request_parts(parts, state).await;
        path.map(|Path(p)| Self(p.channel)).map_err(|_| problem::invalid("a log is stdout or stderr"))
    }
}

/// The lease that a body belongs to.
#[derive(Debug, Deserialize)]
pub struct Leased {
    lease: Uuid,
}

/// `PUT /v1/attempts/{a}/output`
pub async fn keep_output(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Id(attempt): Id,
    Asked(leased): Asked<Leased>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    entitled(&queue, attempt, leased.lease, &holder).await?;
    let limit = queue.settings.max_blob;
    check_length(&headers, "output", limit)?;
    let received = queue.files.receive(body.into_data_stream(), limit, "output").await?;
    // The upload may have outlasted the lease.
    let payload = entitled(&queue, attempt, leased.lease, &holder).await?;
    let size = received.size;
    blocking(move || queue.files.keep(received, &queue.files.output(attempt))).await?;
    tracing::info!(payload = %payload.id, %attempt, size, actor = holder.dn, "output stored");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/payloads/{id}/output`: of the newest attempt that has one.
pub async fn output(State(queue): Shared, user: User, Id(id): Id) -> Result<Response, Refusal> {
    let payload = shown(&queue, id, &user).await?;
    for attempt in payload.attempts.iter().rev() {
        if let Some(body) = queue.files.stream(&queue.files.output(attempt.id)).await? {
            return Ok(
                ([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(body)).into_response()
            );
        }
    }
    Err(Refusal(Problem { title: "no attempt has delivered output".into(), ..problem::unknown("output").0 }))
}

/// Which part of which log.
#[derive(Debug, Deserialize)]
pub struct Part {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    wait: u64,
    attempt: Option<u32>,
}

/// `GET /v1/payloads/{id}/logs/{channel}`
pub async fn follow(
    State(queue): Shared,
    user: User,
    Id(id): Id,
    channel: Named,
    Asked(part): Asked<Part>,
) -> Result<Response, Refusal> {
    let deadline = until(part.wait, Duration::MAX);
    loop {
        let state_waiter = queue.effects.payload_waiters.of(id);
        let mut state_news = std::pin::pin!(state_waiter.notified());
        state_news.as_mut().enable();
        let payload = shown(&queue, id, &user).await?;
        let attempt = match part.attempt {
            Some(n) => payload.attempts.iter().find(|a| a.number == n),
            None => payload.attempts.last(),
        };
        let log_waiter = queue.effects.log_waiters.of(attempt.map_or(id, |a| a.id));
        let mut log_news = std::pin::pin!(log_waiter.notified());
        log_news.as_mut().enable();
        // Without a number the next attempt's log would follow; with one, its end is the end.
        let over = attempt.is_some_and(|a| a.outcome.is_some()) && part.attempt.is_some();
        let over = over || payload.state.is_final();
        let (bytes, at_end) = match attempt {
            None => (Vec::new(), true),
            Some(a) => {
                let (q, id, from) = (queue.clone(), a.id, part.offset);
                blocking(move || q.files.read_log(id, channel.0, from, READ_CHUNK)).await?
            }
        };
        let end = over && at_end;
        let timed_out = !bytes.is_empty()
            || end
            || tokio::select! {
                () = queue.over(deadline) => true,
                () = log_news => false,
                () = state_news => false,
            };
        if timed_out {
            return Ok(part_of_log(bytes, end, attempt.map(|a| a.number)));
        }
    }
}

fn part_of_log(bytes: Vec<u8>, end: bool, attempt: Option<u32>) -> Response {
    let mut response = ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response();
    if end {
        response.headers_mut().insert("x-log-end", HeaderValue::from_static("1"));
    }
    if let Some(number) = attempt {
        response.headers_mut().insert("x-log-attempt", number.into());
    }
    response
}
