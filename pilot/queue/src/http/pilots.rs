//! Calls of pilots: registration, claims, heartbeats, results, good-bye; and the list of pilots for operators.

use super::problem::{self, Refusal};
use super::{Asked, FactoryDn, Hold, Id, Input, MAX_WAIT, PilotDn, User, blocking, detached, until};
use crate::engine::now;
use crate::files::Small;
use crate::state::Queue;
use crate::{proxies, validate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pilot_api::{
    AttemptResult, Bye, CertificateRequest, Claim, Claimed, ClaimedRun, Demand, Heartbeat, HeartbeatReply,
    Lease, NamedResult, PAGE, Pilot, RefusedPilot, Registered, Registration, ResultAnswer, SignedChain,
};
use pilot_core::capacity::MOST_AHEAD;
use pilot_core::event::{ByPilot, Holder, Register};
use pilot_core::{Answer, Event, Need, View, model};
use pilot_store::{Runs, Store};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

type Shared = State<Arc<Queue>>;

fn by(pilot: Uuid, holder: &Holder) -> ByPilot {
    ByPilot { pilot, dn: holder.dn.clone(), secret: holder.secret.clone() }
}

/// The payload of an attempt, for whoever shows its lease in force.
pub async fn entitled(
    queue: &Queue,
    attempt: Uuid,
    lease: Uuid,
    holder: &Holder,
) -> Result<model::Payload, Refusal> {
    let mut view = View::default();
    queue.store.load(&mut view, &Need::Attempts(vec![attempt])).await?;
    Ok(pilot_core::entitled(&view, attempt, lease, holder)?.clone())
}

/// `POST /v1/pilots`
pub async fn register(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    user: User,
    Input(registration): Input<Registration>,
) -> Result<(StatusCode, Json<Registered>), Refusal> {
    let registration = validate::registration(registration)?;
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let (lease_ms, heartbeat_ms) = (millis(queue.settings.lease), millis(queue.settings.heartbeat()));
    let pilot = registration.id.unwrap_or_else(Uuid::now_v7);
    tracing::info!(%pilot, actor = holder.dn, host = registration.host, "pilot registers");
    let Holder { dn, secret } = holder;
    let (host, switching) = (registration.host.clone(), queue.switching(&user.0));
    let event =
        Event::Register(Box::new(Register { id: pilot, dn: dn.clone(), registration, secret, switching }));
    let q = queue.clone();
    let registered = detached(async move { Ok(q.decide(event).await?) }).await;
    registered.inspect_err(|refusal| note_unswitched(&queue, refusal, host, dn))?;
    let (most_ahead, most_attached) = (MOST_AHEAD, validate::MOST_ATTACHED);
    Ok((StatusCode::CREATED, Json(Registered { pilot, lease_ms, heartbeat_ms, most_ahead, most_attached })))
}

/// Whoever looks for that pilot in vain shall find why it is not there.
fn note_unswitched(queue: &Queue, refusal: &Refusal, host: String, dn: String) {
    if refusal.code == "must_switch" {
        tracing::warn!(actor = dn, host, "pilot refused: it does not switch");
        queue.note_refused(RefusedPilot { host, dn, at: now() / 1000, reason: refusal.title.clone() });
    }
}

/// `GET /v1/pilots`: those of the last day.
pub async fn list(State(queue): Shared, user: User) -> Result<Json<Vec<Pilot>>, Refusal> {
    let _turn = queue.lists.turn(user.dn()).await;
    Ok(Json(queue.store.pilots(now().saturating_sub(86_400_000)).await?))
}

/// `GET /v1/demand`
pub async fn demand(State(queue): Shared, _: FactoryDn) -> Result<Json<Vec<Demand>>, Refusal> {
    Ok(Json(queue.store.demand().await?))
}

/// Which ended attempts to tell of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedRuns {
    #[serde(default)]
    since: u64,
    #[serde(default = "forever")]
    until: u64,
    after: Option<Uuid>,
}

fn forever() -> u64 {
    u64::MAX
}

