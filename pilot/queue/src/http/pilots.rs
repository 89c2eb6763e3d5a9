//! What pilots ask, and the list of pilots.

use super::{Asked, Hold, Id, Input, MAX_WAIT, PilotDn, User, until};
use crate::problem::Refusal;
use crate::state::{Queue, blocking, detached};
use crate::store::leases::{Room, worth_claiming};
use crate::store::{self, delegations, now, payloads};
use crate::{problem, proxies, validate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pilot_api::{
    AttemptResult, Bye, CertificateRequest, Claim, Claimed, Pilot, Registered, Registration, SignedChain,
    Sync, Synced,
};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

type Shared = State<Arc<Queue>>;

/// `POST /v1/pilots`
pub async fn register(
    State(queue): Shared,
    PilotDn(dn): PilotDn,
    Input(registration): Input<Registration>,
) -> Result<(StatusCode, Json<Registered>), Refusal> {
    let registration = validate::registration(registration)?;
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let (lease_ms, heartbeat_ms) = (millis(queue.settings.lease), millis(queue.settings.heartbeat()));
    let pilot = detached(async move {
        let mut tx = queue.store.begin().await?;
        let pilot = store::pilots::register(&mut tx, &dn, &registration).await?;
        queue.publish(tx.commit().await?);
        queue.pilot_clock.set(pilot, Instant::now() + queue.settings.silence());
        Ok(pilot)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(Registered { pilot, lease_ms, heartbeat_ms })))
}

/// `GET /v1/pilots`
pub async fn list(State(queue): Shared, _: User) -> Result<Json<Vec<Pilot>>, Refusal> {
    Ok(Json(store::pilots::list(&mut *queue.store.read().await?).await?))
}

/// `POST /v1/pilots/{p}/claim`: asks the store at once, then each time a bell rings and a cheap look promises success.
pub async fn claim(
    State(queue): Shared,
    PilotDn(dn): PilotDn,
    Id(id): Id,
    Asked(asked): Asked<Hold>,
    Input(claim): Input<Claim>,
) -> Result<Json<Claimed>, Refusal> {
    let deadline = until(asked.wait, queue.settings.lease.min(MAX_WAIT));
    let mut promising = true;
    loop {
        let own = queue.pilot_bells.of(id);
        let (mut work, mut news) = (std::pin::pin!(queue.work.notified()), std::pin::pin!(own.notified()));
        work.as_mut().enable();
        news.as_mut().enable();
        if promising {
            let (queue, dn, claim) = (queue.clone(), dn.clone(), claim.clone());
            let leases = detached(async move { queue.claim(id, &dn, &claim).await }).await?;
            if !leases.is_empty() {
                return Ok(Json(Claimed { leases }));
            }
        }
        tokio::select! {
            () = queue.over(deadline) => return Ok(Json(Claimed { leases: Vec::new() })),
            () = work => {}
            () = news => {}
        }
        promising = is_promising(&queue, id, &dn, &claim).await?;
    }
}

async fn is_promising(queue: &Queue, id: Uuid, dn: &str, claim: &Claim) -> Result<bool, Refusal> {
    let mut conn = queue.store.read().await?;
    let pilot = store::pilots::find(&mut conn, id, dn).await?;
    Ok(!pilot.drain && worth_claiming(&mut conn, Room::of(claim, &pilot)).await?)
}

/// `POST /v1/pilots/{p}/sync`
pub async fn sync(
    State(queue): Shared,
    PilotDn(dn): PilotDn,
    Id(id): Id,
    Asked(asked): Asked<Hold>,
    Input(body): Input<Sync>,
) -> Result<Json<Synced>, Refusal> {
    validate::sync(&body)?;
    let deadline = until(asked.wait, queue.settings.heartbeat());
    let bell = queue.pilot_bells.of(id);
    // Enabled before the first look, so that nothing that happens from here on is missed.
    let mut rung = Box::pin(bell.notified());
    rung.as_mut().enable();
    let (body, mut answer) = {
        let (queue, dn) = (queue.clone(), dn.clone());
        detached(async move { queue.sync(id, &dn, &body).await.map(|answer| (body, answer)) }).await?
    };
    while !queue.is_news(&answer, &body) && Instant::now() < deadline {
        let timed_out = tokio::select! {
            () = queue.over(deadline) => true,
            () = rung => false,
        };
        rung = Box::pin(bell.notified());
        rung.as_mut().enable();
        answer = queue.peek(id, &dn, &body).await?;
        if timed_out {
            break;
        }
    }
    queue.note_told(&answer);
    Ok(Json(answer))
}

/// `POST /v1/pilots/{p}/drain`
pub async fn drain(State(queue): Shared, PilotDn(dn): PilotDn, Id(id): Id) -> Result<StatusCode, Refusal> {
    detached(async move {
        let mut tx = queue.store.begin().await?;
        store::pilots::find(tx.conn(), id, &dn).await?;
        store::pilots::drain(&mut tx, id).await?;
        queue.publish(tx.commit().await?);
        tracing::info!(pilot = %id, actor = dn, "pilot told to drain");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// `POST /v1/pilots/{p}/bye`
pub async fn bye(
    State(queue): Shared,
    PilotDn(dn): PilotDn,
    Id(id): Id,
    Input(bye): Input<Bye>,
) -> Result<StatusCode, Refusal> {
    let reason = identity::one_line(&bye.reason);
    detached(async move { queue.bye(id, &dn, &reason).await.map(|()| StatusCode::NO_CONTENT) }).await
}

/// `POST /v1/attempts/{a}/delegation`
pub async fn delegation(
    State(queue): Shared,
    PilotDn(dn): PilotDn,
    Id(attempt): Id,
    Input(request): Input<CertificateRequest>,
) -> Result<Json<SignedChain>, Refusal> {
    let open = queue.entitled(attempt, request.lease, &dn).await?;
    let mut conn = queue.store.read().await?;
    let delegated = delegations::of_payload(&mut conn, open.payload).await?;
    let walltime = payloads::walltime(&mut conn, open.payload).await?;
    drop(conn);
    let Some(lifetime) = proxies::lifetime(delegated.not_after, now(), walltime) else {
        let title = "the user's delegated proxy has expired; report the attempt as infra";
        return Err(problem::conflict("proxy_expired", title));
    };
    let limited = queue.settings.limited;
    let chain = blocking(move || proxies::sign(&request.csr, &delegated, lifetime, limited)).await?;
    let (payload, pilot, seconds) = (open.payload, open.pilot, lifetime.as_secs());
    tracing::info!(%payload, %attempt, %pilot, actor = dn, lifetime = seconds, "proxy delegated to the pilot");
    Ok(Json(SignedChain { chain }))
}

/// `POST /v1/attempts/{a}/result`
pub async fn result(
    State(queue): Shared,
    PilotDn(dn): PilotDn,
    Id(attempt): Id,
    Input(result): Input<AttemptResult>,
) -> Result<StatusCode, Refusal> {
    let result = validate::result(result)?;
    detached(async move { queue.result(attempt, &dn, &result).await.map(|()| StatusCode::NO_CONTENT) }).await
}
