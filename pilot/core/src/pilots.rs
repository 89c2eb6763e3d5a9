//! What happens to a pilot: registration, heartbeats, silence, good-byes.

use crate::change::{Answer, Change, Effect, NewPilot, Refused};
use crate::decide::Plan;
use crate::event::{ByPilot, Register};
use crate::model::{OpenLease, Pilot, View};
use crate::payloads::{Cause, End, Means, end_attempt, step};
use crate::rules::{self, PayloadEvent, PilotEvent};
use crate::switching::Switching;
use pilot_api::{Heartbeat, HeartbeatReply, Order, OrderKind, Outcome, PilotState};
use uuid::Uuid;

/// Moves a pilot by the rules and notes that it was heard of.
pub(crate) fn moved(
    plan: &mut Plan,
    pilot: &Pilot,
    event: PilotEvent,
    why: &str,
) -> Result<PilotState, Refused> {
    let state = rules::pilot(pilot.state, event).map_err(Refused::Illegal)?;
    let seen = match event {
        PilotEvent::Silent => pilot.seen,
        PilotEvent::Reported(_) | PilotEvent::Claimed(_) | PilotEvent::Left | PilotEvent::GaveUp => {
            plan.after(pilot.seen)
        }
    };
    let reason = (!rules::is_live(state)).then(|| identity::one_line(why));
    plan.changes.push(Change::PilotState { id: pilot.id, state, seen, reason });
    plan.effects.push(match rules::is_live(state) {
        true => Effect::WatchPilot { pilot: pilot.id, seen },
        false => Effect::UnwatchPilot(pilot.id),
    });
    if state != pilot.state {
        plan.effects.push(Effect::PilotChanged {
            pilot: pilot.id,
            actor: pilot.dn.clone(),
            from: pilot.state,
            state,
            why: identity::one_line(why),
        });
    }
    Ok(state)
}

fn of_dn<'a>(view: &'a View, by: &ByPilot) -> Result<&'a Pilot, Refused> {
    view.pilot.as_ref().filter(|p| p.dn == by.dn).ok_or(Refused::Unknown("pilot"))
}

/// Whether the call shows the secret that the pilot showed when it registered.
pub(crate) fn is_that_pilot(pilot: &Pilot, by: &ByPilot) -> Result<(), Refused> {
    is_holder(pilot.secret.as_deref(), by.secret.as_deref())
}

/// Whether the secret that was shown is the pilot's own. One that registered without, as older ones do, needs none.
pub(crate) fn is_holder(own: Option<&str>, shown: Option<&str>) -> Result<(), Refused> {
    match (own, shown) {
        (None, _) => Ok(()),
        (Some(own), Some(shown)) if own == shown => Ok(()),
        (Some(_), _) => Err(Refused::NotThatPilot),
    }
}

/// Whether a pilot may run payloads on this host as it does.
pub(crate) fn may_run(switches: bool, host: &str, switching: &Switching) -> Result<(), Refused> {
    match switching.required(host).filter(|_| !switches) {
        Some(rule) => Err(Refused::MustSwitch { rule: rule.to_string(), host: host.to_owned() }),
        None => Ok(()),
    }
}

pub(crate) fn register(plan: &mut Plan, view: &View, new: &Register) -> Result<Answer, Refused> {
    may_run(new.registration.switches_identity, &new.registration.host, &new.switching)?;
    if let Some(known) = &view.pilot {
        // The answer was lost on the way; whoever takes another pilot's id is told no.
        let same = known.dn == new.dn && known.host == new.registration.host && known.secret == new.secret;
        return if same { Ok(Answer::Done) } else { Err(Refused::IdTaken("pilot")) };
    }
    plan.changes.push(Change::Pilot(Box::new(NewPilot {
        id: new.id,
        dn: new.dn.clone(),
        registration: new.registration.clone(),
        secret: new.secret.clone(),
        at: plan.now,
    })));
    plan.effects.push(Effect::WatchPilot { pilot: new.id, seen: plan.now });
    Ok(Answer::Done)
}

