//! What happens to one payload: holds, releases, cancels, ends, lost leases.

use crate::change::{Answer, Change, Effect, Ended, History, Opened, Refused};
use crate::decide::Plan;
use crate::event::{ByOwner, Holder};
use crate::growth::{Growth, growth};
use crate::model::{Delegation, OpenLease, Payload, Terms, View};
use crate::pilots::is_holder;
use crate::rules::{self, Consequence, MAX_RETURNS, PayloadEvent, PayloadFacts};
use pilot_api::{AttemptResult, Outcome, Report};
use uuid::Uuid;

/// How long hosts that have failed a payload are avoided after the last of them has, in milliseconds.
const AVOID: u64 = 600_000;

/// Who did it, and what the history and the owner read of it.
pub struct Cause<'a> {
    /// DN of the user or pilot, or `queue`.
    pub actor: &'a str,
    /// For the history, one line.
    pub text: &'a str,
    /// Why the payload is in its state; replaces what was said before.
    pub reason: Option<&'a str>,
}

/// What the consequences of a step need that the rules do not know.
pub enum Means<'a> {
    /// Nothing: no attempt begins or ends.
    None,
    /// The ids of a new attempt.
    Open(Opened),
    /// How the attempt ended.
    End(&'a OpenLease, End<'a>),
    /// The id of an order.
    Order(Uuid),
}

/// How an attempt ends.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// Its class.
    pub outcome: Outcome,
    /// What the pilot reported; `None` when it did not.
    pub report: Option<&'a Report>,
    /// DN of the pilot, or `queue`.
    pub actor: &'a str,
    /// Why, when the report does not say.
    pub why: &'a str,
    /// Whether the pilot hands the payload back in order.
    pub returned: bool,
}

/// A payload as the rules see it.
pub fn facts(payload: &Payload) -> PayloadFacts {
    PayloadFacts {
        state: payload.state,
        attempts: payload.attempts,
        returns: payload.returns,
        cancel_wanted: payload.cancel_wanted,
    }
}

/// Applies the rules to a payload and carries every consequence over into the plan.
pub fn step(
    plan: &mut Plan,
    terms: &Terms,
    payload: &Payload,
    event: PayloadEvent,
    cause: &Cause<'_>,
    means: &Means<'_>,
) -> Result<(), Refused> {
    let before = facts(payload);
    let step = rules::payload(&before, event, terms.max_attempts).map_err(Refused::Illegal)?;
    if !step.changes(&before) {
        return Ok(());
    }
    for consequence in &step.effects {
        match (consequence, means) {
            (Consequence::OfferWork, _) => plan.effects.push(Effect::OfferWork),
            (Consequence::StartAttempt(number), Means::Open(opened)) => open(plan, *number, opened),
            (Consequence::EndAttempt(outcome), Means::End(lease, end)) => {
                close(plan, payload, lease, &End { outcome: *outcome, ..*end });
            }
            (Consequence::AskCancel, Means::Order(id)) => order(plan, payload, *id),
            // An event that begins or ends an attempt comes with what that needs; without it, nothing may happen.
            (Consequence::StartAttempt(_), Means::None | Means::End(..) | Means::Order(_))
            | (Consequence::EndAttempt(_), Means::None | Means::Open(_) | Means::Order(_))
            | (Consequence::AskCancel, Means::None | Means::Open(_) | Means::End(..)) => {
                return Err(Refused::Illegal(rules::illegal(&before, event)));
            }
        }
    }
    plan.changes.push(Change::Payload {
        id: payload.id,
        state: step.state,
        cancel_wanted: step.cancel_wanted,
        reason: cause.reason.map(one_line),
    });
    plan.changes.push(Change::History(History {
        payload: payload.id,
        attempt: match means {
            Means::Open(opened) => Some(opened.attempt),
            Means::End(lease, _) => Some(lease.attempt),
            Means::Order(_) => None,
            Means::None => payload.lease.as_ref().map(|l| l.attempt),
        },
        at: plan.now,
        actor: cause.actor.to_owned(),
        state: step.state,
        cause: one_line(cause.text),
    }));
    if let Some(url) = &payload.notify {
        plan.changes.push(Change::Notice { payload: payload.id, url: url.clone() });
        plan.effects.push(Effect::SendNotices);
    }
    plan.effects.push(Effect::PayloadChanged(payload.id));
    Ok(())
}

fn one_line(text: &str) -> String {
    identity::one_line(text)
}

fn open(plan: &mut Plan, number: u32, opened: &Opened) {
    plan.changes.push(Change::Opened(Opened { number, ..opened.clone() }));
    plan.effects.push(Effect::Watch { lease: opened.lease, renewed: opened.at });
}