/// `GET /v1/runs`
pub async fn runs(
    State(queue): Shared,
    FactoryDn(asker): FactoryDn,
    Asked(asked): Asked<AskedRuns>,
) -> Result<Json<Vec<ClaimedRun>>, Refusal> {
    let _turn = queue.lists.turn(&asker).await;
    let AskedRuns { since, until, after } = asked;
    Ok(Json(queue.store.runs(&Runs { since, until, after, limit: PAGE }).await?))
}

/// `POST /v1/pilots/{p}/claim`: asks the writer at once, then each time there is news and a look promises success.
pub async fn claim(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    user: User,
    Id(id): Id,
    Asked(asked): Asked<Hold>,
    Input(mut claim): Input<Claim>,
) -> Result<Json<Claimed>, Refusal> {
    validate::claim(&claim)?;
    let requests = std::mem::take(&mut claim.requests);
    let deadline = until(asked.wait, queue.settings.lease.min(MAX_WAIT));
    let (by, switching) = (by(id, &holder), queue.switching(&user.0));
    let mut promising = true;
    loop {
        let own = queue.effects.pilot_waiters.of(id);
        let (mut work, mut news) =
            (std::pin::pin!(queue.effects.work.notified()), std::pin::pin!(own.notified()));
        work.as_mut().enable();
        news.as_mut().enable();
        while promising {
            let event =
                Queue::ask(&by, &claim, &switching).map_err(|e| problem::internal("randomness", &e))?;
            let writer = queue.clone();
            let done = detached(async move { Ok(writer.decide(event).await?) }).await?;
            match done.answer {
                Answer::Leased(given) if !given.is_empty() => {
                    let mut leases = leases(given, &done.specs)?;
                    with_proxies(&queue, &holder, &mut leases, requests).await;
                    return Ok(Json(Claimed { leases }));
                }
                Answer::AskAgain => {}
                _ => promising = false,
            }
        }
        tokio::select! {
            () = queue.over(deadline) => return Ok(Json(Claimed { leases: Vec::new() })),
            () = work => {}
            () = news => {}
        }
        let event = Queue::ask(&by, &claim, &switching).map_err(|e| problem::internal("randomness", &e))?;
        promising = match queue.look(&event).await? {
            Answer::Leased(given) => !given.is_empty(),
            answer => answer == Answer::AskAgain,
        };
    }
}

fn leases(
    given: Vec<pilot_core::change::Given>,
    specs: &[(i64, pilot_api::RawSpec)],
) -> Result<Vec<Lease>, Refusal> {
    let lease = |g: pilot_core::change::Given| {
        let spec = specs.iter().find(|(key, _)| *key == g.spec).map(|(_, spec)| {
            let mut spec = spec.clone();
            g.requirements.put_into(&mut spec);
            spec
        });
        Ok(Lease {
            lease: g.lease,
            attempt: g.attempt,
            number: g.number,
            payload: g.payload,
            owner: g.owner,
            spec: spec.ok_or_else(|| problem::internal("a claim", &"a specification is missing"))?,
            array_index: g.array_index,
            chain: None,
        })
    };
    given.into_iter().map(lease).collect()
}

/// Signs what came with the claim. A lease that gets no proxy here is valid all the same: its pilot asks for one by itself, and
/// is told then why it gets none.
async fn with_proxies(queue: &Arc<Queue>, holder: &Holder, leases: &mut [Lease], requests: Vec<String>) {
    for (lease, csr) in leases.iter_mut().zip(requests) {
        let (payload, walltime) = (lease.payload, lease.spec.walltime);
        match proxy(queue, holder, (payload, lease.attempt), walltime, csr).await {
            Ok(signed) => lease.chain = Some(signed.chain),
            Err(refusal) => {
                let why = identity::one_line(&refusal.0.title);
                tracing::info!(%payload, attempt = %lease.attempt, why, "no proxy with the lease");
            }
        }
    }
}

fn reply(answer: Answer) -> Result<HeartbeatReply, Refusal> {
    match answer {
        Answer::Heartbeat(reply) => Ok(reply),
        other => Err(problem::internal("a heartbeat", &format!("{other:?}"))),
    }
}

