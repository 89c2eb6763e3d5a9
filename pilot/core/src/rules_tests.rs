//! The rules as tables: every state with every event.

use super::*;
use PayloadState as S;
use PilotState as P;
use pilot_api::VariantArray;

const MAX: u32 = 3;

fn facts(state: S) -> PayloadFacts {
    PayloadFacts { state, attempts: 1, returns: 0, cancel_wanted: false }
}

fn all_events() -> Vec<PayloadEvent> {
    let mut events = vec![
        PayloadEvent::Accept,
        PayloadEvent::Hold,
        PayloadEvent::Release,
        PayloadEvent::Lease,
        PayloadEvent::Cancel,
        PayloadEvent::Return,
        PayloadEvent::Grow,
    ];
    events.extend(S::VARIANTS.iter().map(|s| PayloadEvent::Progress(*s)));
    events.extend(Outcome::VARIANTS.iter().map(|o| PayloadEvent::End(*o)));
    events
}

/// The whole table of legal moves for a payload with one attempt, nobody wanting it cancelled.
fn expected(from: S, event: PayloadEvent) -> Option<S> {
    use PayloadEvent as E;
    let leased = [S::Matched, S::Running, S::Completing];
    let place = |s: S| leased.iter().position(|l| *l == s);
    match event {
        E::Accept => (from == S::Received).then_some(S::Waiting),
        E::Hold => matches!(from, S::Waiting | S::Held).then_some(S::Held),
        E::Release => matches!(from, S::Waiting | S::Held).then_some(S::Waiting),
        E::Lease => (from == S::Waiting).then_some(S::Matched),
        E::Progress(said) => Some(leased[place(from)?.max(place(said)?)]),
        E::End(outcome) => {
            place(from)?;
            match outcome {
                Outcome::Ok => Some(S::Done),
                Outcome::User | Outcome::Limit => Some(S::Failed),
                Outcome::Killed => Some(S::Killed),
                Outcome::Infra | Outcome::Lost => Some(S::Waiting),
                Outcome::Superseded => None,
            }
        }
        E::Return | E::Grow => place(from).map(|_| S::Waiting),
        E::Cancel => match from {
            S::Received | S::Waiting | S::Held | S::Killed => Some(S::Killed),
            S::Matched | S::Running | S::Completing => Some(from),
            S::Done | S::Failed => None,
        },
    }
}

#[test]
fn every_state_meets_every_event() {
    for from in S::VARIANTS {
        for event in all_events() {
            let got = payload(&facts(*from), event, MAX).ok().map(|s| s.state);
            assert_eq!(got, expected(*from, event), "{from} {event:?}");
        }
    }
}

#[test]
fn final_states_never_change() {
    for from in S::VARIANTS.iter().filter(|s| s.is_final()) {
        for event in all_events() {
            if let Ok(step) = payload(&facts(*from), event, MAX) {
                assert!(!step.changes(&facts(*from)), "{from} {event:?}");
            }
        }
    }
}

#[test]
fn only_lost_and_infra_are_tried_again_and_only_so_often() {
    for outcome in Outcome::VARIANTS.iter().filter(|o| **o != Outcome::Superseded) {
        for attempts in 1..=MAX {
            let now = PayloadFacts { state: S::Running, attempts, returns: 0, cancel_wanted: false };
            let step = payload(&now, PayloadEvent::End(*outcome), MAX).unwrap();
            let again = matches!(outcome, Outcome::Lost | Outcome::Infra) && attempts < MAX;
            assert_eq!(step.state == S::Waiting, again, "{outcome} after {attempts}");
            assert_eq!(step.effects.contains(&Consequence::OfferWork), again);
            assert_eq!(step.effects[0], Consequence::EndAttempt(*outcome));
        }
    }
}

