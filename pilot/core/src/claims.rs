//! Who gets what: matching by requirements, oldest first.

use crate::capacity::Capacity;
use crate::change::{Answer, Given, Opened, Refused};
use crate::decide::Plan;
use crate::event::Ask;
use crate::model::{Need, Payload, Pilot, View};
use crate::payloads::{Cause, Means, hold_expired, step};
use crate::pilots::{is_that_pilot, may_run, moved};
use crate::rules::{self, PayloadEvent, PilotEvent};
use pilot_api::PilotState;

/// First the pilot, then the groups of waiting payloads, then the oldest payloads of those groups that fit.
pub(crate) fn need(ask: &Ask, view: &View, loaded: u32, now: u64) -> Option<Need> {
    let pilot = match loaded {
        0 => return Some(Need::Pilot { id: ask.by.pilot, named: Vec::new() }),
        _ => view.pilot.as_ref()?,
    };
    let free = room(ask, pilot)?;
    match loaded {
        1 => Some(Need::Groups),
        2 => {
            let fitting = view.groups.iter().filter(|g| free.take(&g.requirements).is_some());
            let groups: Vec<i64> = fitting.map(|g| g.key).collect();
            let limit = free.payloads.min(u32::try_from(ask.ids.len()).unwrap_or(u32::MAX));
            (!groups.is_empty() && limit > 0).then_some(Need::Waiting {
                groups,
                limit,
                host: pilot.host.clone(),
                now,
            })
        }
        _ => None,
    }
}

/// What the pilot can take now; `None` when there is nothing to decide about.
fn room(ask: &Ask, pilot: &Pilot) -> Option<Capacity> {
    let takes = !pilot.drain && pilot.state != PilotState::Draining;
    let free = Capacity::of(&ask.claim, pilot);
    (takes && free.payloads > 0 && earlier(ask, pilot).next().is_none()).then_some(free)
}

/// What the same claim got before: its answer was lost on the way.
fn earlier<'a>(ask: &'a Ask, pilot: &'a Pilot) -> impl Iterator<Item = &'a Payload> {
    let same =
        |p: &&Payload| ask.claim.id.is_some() && p.lease.as_ref().is_some_and(|l| l.claim == ask.claim.id);
    pilot.held.iter().filter(same)
}

pub(crate) fn claim(plan: &mut Plan, view: &View, ask: &Ask) -> Result<Answer, Refused> {
    let pilot = view.pilot.as_ref().filter(|p| p.dn == ask.by.dn).ok_or(Refused::Unknown("pilot"))?;
    is_that_pilot(pilot, &ask.by)?;
    // Asked again with each claim: the operator may have made the rule after this pilot had registered.
    may_run(pilot.switches, &pilot.host, &ask.switching)?;
    rules::pilot(pilot.state, PilotEvent::Claimed(false)).map_err(Refused::Illegal)?;
    let again: Vec<Given> = earlier(ask, pilot).filter_map(given_before).collect();
    if !again.is_empty() {
        moved(plan, pilot, PilotEvent::Claimed(true), "claims")?;
        return Ok(Answer::Leased(again));
    }
    let mut given = Vec::new();
    let mut held = false;
    if let Some(mut free) = room(ask, pilot) {
        let mut waiting: Vec<&Payload> = view.waiting.iter().collect();
        waiting.sort_by_key(|p| p.seq);
        let mut ids = ask.ids.iter();
        for payload in waiting {
            let Some(rest) = free.take(&payload.requirements) else { continue };
            if payload.proxy_until <= plan.seconds() {
                hold_expired(plan, &view.terms, payload)?;
                held = true;
                continue;
            }
            let Some((lease, attempt)) = ids.next() else { break };
            given.push(give(plan, view, ask, pilot, payload, (*lease, *attempt))?);
            free = rest;
        }
    }
    let holds = !given.is_empty() || !pilot.held.is_empty();
    moved(plan, pilot, PilotEvent::Claimed(holds), "claims")?;
    match given.is_empty() && held {
        true => Ok(Answer::AskAgain),
        false => Ok(Answer::Leased(given)),
    }
}

fn give(
    plan: &mut Plan,
    view: &View,
    ask: &Ask,
    pilot: &Pilot,
    payload: &Payload,
    (lease, attempt): (uuid::Uuid, uuid::Uuid),
) -> Result<Given, Refused> {
    let number = payload.attempts.saturating_add(1);
    let opened = Opened {
        payload: payload.id,
        attempt,
        number,
        lease,
        pilot: pilot.id,
        claim: ask.claim.id,
        at: plan.now,
    };
    let text = format!("attempt {number} leased to pilot {}", pilot.id);
    let cause = Cause { actor: &pilot.dn, text: &text, reason: None };
    step(plan, &view.terms, payload, PayloadEvent::Lease, &cause, &Means::Open(opened))?;
    Ok(Given {
        lease,
        attempt,
        number,
        payload: payload.id,
        owner: payload.owner.clone(),
        spec: payload.spec,
        requirements: payload.requirements,
        array_index: payload.array_index,
    })
}

fn given_before(payload: &Payload) -> Option<Given> {
    let lease = payload.lease.as_ref()?;
    Some(Given {
        lease: lease.id,
        attempt: lease.attempt,
        number: lease.number,
        payload: payload.id,
        owner: payload.owner.clone(),
        spec: payload.spec,
        requirements: payload.requirements,
        array_index: payload.array_index,
    })
}
