//! The one function that decides.

use crate::change::{Answer, Change, Decision, Effect, Refused};
use crate::event::{Event, Holder};
use crate::model::{Payload, View};
use crate::{claims, payloads, pilots, submissions};
use uuid::Uuid;

/// Decides what an event does. `now` is in milliseconds since the epoch. Pure and total.
pub fn decide(view: &View, event: &Event, now: u64) -> Decision {
    let mut plan = Plan { changes: Vec::new(), effects: Vec::new(), now };
    let answer = match event {
        Event::Submit(submit) => submissions::submit(&mut plan, view, submit),
        Event::Hold(by) => payloads::hold(&mut plan, view, by),
        Event::Release(by, delegation) => payloads::release(&mut plan, view, by, *delegation),
        Event::Cancel(by, order) => payloads::cancel(&mut plan, view, by, *order),
        Event::Delegate(new) => submissions::delegate(&mut plan, view, new),
        Event::Sign(sign) => submissions::sign(&mut plan, view, sign),
        Event::Upload(blob) => {
            plan.changes.push(blob.clone());
            Ok(Answer::Done)
        }
        Event::Register(register) => pilots::register(&mut plan, view, register),
        Event::Claim(ask) => claims::claim(&mut plan, view, ask),
        Event::Heartbeat(by, body) => pilots::heartbeat(&mut plan, view, by, body),
        Event::Results(by, results) => payloads::results(&mut plan, view, by, results),
        Event::Leave(by, reason, failed) => pilots::leave(&mut plan, view, by, reason, *failed),
        Event::Drain(by) => pilots::drain(&mut plan, view, by),
        Event::LeaseDue(lease, renewed) => payloads::lease_due(&mut plan, view, *lease, *renewed),
        Event::PilotDue(pilot, seen) => pilots::due(&mut plan, view, *pilot, *seen),
        Event::NoticeTried(payload, tried) => {
            plan.changes.push(Change::NoticeTried { payload: *payload, tried: *tried });
            Ok(Answer::Done)
        }
    };
    match answer {
        Ok(answer) => Decision { changes: plan.changes, effects: plan.effects, answer },
        Err(refused) => {
            Decision { changes: Vec::new(), effects: Vec::new(), answer: Answer::Refused(refused) }
        }
    }
}

/// What a decision has come to so far.
pub(crate) struct Plan {
    pub changes: Vec<Change>,
    pub effects: Vec<Effect>,
    /// Milliseconds since the epoch.
    pub now: u64,
}

impl Plan {
    /// Seconds since the epoch, for what travels and for proxies.
    pub fn seconds(&self) -> u64 {
        self.now / 1000
    }

    /// A time for a renewal: later than the one before, even if the clock was set back.
    pub fn after(&self, before: u64) -> u64 {
        self.now.max(before.saturating_add(1))
    }
}

/// The payload of an attempt whose lease is in force, for a holder that shows that lease, and its secret.
pub fn entitled<'a>(view: &'a View, attempt: Uuid, lease: Uuid, by: &Holder) -> Result<&'a Payload, Refused> {
    let found = view.attempts.iter().find(|a| a.id == attempt && a.dn == by.dn);
    let found = found.ok_or(Refused::Unknown("attempt"))?;
    crate::pilots::is_holder(found.secret.as_deref(), by.secret.as_deref())?;
    found.payload.as_ref().filter(|_| found.lease == lease).ok_or(Refused::Superseded)
}
