//! What may happen to a payload and to a pilot: pure functions, no I/O.
//!
//! Facts and an event go in; the new state and the effects come out, or [`Illegal`]. The store and the HTTP layer
//! only carry out what is decided here. An attempt has no states of its own beyond "holds a lease" and its outcome:
//! whoever calls with [`PayloadEvent::Progress`] or [`PayloadEvent::End`] has shown the current lease before.

use pilot_api::{Outcome, PayloadState, PilotState};
use std::fmt;

/// What the rules need to know of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadFacts {
    /// Current state.
    pub state: PayloadState,
    /// Attempts started so far.
    pub attempts: u32,
    /// How many of them pilots ended in order, by handing the payload back.
    pub returns: u32,
    /// Whether its owner wants it ended.
    pub cancel_wanted: bool,
}

/// What can happen to a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadEvent {
    /// Its submission was found complete.
    Accept,
    /// It shall not be given out for the time being.
    Hold,
    /// It may be given out again.
    Release,
    /// A pilot takes it.
    Lease,
    /// The holder of the lease tells how far it is.
    Progress(PayloadState),
    /// Its attempt ended.
    End(Outcome),
    /// Its attempt reached a limit, and another one with more is to follow.
    Grow,
    /// Its pilot hands it back in order: a drain, or the end of the batch job.
    Return,
    /// Its owner wants it ended.
    Cancel,
}

/// What has to be done besides storing the new state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Wake pilots that wait for work.
    OfferWork,
    /// Open the attempt with this number, with a lease.
    StartAttempt(u32),
    /// Close the open attempt and its lease.
    EndAttempt(Outcome),
    /// Ask the holder of the lease to end the payload.
    AskCancel,
}

/// A decision about a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// State afterwards.
    pub state: PayloadState,
    /// Whether its owner wants it ended, afterwards.
    pub cancel_wanted: bool,
    /// To be carried out in this order.
    pub effects: Vec<Consequence>,
}

impl Step {
    /// Whether anything differs from before.
    pub fn changes(&self, before: &PayloadFacts) -> bool {
        self.state != before.state || self.cancel_wanted != before.cancel_wanted || !self.effects.is_empty()
    }
}

/// An event that does not fit the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Illegal {
    what: &'static str,
    from: &'static str,
    event: String,
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} that is {} cannot {}", self.what, self.from, self.event)
    }
}

impl std::error::Error for Illegal {}

impl fmt::Display for PayloadEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("be accepted"),
            Self::Hold => f.write_str("be held"),
            Self::Release => f.write_str("be released"),
            Self::Lease => f.write_str("be leased"),
            Self::Progress(state) => write!(f, "become {state} by a pilot's word"),
            Self::End(outcome) => write!(f, "end with outcome {outcome}"),
            Self::Grow => f.write_str("be tried again with more"),
            Self::Return => f.write_str("be handed back"),
            Self::Cancel => f.write_str("be cancelled"),
        }
    }
}

/// How often pilots may hand a payload back in order before it fails: a bound against endless loops, far above what
/// drains and ends of batch jobs bring about.
pub const MAX_RETURNS: u32 = 20;

/// Decides what an event does to a payload that may be attempted `max_attempts` times.
pub fn payload(facts: &PayloadFacts, event: PayloadEvent, max_attempts: u32) -> Result<Step, Illegal> {
    use PayloadState as S;
    let to = |state, effects: &[Consequence]| {
        Ok(Step { state, cancel_wanted: facts.cancel_wanted, effects: effects.to_vec() })
    };
    match (facts.state, event) {
        (S::Received, PayloadEvent::Accept) => to(S::Waiting, &[Consequence::OfferWork]),
        (S::Waiting, PayloadEvent::Hold) => to(S::Held, &[]),
        (S::Held, PayloadEvent::Hold) => to(S::Held, &[]),
        (S::Held, PayloadEvent::Release) => to(S::Waiting, &[Consequence::OfferWork]),
        (S::Waiting, PayloadEvent::Release) => to(S::Waiting, &[]),
        (S::Waiting, PayloadEvent::Lease) => {
            to(S::Matched, &[Consequence::StartAttempt(facts.attempts.saturating_add(1))])
        }
        (from, PayloadEvent::Progress(said)) if is_leased(from) && is_leased(said) => {
            to(further(from, said), &[])
        }
        (from, PayloadEvent::End(outcome)) if is_leased(from) && outcome != Outcome::Superseded => {
            Ok(ended(facts, outcome, max_attempts))
        }
        (from, PayloadEvent::Grow) if is_leased(from) && may_try_again(facts, max_attempts) => {
            to(S::Waiting, &[Consequence::EndAttempt(Outcome::Limit), Consequence::OfferWork])
        }
        (from, PayloadEvent::Return) if is_leased(from) => Ok(returned(facts)),
        (_, PayloadEvent::Cancel) => cancelled(facts).ok_or_else(|| illegal(facts, event)),
        _ => Err(illegal(facts, event)),
    }
}

/// The refusal of an event that does not fit.
pub fn illegal(facts: &PayloadFacts, event: PayloadEvent) -> Illegal {
    Illegal { what: "payload", from: facts.state.as_str(), event: event.to_string() }
}

/// Whether a pilot holds a lease for a payload in this state.
pub fn is_leased(state: PayloadState) -> bool {
    matches!(state, PayloadState::Matched | PayloadState::Running | PayloadState::Completing)
}