fn close(plan: &mut Plan, payload: &Payload, lease: &OpenLease, end: &End<'_>) {
    let avoid = (end.outcome == Outcome::Infra && !end.returned).then(|| {
        let before = payload.avoid.iter().flat_map(|(hosts, _)| hosts).filter(|host| **host != lease.host);
        (before.cloned().chain([lease.host.clone()]).collect(), plan.now.saturating_add(AVOID))
    });
    plan.changes.push(Change::Ended(Box::new(Ended {
        payload: payload.id,
        attempt: lease.attempt,
        lease: lease.id,
        outcome: end.outcome,
        report: end.report.cloned(),
        returned: end.returned,
        avoid,
        at: plan.now,
    })));
    plan.effects.push(Effect::Unwatch(lease.id));
    plan.effects.push(Effect::PilotNews(lease.pilot));
}

fn order(plan: &mut Plan, payload: &Payload, id: Uuid) {
    if let Some(lease) = &payload.lease {
        plan.changes.push(Change::Ordered { id, lease: lease.id, at: plan.now });
        plan.effects.push(Effect::PilotNews(lease.pilot));
    }
}

fn of_owner<'a>(view: &'a View, by: &ByOwner) -> Result<&'a Payload, Refused> {
    view.payload.as_ref().filter(|p| p.owner == by.user).ok_or(Refused::Unknown("payload"))
}

pub(crate) fn hold(plan: &mut Plan, view: &View, by: &ByOwner) -> Result<Answer, Refused> {
    let text = "held by its owner";
    let cause = Cause { actor: &by.user, text, reason: Some(text) };
    step(plan, &view.terms, of_owner(view, by)?, PayloadEvent::Hold, &cause, &Means::None)?;
    Ok(Answer::Done)
}

/// Holds a payload whose delegated proxy has expired.
pub(crate) fn hold_expired(plan: &mut Plan, terms: &Terms, payload: &Payload) -> Result<(), Refused> {
    let text = "its delegated proxy has expired; delegate a new one and release the payload";
    let cause = Cause { actor: "queue", text, reason: Some(text) };
    step(plan, terms, payload, PayloadEvent::Hold, &cause, &Means::None)
}

pub(crate) fn release(
    plan: &mut Plan,
    view: &View,
    by: &ByOwner,
    delegation: Option<Uuid>,
) -> Result<Answer, Refused> {
    let payload = of_owner(view, by)?;
    if let Some(delegation) = delegation {
        usable(view.delegation.as_ref(), &by.user, plan.seconds())?;
        plan.changes.push(Change::Delegated { payload: payload.id, delegation });
    }
    let cause = Cause { actor: &by.user, text: "released by its owner", reason: None };
    step(plan, &view.terms, payload, PayloadEvent::Release, &cause, &Means::None)?;
    Ok(Answer::Done)
}

/// Fails unless the user owns the delegation and it can be used now (seconds).
pub fn usable(delegation: Option<&Delegation>, owner: &str, now: u64) -> Result<(), Refused> {
    let found = delegation.filter(|d| d.owner == owner).ok_or(Refused::Unknown("delegation"))?;
    if found.chain.is_none() {
        return Err(Refused::DelegationIncomplete);
    }
    if found.not_after <= now {
        return Err(Refused::DelegationExpired);
    }
    Ok(())
}

pub(crate) fn cancel(plan: &mut Plan, view: &View, by: &ByOwner, id: Uuid) -> Result<Answer, Refused> {
    let cause = Cause { actor: &by.user, text: "cancel wanted", reason: Some("cancelled by its owner") };
    step(plan, &view.terms, of_owner(view, by)?, PayloadEvent::Cancel, &cause, &Means::Order(id))?;
    Ok(Answer::Done)
}

/// Each result is decided by itself; one that is refused costs the others nothing.
pub(crate) fn results(
    plan: &mut Plan,
    view: &View,
    by: &Holder,
    results: &[(Uuid, AttemptResult)],
) -> Result<Answer, Refused> {
    let mut ended: Vec<Uuid> = Vec::new();
    let mut answers = Vec::with_capacity(results.len());
    for (attempt, result) in results {
        let repeated = ended.contains(attempt);
        let answer = if repeated { Ok(()) } else { one_result(plan, view, by, *attempt, result) };
        if answer.is_ok() {
            ended.push(*attempt);
        }
        answers.push(answer);
    }
    Ok(Answer::Results(answers))
}

