//! What users ask.

use super::{Asked, Id, Input, User, until};
use crate::problem::Refusal;
use crate::state::{Queue, blocking, detached};
use crate::store::{delegations, payloads};
use crate::{problem, proxies, validate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pilot_api::{Delegation, Event, Payload, PayloadState, Release, SignedChain, Submission, Submitted};
use pilot_core::rules::PayloadEvent;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

type Shared = State<Arc<Queue>>;

/// `POST /v1/delegations`
pub async fn delegate(State(queue): Shared, user: User) -> Result<(StatusCode, Json<Delegation>), Refusal> {
    user.full()?;
    let (key, csr) = blocking(proxies::request).await?;
    let id = Uuid::now_v7();
    detached(async move {
        let mut tx = queue.store.begin().await?;
        delegations::create(&mut tx, id, user.dn(), &key).await?;
        queue.publish(tx.commit().await?);
        tracing::info!(delegation = %id, actor = user.dn(), "delegation requested");
        Ok(())
    })
    .await?;
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
    let found = delegations::find(&mut *queue.store.read().await?, id, user.dn()).await?;
    let (peer, trust) = (user.0.clone(), queue.settings.trust.clone());
    let (chain, not_after) =
        blocking(move || proxies::accept(&signed.chain, &found.key, &peer, &trust)).await?;
    if found.chain.is_some() {
        let same = found.chain.as_ref() == Some(&chain);
        let title = "this delegation has been signed before; start a new one";
        return if same {
            Ok(StatusCode::NO_CONTENT)
        } else {
            Err(problem::conflict("already_signed", title))
        };
    }
    detached(async move {
        let mut tx = queue.store.begin().await?;
        if !delegations::complete(&mut tx, id, &chain, not_after).await? {
            return Err(problem::conflict("already_signed", "this delegation has been signed meanwhile"));
        }
        queue.publish(tx.commit().await?);
        tracing::info!(delegation = %id, actor = user.dn(), not_after, "delegation signed");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// `POST /v1/payloads`
pub async fn submit(
    State(queue): Shared,
    user: User,
    Input(submission): Input<Submission>,
) -> Result<(StatusCode, Json<Submitted>), Refusal> {
    user.full()?;
    let submission = validate::submission(submission, queue.settings.max_array)?;
    let ids = detached(async move {
        let mut tx = queue.store.begin().await?;
        delegations::check_usable(tx.conn(), submission.delegation, user.dn()).await?;
        for input in &submission.spec.inputs {
            let size = delegations::blob_of(tx.conn(), &input.sha256, user.dn()).await?;
            if size != Some(input.size) {
                let path = identity::one_line(&input.path);
                let title =
                    format!("input {path:?}: upload {} with {} bytes first", input.sha256, input.size);
                return Err(problem::unsatisfiable("blob_missing", title));
            }
        }
        let ids = payloads::submit(&mut tx, user.dn(), &submission).await?;
        queue.publish(tx.commit().await?);
        Ok(ids)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(Submitted { ids })))
}

/// How many payloads to list.
#[derive(Debug, Deserialize)]
pub struct Limit {
    #[serde(default = "thousand")]
    limit: u32,
}

fn thousand() -> u32 {
    1000
}

/// `GET /v1/payloads`
pub async fn list(
    State(queue): Shared,
    user: User,
    Asked(asked): Asked<Limit>,
) -> Result<Json<Vec<Payload>>, Refusal> {
    let mut conn = queue.store.read().await?;
    Ok(Json(payloads::list(&mut conn, user.dn(), asked.limit.min(100_000)).await?))
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
        let bell = queue.payload_bells.of(id);
        let mut rung = std::pin::pin!(bell.notified());
        rung.as_mut().enable();
        let payload = payloads::show(&mut *queue.store.read().await?, id, user.dn()).await?;
        let changed = asked.end == 0 && before.is_some_and(|b| b != payload.state);
        let timed_out = payload.state.is_final()
            || changed
            || tokio::select! {
                () = queue.over(deadline) => true,
                () = rung => false,
            };
        if timed_out {
            return Ok(Json(payload));
        }
        before = before.or(Some(payload.state));
    }
}

/// `GET /v1/payloads/{id}/events`
pub async fn events(State(queue): Shared, user: User, Id(id): Id) -> Result<Json<Vec<Event>>, Refusal> {
    let mut conn = queue.store.read().await?;
    payloads::check_owner(&mut conn, id, user.dn()).await?;
    Ok(Json(payloads::events(&mut conn, id).await?))
}

/// `POST /v1/payloads/{id}/cancel`
pub async fn cancel(queue: Shared, user: User, id: Id) -> Result<Json<Payload>, Refusal> {
    change(queue, user, id, PayloadEvent::Cancel, None).await
}

/// `POST /v1/payloads/{id}/hold`
pub async fn hold(queue: Shared, user: User, id: Id) -> Result<Json<Payload>, Refusal> {
    change(queue, user, id, PayloadEvent::Hold, None).await
}

/// `POST /v1/payloads/{id}/release`
pub async fn release(
    queue: Shared,
    user: User,
    id: Id,
    Input(body): Input<Release>,
) -> Result<Json<Payload>, Refusal> {
    change(queue, user, id, PayloadEvent::Release, body.delegation).await
}

async fn change(
    State(queue): Shared,
    user: User,
    Id(id): Id,
    event: PayloadEvent,
    delegation: Option<Uuid>,
) -> Result<Json<Payload>, Refusal> {
    user.full()?;
    detached(async move {
        queue.user_event(id, user.dn(), event, delegation).await?;
        Ok(Json(payloads::show(&mut *queue.store.read().await?, id, user.dn()).await?))
    })
    .await
}