pub(crate) fn heartbeat(
    plan: &mut Plan,
    view: &View,
    by: &ByPilot,
    body: &Heartbeat,
) -> Result<Answer, Refused> {
    let pilot = of_dn(view, by)?;
    is_that_pilot(pilot, by)?;
    moved(plan, pilot, PilotEvent::Reported(body.state), "reported by the pilot")?;
    let mut lost = Vec::new();
    let mut seen: Vec<Uuid> = Vec::new();
    for update in &body.leases {
        let held =
            pilot.held.iter().find_map(|p| Some((p, p.lease.as_ref().filter(|l| l.id == update.lease)?)));
        match held {
            Some(_) if seen.contains(&update.lease) => {}
            Some((payload, lease)) => {
                seen.push(update.lease);
                renew(plan, lease);
                let cause = Cause { actor: &by.dn, text: "reported by the pilot", reason: None };
                let event = PayloadEvent::Progress(update.state);
                step(plan, &view.terms, payload, event, &cause, &Means::None)?;
            }
            // The result overtook the heartbeat that still names its lease.
            None if view.delivered.contains(&update.lease) => {}
            None => lost.push(update.lease),
        }
    }
    let mut orders = Vec::new();
    for lease in pilot.held.iter().filter_map(|p| p.lease.as_ref()) {
        let Some(id) = lease.order else { continue };
        match body.acked.contains(&id) {
            true => plan.changes.push(Change::Obeyed { id }),
            false => orders.push(Order { id, lease: lease.id, kind: OrderKind::Cancel }),
        }
    }
    orders.sort_by_key(|order| order.id);
    Ok(Answer::Heartbeat(HeartbeatReply { lost, wishes: orders, drain: pilot.drain }))
}

fn renew(plan: &mut Plan, lease: &OpenLease) {
    let at = plan.after(lease.renewed);
    plan.changes.push(Change::Renewed { lease: lease.id, at });
    plan.effects.push(Effect::Watch { lease: lease.id, renewed: at });
}

/// What a leaving pilot still holds goes back at once; it says so in order, so nobody has failed.
pub(crate) fn leave(
    plan: &mut Plan,
    view: &View,
    by: &ByPilot,
    reason: &str,
    failed: bool,
) -> Result<Answer, Refused> {
    let pilot = of_dn(view, by)?;
    is_that_pilot(pilot, by)?;
    let why = format!("the pilot left: {reason}");
    for payload in &pilot.held {
        let end = End { outcome: Outcome::Lost, report: None, actor: &by.dn, why: &why, returned: true };
        end_attempt(plan, &view.terms, payload, end)?;
    }
    let event = if failed { PilotEvent::GaveUp } else { PilotEvent::Left };
    moved(plan, pilot, event, reason)?;
    Ok(Answer::Done)
}

pub(crate) fn drain(plan: &mut Plan, view: &View, by: &ByPilot) -> Result<Answer, Refused> {
    let pilot = of_dn(view, by)?;
    plan.changes.push(Change::Draining { id: pilot.id });
    plan.effects.push(Effect::PilotNews(pilot.id));
    Ok(Answer::Done)
}

/// Marks a pilot lost that has given no sign of life since it was looked at a whole term ago.
pub(crate) fn due(plan: &mut Plan, view: &View, id: Uuid, seen: u64) -> Result<Answer, Refused> {
    match &view.pilot {
        Some(pilot) if pilot.seen != seen => {
            plan.effects.push(Effect::WatchPilot { pilot: id, seen: pilot.seen });
        }
        Some(pilot) if rules::is_live(pilot.state) => {
            moved(plan, pilot, PilotEvent::Silent, "not heard of")?;
        }
        Some(_) | None => plan.effects.push(Effect::UnwatchPilot(id)),
    }
    Ok(Answer::Done)
}