/// Heartbeats may overtake each other on the way: an older word never takes a payload back.
fn further(from: PayloadState, said: PayloadState) -> PayloadState {
    let rank = |s| match s {
        PayloadState::Matched => 0,
        PayloadState::Running => 1,
        _ => 2,
    };
    if rank(said) > rank(from) { said } else { from }
}

/// Whether a payload whose attempt ends now may have another one: nobody wants it ended, and not all attempts are used up.
pub fn may_try_again(facts: &PayloadFacts, max_attempts: u32) -> bool {
    !facts.cancel_wanted && facts.attempts.saturating_sub(facts.returns) < max_attempts
}

/// The outcome class decides, never the exit code: what was not the user's doing is tried again.
fn ended(facts: &PayloadFacts, outcome: Outcome, max_attempts: u32) -> Step {
    let end = Consequence::EndAttempt(outcome);
    let last = |state| Step { state, cancel_wanted: facts.cancel_wanted, effects: vec![end] };
    match outcome {
        Outcome::Ok => last(PayloadState::Done),
        Outcome::User | Outcome::Limit | Outcome::Superseded => last(PayloadState::Failed),
        Outcome::Killed => last(PayloadState::Killed),
        // The wish was to have it ended, and it has ended: no retry.
        Outcome::Infra | Outcome::Lost if facts.cancel_wanted => last(PayloadState::Killed),
        Outcome::Infra | Outcome::Lost if !may_try_again(facts, max_attempts) => last(PayloadState::Failed),
        Outcome::Infra | Outcome::Lost => Step {
            state: PayloadState::Waiting,
            cancel_wanted: false,
            effects: vec![end, Consequence::OfferWork],
        },
    }
}

/// Nobody failed: the attempt does not count, but an endless loop ends.
fn returned(facts: &PayloadFacts) -> Step {
    let end = Consequence::EndAttempt(Outcome::Lost);
    let (state, effects) = match () {
        () if facts.cancel_wanted => (PayloadState::Killed, vec![end]),
        () if facts.returns >= MAX_RETURNS => (PayloadState::Failed, vec![end]),
        () => (PayloadState::Waiting, vec![end, Consequence::OfferWork]),
    };
    Step { state, cancel_wanted: facts.cancel_wanted, effects }
}

/// Cancelling is a wish while a pilot holds the lease, and a fact otherwise; `None` when it comes too late.
fn cancelled(facts: &PayloadFacts) -> Option<Step> {
    let step = |state, effects| Some(Step { state, cancel_wanted: true, effects });
    match facts.state {
        PayloadState::Received | PayloadState::Waiting | PayloadState::Held => {
            step(PayloadState::Killed, vec![])
        }
        state if is_leased(state) && facts.cancel_wanted => step(state, vec![]),
        state if is_leased(state) => step(state, vec![Consequence::AskCancel]),
        PayloadState::Killed => {
            Some(Step { state: PayloadState::Killed, cancel_wanted: facts.cancel_wanted, effects: vec![] })
        }
        _ => None,
    }
}

/// What can happen to a pilot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PilotEvent {
    /// It tells what it is doing.
    Reported(PilotState),
    /// It asks for work, or got some: `true` when it holds leases now.
    Claimed(bool),
    /// It says good-bye.
    Left,
    /// It says good-bye because its node cannot run payloads.
    GaveUp,
    /// Nothing was heard of it for too long.
    Silent,
}

/// Whether a pilot in this state may still be heard of, and is not given up.
pub fn is_live(state: PilotState) -> bool {
    !matches!(state, PilotState::Done | PilotState::Failed | PilotState::Lost)
}

/// Whether a pilot in this state takes work, unless it was told not to.
pub fn takes_work(state: PilotState) -> bool {
    matches!(state, PilotState::Starting | PilotState::Validating | PilotState::Ready | PilotState::Busy)
}

/// Decides the state of a pilot after an event. A lost pilot that speaks again is what it says it is.
pub fn pilot(from: PilotState, event: PilotEvent) -> Result<PilotState, Illegal> {
    use PilotState as P;
    let live = !matches!(from, P::Done | P::Failed);
    let illegal = |event: String| Err(Illegal { what: "pilot", from: from.as_str(), event });
    match event {
        PilotEvent::Reported(P::Submitted | P::Lost | P::Done) => {
            illegal("report a state that is not its own".into())
        }
        PilotEvent::Reported(said) if !live && said != from => illegal(format!("become {said}")),
        // Draining is a promise to take no more work: there is no way back.
        PilotEvent::Reported(P::Starting | P::Validating | P::Ready | P::Busy) if from == P::Draining => {
            Ok(from)
        }
        PilotEvent::Reported(said) => Ok(said),
        PilotEvent::Claimed(_) if !live => illegal("claim".into()),
        PilotEvent::Claimed(_) if from == P::Draining => Ok(from),
        PilotEvent::Claimed(true) => Ok(P::Busy),
        PilotEvent::Claimed(false) => Ok(P::Ready),
        PilotEvent::Left if live => Ok(P::Done),
        PilotEvent::GaveUp if live => Ok(P::Failed),
        PilotEvent::Left | PilotEvent::GaveUp => Ok(from),
        PilotEvent::Silent if live => Ok(P::Lost),
        PilotEvent::Silent => Ok(from),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