/// A pilot's final word on an attempt; the same word again is fine, a word after the lease is not.
fn one_result(
    plan: &mut Plan,
    view: &View,
    by: &Holder,
    attempt: Uuid,
    result: &AttemptResult,
) -> Result<(), Refused> {
    let found = view.attempts.iter().find(|a| a.id == attempt && a.dn == by.dn);
    let found = found.ok_or(Refused::Unknown("attempt"))?;
    is_holder(found.secret.as_deref(), by.secret.as_deref())?;
    if found.lease != result.lease {
        return Err(Refused::Superseded);
    }
    match &found.payload {
        Some(payload) => {
            let returned = result.returned;
            let end = End {
                outcome: result.outcome,
                report: Some(&result.report),
                actor: &by.dn,
                why: "",
                returned,
            };
            match outgrown(view, payload, &end) {
                Some(Ok(more)) => grow(plan, &view.terms, payload, end, &more),
                Some(Err(why)) => {
                    let reason = end.report.and_then(|r| r.reason.as_deref()).unwrap_or_default();
                    let report = Report { reason: Some(format!("{reason}; {why}")), ..result.report.clone() };
                    end_attempt(plan, &view.terms, payload, End { report: Some(&report), ..end })
                }
                None => end_attempt(plan, &view.terms, payload, end),
            }
        }
        None if found.reported => Ok(()),
        None => Err(Refused::Superseded),
    }
}

/// What a payload gets that reached a limit and asked for another try with more.
fn outgrown(view: &View, payload: &Payload, end: &End<'_>) -> Option<Result<Growth, String>> {
    if end.outcome != Outcome::Limit || end.returned || payload.cancel_wanted {
        return None;
    }
    let reached = end.report?.limit.as_ref()?;
    let more = growth(payload, reached, &view.largest)?;
    Some(more.and_then(|more| {
        let again = rules::may_try_again(&facts(payload), view.terms.max_attempts);
        if again { Ok(more) } else { Err("not tried again: all attempts are used up".to_owned()) }
    }))
}

fn grow(
    plan: &mut Plan,
    terms: &Terms,
    payload: &Payload,
    end: End<'_>,
    more: &Growth,
) -> Result<(), Refused> {
    let Some(lease) = &payload.lease else { return Err(Refused::Superseded) };
    let why = end.report.and_then(|r| r.reason.as_deref()).unwrap_or_default();
    let counted = lease.number.saturating_sub(payload.returns);
    let text = explain(end.outcome.as_str(), counted, terms.max_attempts, &format!("{why}; {}", more.said));
    let cause = Cause { actor: end.actor, text: &text, reason: Some(&text) };
    plan.changes.push(Change::Grown { payload: payload.id, requirements: more.requirements });
    step(plan, terms, payload, PayloadEvent::Grow, &cause, &Means::End(lease, end))
}

/// Ends the attempt that holds a payload; afterwards the payload is final or waits again.
pub(crate) fn end_attempt(
    plan: &mut Plan,
    terms: &Terms,
    payload: &Payload,
    end: End<'_>,
) -> Result<(), Refused> {
    let Some(lease) = &payload.lease else { return Err(Refused::Superseded) };
    let event = if end.returned { PayloadEvent::Return } else { PayloadEvent::End(end.outcome) };
    let code = end.report.and_then(|r| r.exit_code).filter(|_| end.outcome != Outcome::Ok);
    let code = code.map(|code| format!("exit code {code}"));
    let reported = end.report.and_then(|r| r.reason.as_deref()).or(code.as_deref());
    let why = reported.unwrap_or(end.why);
    let text = match end.returned {
        true => explain("handed back", payload.returns.saturating_add(1), MAX_RETURNS, why),
        false => {
            let counted = lease.number.saturating_sub(payload.returns);
            explain(end.outcome.as_str(), counted, terms.max_attempts, why)
        }
    };
    let reason = (end.outcome != Outcome::Ok).then_some(text.as_str());
    let cause = Cause { actor: end.actor, text: &text, reason };
    step(plan, terms, payload, event, &cause, &Means::End(lease, end))
}

/// One line such as `lost: attempt 2 of 3: the lease ran out`.
fn explain(what: &str, number: u32, max: u32, why: &str) -> String {
    let colon = if why.is_empty() { "" } else { ": " };
    let unit = if what == "handed back" { "time" } else { "attempt" };
    one_line(&format!("{what}: {unit} {number} of {max}{colon}{why}"))
}

/// Takes a lease back that has not been renewed since it was looked at a whole term ago. A renewal that was stored
/// meanwhile, by whatever server, wins.
pub(crate) fn lease_due(plan: &mut Plan, view: &View, lease: Uuid, renewed: u64) -> Result<Answer, Refused> {
    let held = view.payload.as_ref().and_then(|p| Some((p, p.lease.as_ref().filter(|l| l.id == lease)?)));
    match held {
        None => plan.effects.push(Effect::Unwatch(lease)),
        Some((_, open)) if open.renewed != renewed => {
            plan.effects.push(Effect::Watch { lease, renewed: open.renewed });
        }
        Some((payload, _)) => {
            let why = "the lease ran out without a word from the pilot";
            let end = End { outcome: Outcome::Lost, report: None, actor: "queue", why, returned: false };
            end_attempt(plan, &view.terms, payload, end)?;
        }
    }
    Ok(Answer::Done)
}