/// `POST /v1/pilots/{p}/sync`
pub async fn sync(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Id(id): Id,
    Asked(asked): Asked<Hold>,
    Input(body): Input<Heartbeat>,
) -> Result<Json<HeartbeatReply>, Refusal> {
    validate::sync(&body)?;
    let deadline = until(asked.wait, queue.settings.heartbeat());
    let waiter = queue.effects.pilot_waiters.of(id);
    // Enabled before the first look, so that nothing that happens from here on is missed.
    let mut news = Box::pin(waiter.notified());
    news.as_mut().enable();
    let event = Event::Heartbeat(by(id, &holder), body.clone());
    let (q, renewing) = (queue.clone(), event.clone());
    let mut answer = reply(detached(async move { Ok(q.decide(renewing).await?) }).await?.answer)?;
    while !queue.is_news(&answer, &body) && Instant::now() < deadline {
        let timed_out = tokio::select! {
            () = queue.over(deadline) => true,
            () = news => false,
        };
        news = Box::pin(waiter.notified());
        news.as_mut().enable();
        answer = reply(queue.look(&event).await?)?;
        if timed_out {
            break;
        }
    }
    queue.note_told(&answer, &body.acked);
    Ok(Json(answer))
}

/// `POST /v1/pilots/{p}/drain`
pub async fn drain(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Id(id): Id,
) -> Result<StatusCode, Refusal> {
    let event = Event::Drain(by(id, &holder));
    detached(async move { Ok(queue.decide(event).await?) }).await?;
    tracing::info!(pilot = %id, actor = holder.dn, "pilot told to drain");
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/pilots/{p}/bye`
pub async fn bye(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Id(id): Id,
    Input(bye): Input<Bye>,
) -> Result<StatusCode, Refusal> {
    let event = Event::Leave(by(id, &holder), identity::one_line(&bye.reason), bye.failed);
    detached(async move { Ok(queue.decide(event).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/attempts/{a}/delegation`
pub async fn delegation(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Id(attempt): Id,
    Input(request): Input<CertificateRequest>,
) -> Result<Json<SignedChain>, Refusal> {
    let payload = entitled(&queue, attempt, request.lease, &holder).await?;
    let walltime = payload.requirements.walltime;
    proxy(&queue, &holder, (payload.id, attempt), walltime, request.csr).await.map(Json)
}

/// Signs a request with the payload's delegated proxy.
async fn proxy(
    queue: &Arc<Queue>,
    holder: &Holder,
    (payload, attempt): (Uuid, Uuid),
    walltime: Option<u64>,
    csr: String,
) -> Result<SignedChain, Refusal> {
    let key = queue.store.key_of_payload(payload).await?;
    let key = key.ok_or_else(|| problem::unknown("delegation"))?;
    let Some(lifetime) = proxies::lifetime(key.not_after, now() / 1000, walltime) else {
        let title = "the user's delegated proxy has expired; report the attempt as infra";
        return Err(problem::conflict("proxy_expired", title));
    };
    let limited = queue.settings.limited;
    let chain = blocking(move || proxies::sign(&csr, &key, lifetime, limited)).await?;
    let seconds = lifetime.as_secs();
    tracing::info!(%payload, %attempt, actor = holder.dn, lifetime = seconds, "proxy delegated to the pilot");
    Ok(SignedChain { chain })
}

/// `POST /v1/attempts/{a}/result`
pub async fn result(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Id(attempt): Id,
    Input(result): Input<AttemptResult>,
) -> Result<StatusCode, Refusal> {
    let result = validate::result(result)?;
    let outcome = result.outcome;
    let event = Event::Results(holder.clone(), vec![(attempt, result)]);
    let done = detached(async move { Ok(queue.decide(event).await?) }).await?;
    match done.answer {
        Answer::Results(mut results) => match results.pop() {
            Some(Ok(())) => Ok(StatusCode::NO_CONTENT),
            Some(Err(refused)) => {
                tracing::info!(%attempt, actor = holder.dn, %outcome, "report refused");
                Err(refused.into())
            }
            None => Err(problem::internal("a result", &"no answer")),
        },
        other => Err(problem::internal("a result", &format!("{other:?}"))),
    }
}

/// Most results of one call.
const MOST_RESULTS: usize = 1000;

/// `POST /v1/results`: each is judged by itself. What a result brings along is durable before the result counts.
pub async fn results(
    State(queue): Shared,
    PilotDn(holder): PilotDn,
    Input(named): Input<Vec<NamedResult>>,
) -> Result<Json<Vec<ResultAnswer>>, Refusal> {
    if named.len() > MOST_RESULTS {
        return Err(problem::invalid(format!("at most {MOST_RESULTS} results at once; send them in parts")));
    }
    let check = |named: NamedResult| {
        let NamedResult { attempt, lease, outcome, returned, report, attached } = named;
        let checked = validate::result(AttemptResult { lease, outcome, returned, report });
        let checked = checked.and_then(|valid| Ok((valid, validate::attached(&attached)?)));
        (attempt, checked.map_err(Refusal::from))
    };
    let mut checked: Vec<_> = named.into_iter().map(check).collect();
    keep_attached(&queue, &holder, &mut checked).await?;
    let mut results = Vec::with_capacity(checked.len());
    let sort_out = |(attempt, checked): (Uuid, Result<(AttemptResult, Small), Refusal>)| {
        let valid = checked.map(|(valid, _)| results.push((attempt, valid)));
        ResultAnswer { attempt, problem: valid.err().map(|invalid| invalid.0) }
    };
    let mut answers: Vec<ResultAnswer> = checked.into_iter().map(sort_out).collect();
    let event = Event::Results(holder, results);
    match detached(async move { Ok(queue.decide(event).await?) }).await?.answer {
        Answer::Results(decided) => {
            // Those that were valid were decided, in their order.
            let valid = answers.iter_mut().filter(|answer| answer.problem.is_none());
            for (answer, decided) in valid.zip(decided) {
                answer.problem = decided.err().map(|refused| Refusal::from(refused).0);
            }
            Ok(Json(answers))
        }
        other => Err(problem::internal("results", &format!("{other:?}"))),
    }
}

/// A result as far as it has been looked at.
type Checked = (Uuid, Result<(AttemptResult, Small), Refusal>);

/// Stores what came along, for those whose lease is in force; the others are told so by the decision. What cannot be stored
/// refuses its own result.
async fn keep_attached(queue: &Arc<Queue>, holder: &Holder, checked: &mut [Checked]) -> Result<(), Refusal> {
    let brings = |one: &&mut Checked| one.1.as_ref().is_ok_and(|(_, small)| *small != Small::default());
    let ids: Vec<Uuid> = checked.iter_mut().filter(brings).map(|(attempt, _)| *attempt).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut view = View::default();
    queue.store.load(&mut view, &Need::Attempts(ids)).await?;
    let mut keeping = tokio::task::JoinSet::new();
    for (place, (attempt, one)) in checked.iter_mut().enumerate() {
        let Ok((result, small)) = one else { continue };
        let small = std::mem::take(small);
        if small == Small::default() || pilot_core::entitled(&view, *attempt, result.lease, holder).is_err() {
            continue;
        }
        let limit = queue.settings.max_blob;
        if small.output.as_ref().is_some_and(|output| output.len() as u64 > limit) {
            *one = Err(problem::too_large("output", limit));
            continue;
        }
        let (queue, attempt) = (queue.clone(), *attempt);
        // Side by side: a disk makes many files durable in the time of one.
        keeping.spawn(async move {
            let q = queue.clone();
            let kept = blocking(move || q.files.keep_attached(attempt, &small)).await;
            queue.effects.log_waiters.ring(attempt);
            (place, kept)
        });
    }
    while let Some(kept) = keeping.join_next().await {
        let (place, kept) = kept.map_err(|e| problem::internal("a task", &e))?;
        if let Err(refusal) = kept {
            checked[place].1 = Err(refusal);
        }
    }
    Ok(())
}
