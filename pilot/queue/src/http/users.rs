//! Calls of users: delegations, payloads, history, status.

use super::problem::{self, Refusal};
use super::{Asked, Id, Input, User, blocking, detached, until};
use crate::engine::now;
use crate::state::Queue;
use crate::{proxies, validate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pilot_api::{
    Delegation, HistoryEntry, NewDelegation, PAGE, Payload, PayloadState, Release, SignedChain, Status,
    Storage, Submission, Submitted,
};
use pilot_core::event::{ByOwner, Sign, Submit};
use pilot_core::{Answer, Event, change};
use pilot_store::{Filter, Store};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

type Shared = State<Arc<Queue>>;

/// A payload as its owner may see it.
pub async fn shown(queue: &Queue, id: Uuid, user: &User) -> Result<Payload, Refusal> {
    let found = queue.store.payload(id).await?.filter(|p| p.owner == user.dn());
    found.ok_or_else(|| problem::unknown("payload"))
}

/// `POST /v1/delegations`
pub async fn delegate(
    State(queue): Shared,
    user: User,
    Input(asked): Input<Option<NewDelegation>>,
) -> Result<(StatusCode, Json<Delegation>), Refusal> {
    user.full()?;
    let id = asked.unwrap_or_default().id.unwrap_or_else(Uuid::now_v7);
    let kind = queue.settings.proxy_key;
    let turn = queue.keys.turn(user.dn()).await;
    let (key, csr) = blocking(move || proxies::request(kind)).await?;
    drop(turn);
    let owner = user.dn().to_owned();
    let event = Event::Delegate(Box::new(change::NewDelegation { id, owner, key, csr, at: now() }));
    let csr = detached(async move {
        match queue.decide(event).await?.answer {
            Answer::Request(csr) => Ok(csr),
            other => Err(problem::internal("a delegation", &format!("{other:?}"))),
        }
    })
    .await?;
    tracing::info!(delegation = %id, actor = user.dn(), "delegation requested");
    Ok((StatusCode::CREATED, Json(Delegation { id, csr })))
}

/// `PUT /v1/delegations/{id}`; the same chain again is fine, another one is not.
pub async fn sign(
    State(queue): Shared,
    user: User,
    Id(id): Id,
    Input(signed): Input<SignedChain>,
) -> Result<StatusCode, Refusal> {
    user.full()?;
    let found = queue.store.key(id, user.dn()).await?.ok_or_else(|| problem::unknown("delegation"))?;
    let (peer, trust) = (user.0.clone(), queue.settings.trust.clone());
    let _turn = queue.keys.turn(user.dn()).await;
    let (chain, not_after) =
        blocking(move || proxies::accept(&signed.chain, &found.key, &peer, &trust)).await?;
    let sign = Sign { id, owner: user.dn().to_owned(), chain, not_after };
    detached(async move { Ok(queue.decide(Event::Sign(Box::new(sign))).await?) }).await?;
    tracing::info!(delegation = %id, actor = user.dn(), not_after, "delegation signed");
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/payloads`
pub async fn submit(
    State(queue): Shared,
    user: User,
    Input(submission): Input<Submission>,
) -> Result<(StatusCode, Json<Submitted>), Refusal> {
    user.full()?;
    let submission = validate::submission(submission, queue.settings.max_array)?;
    let id = submission.id.unwrap_or_else(Uuid::now_v7);
    let elements = match submission.array {
        None => vec![(id, None)],
        Some((low, high)) => (low..=high).map(|index| (Uuid::now_v7(), Some(index))).collect(),
    };
    let event = Event::Submit(Box::new(Submit {
        id,
        owner: user.dn().to_owned(),
        delegation: submission.delegation,
        spec: submission.spec,
        array: submission.array,
        elements,
    }));
    let ids = detached(async move {
        match queue.decide(event).await?.answer {
            Answer::Submitted(ids) => Ok(ids),
            other => Err(problem::internal("a submission", &format!("{other:?}"))),
        }
    })
    .await?;
    Ok((StatusCode::CREATED, Json(Submitted { ids })))
}

/// Which payloads to list.
#[derive(Debug, Deserialize)]
pub struct Which {
    #[serde(default = "page")]
    limit: u32,
    /// States, comma-separated; all when missing.
    #[serde(default)]
    state: String,
    array: Option<Uuid>,
    before: Option<Uuid>,
    /// The beginning of an id, of payloads or of their array.
    begins: Option<String>,
}

fn page() -> u32 {
    PAGE
}

/// `GET /v1/payloads`
pub async fn list(
    State(queue): Shared,
    user: User,
    Asked(asked): Asked<Which>,
) -> Result<Json<Vec<Payload>>, Refusal> {
    let words = asked.state.split(',').filter(|word| !word.is_empty());
    let states = words.map(str::parse).collect::<Result<Vec<PayloadState>, _>>();
    let states = states.map_err(|e| problem::invalid(format!("state: {e}; write such as waiting,held")))?;
    let begins = asked.begins.map(|text| text.to_ascii_lowercase());
    if begins.iter().any(|text| text.is_empty() || text.bytes().any(|b| b != b'-' && !b.is_ascii_hexdigit()))
    {
        return Err(problem::invalid("begins: write hexadecimal digits and dashes"));
    }
    let filter = Filter {
        begins,
        owner: user.dn().to_owned(),
        states,
        array: asked.array,
        limit: asked.limit.min(PAGE),
        before: asked.before,
    };
    let _turn = queue.lists.turn(user.dn()).await;
    Ok(Json(queue.store.payloads(&filter).await?))
}

/// `GET /v1/status`
pub async fn status(State(queue): Shared, user: User) -> Result<Json<Status>, Refusal> {
    let counts = queue.store.counts(user.dn()).await?;
    let payloads = counts.into_iter().map(|(state, n)| (state.as_str().to_owned(), n)).collect();
    let (q, seconds) = (queue.clone(), queue.settings.retention.as_secs());
    let room = blocking(move || q.files.room()).await?;
    let storage = Storage {
        total: room.total,
        free: room.free,
        full: room.is_above(queue.settings.high_water),
        high_water: queue.settings.high_water,
        retention: seconds,
    };
    let refused_pilots = queue.refused_since((now() / 1000).saturating_sub(3600));
    Ok(Json(Status { payloads, storage, refused_pilots }))
}

/// Whether to wait, and for what.
#[derive(Debug, Deserialize)]
pub struct Awaited {
    #[serde(default)]
    wait: u64,
    /// 1: wait for the end (the default). 0: wait for any change.
    #[serde(default = "end", rename = "final")]
    end: u8,
}

fn end() -> u8 {
    1
}

/// `GET /v1/payloads/{id}`
pub async fn show(
    State(queue): Shared,
    user: User,
    Id(id): Id,
    Asked(asked): Asked<Awaited>,
) -> Result<Json<Payload>, Refusal> {
    let deadline = until(asked.wait, Duration::MAX);
    let mut before: Option<PayloadState> = None;
    loop {
        let waiter = queue.effects.payload_waiters.of(id);
        let mut news = std::pin::pin!(waiter.notified());
        news.as_mut().enable();
        let payload = shown(&queue, id, &user).await?;
        let changed = asked.end == 0 && before.is_some_and(|b| b != payload.state);
        let timed_out = payload.state.is_final()
            || changed
            || tokio::select! {
                () = queue.over(deadline) => true,
                () = news => false,
            };
        if timed_out {
            return Ok(Json(payload));
        }
        before = before.or(Some(payload.state));
    }
}

/// `GET /v1/payloads/{id}/events`
pub async fn events(
    State(queue): Shared,
    user: User,
    Id(id): Id,
) -> Result<Json<Vec<HistoryEntry>>, Refusal> {
    shown(&queue, id, &user).await?;
    Ok(Json(queue.store.history(id).await?))
}

/// `POST /v1/payloads/{id}/cancel`
pub async fn cancel(queue: Shared, user: User, id: Id) -> Result<Json<Payload>, Refusal> {
    change(queue, user, id, |by| Event::Cancel(by, Uuid::now_v7())).await
}

/// `POST /v1/payloads/{id}/hold`
pub async fn hold(queue: Shared, user: User, id: Id) -> Result<Json<Payload>, Refusal> {
    change(queue, user, id, Event::Hold).await
}

/// `POST /v1/payloads/{id}/release`
pub async fn release(
    queue: Shared,
    user: User,
    id: Id,
    Input(body): Input<Release>,
) -> Result<Json<Payload>, Refusal> {
    change(queue, user, id, |by| Event::Release(by, body.delegation)).await
}

async fn change(
    State(queue): Shared,
    user: User,
    Id(id): Id,
    event: impl FnOnce(ByOwner) -> Event,
) -> Result<Json<Payload>, Refusal> {
    user.full()?;
    let event = event(ByOwner { payload: id, user: user.dn().to_owned() });
    detached(async move {
        queue.decide(event).await?;
        Ok(Json(shown(&queue, id, &user).await?))
    })
    .await
}