#[test]
fn a_cancelled_payload_is_killed_when_its_pilot_is_lost_but_done_when_it_was_faster() {
    let now = PayloadFacts { state: S::Running, attempts: 1, returns: 0, cancel_wanted: true };
    let end = |o| payload(&now, PayloadEvent::End(o), MAX).unwrap().state;
    assert_eq!([end(Outcome::Lost), end(Outcome::Infra), end(Outcome::Killed)], [S::Killed; 3]);
    assert_eq!(end(Outcome::Ok), S::Done);
    assert_eq!(end(Outcome::User), S::Failed);
}

#[test]
fn cancelling_twice_asks_once() {
    for state in [S::Matched, S::Running, S::Completing] {
        let first = payload(&facts(state), PayloadEvent::Cancel, MAX).unwrap();
        assert_eq!(first.effects, [Consequence::AskCancel]);
        let wanted = PayloadFacts { cancel_wanted: true, ..facts(state) };
        assert!(!payload(&wanted, PayloadEvent::Cancel, MAX).unwrap().changes(&wanted));
    }
}

#[test]
fn the_number_of_attempts_is_the_fence() {
    let waiting = PayloadFacts { state: S::Waiting, attempts: 2, returns: 0, cancel_wanted: false };
    assert_eq!(payload(&waiting, PayloadEvent::Lease, MAX).unwrap().effects, [Consequence::StartAttempt(3)]);
}

#[test]
fn refusals_say_what_and_why() {
    let text = payload(&facts(S::Done), PayloadEvent::Cancel, MAX).unwrap_err().to_string();
    assert_eq!(text, "a payload that is done cannot be cancelled");
}

#[test]
fn every_pilot_state_meets_every_report() {
    for from in P::VARIANTS {
        for said in P::VARIANTS {
            let got = pilot(*from, PilotEvent::Reported(*said)).ok();
            let expected = match (from, said) {
                (_, P::Submitted | P::Lost | P::Done) => None,
                (P::Failed, P::Failed) => Some(P::Failed),
                (P::Done | P::Failed, _) => None,
                (P::Draining, P::Draining | P::Failed) => Some(*said),
                (P::Draining, _) => Some(P::Draining),
                _ => Some(*said),
            };
            assert_eq!(got, expected, "{from} says {said}");
        }
    }
}

#[test]
fn pilots_claim_leave_and_fall_silent() {
    for from in P::VARIANTS {
        let live = !matches!(from, P::Done | P::Failed);
        let draining = *from == P::Draining;
        let claimed = |holds| pilot(*from, PilotEvent::Claimed(holds)).ok();
        assert_eq!(claimed(true), live.then_some(if draining { P::Draining } else { P::Busy }));
        assert_eq!(claimed(false), live.then_some(if draining { P::Draining } else { P::Ready }));
        assert_eq!(pilot(*from, PilotEvent::Left), Ok(if live { P::Done } else { *from }));
        assert_eq!(pilot(*from, PilotEvent::GaveUp), Ok(if live { P::Failed } else { *from }));
        assert_eq!(pilot(*from, PilotEvent::Silent), Ok(if live { P::Lost } else { *from }));
    }
}

#[test]
fn orderly_ends_of_pilots_are_no_failures_but_end_some_time() {
    let now = |attempts, returns| PayloadFacts { state: S::Running, attempts, returns, cancel_wanted: false };
    for returns in 0..MAX_RETURNS {
        let step = payload(&now(returns + 1, returns), PayloadEvent::Return, MAX).unwrap();
        assert_eq!(step.state, S::Waiting, "handed back {returns} times before");
        assert_eq!(
            payload(&now(returns + 1, returns), PayloadEvent::End(Outcome::Infra), MAX).unwrap().state,
            S::Waiting
        );
    }
    assert_eq!(
        payload(&now(MAX_RETURNS + 1, MAX_RETURNS), PayloadEvent::Return, MAX).unwrap().state,
        S::Failed
    );
    let wanted = PayloadFacts { cancel_wanted: true, ..now(1, 0) };
    assert_eq!(payload(&wanted, PayloadEvent::Return, MAX).unwrap().state, S::Killed);
}
