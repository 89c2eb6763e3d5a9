//! What becomes of one lease: the decisions, without a socket or a process.
//!
//! ```text
//! Preparing --Started--> Running --Ended--> Completing --Gone--> over
//!      \___________________\______________________\____Gone_____/
//! ```
//! Wishes come at any time. A lost lease beats a cancel, a cancel beats a drain; once the payload has ended by
//! itself only the loss of the lease still counts, and not under the request that carries the result ([`Delivery`]).

use pilot_api::{Outcome, PayloadState, Report};
use pilot_wire::{Cause, Ended, Started};
use std::time::Duration;

/// Time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);
/// The same when somebody else may be given the payload already.
pub const LOST_GRACE: Duration = Duration::from_secs(2);

/// Why a payload is to be ended; a greater one replaces a lesser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// The pilot must leave: hand the lease back.
    Drain,
    /// The user wants it.
    Cancel,
    /// The lease is no longer ours.
    Lost,
}

/// How the child of the agent (`glexec`, or the runner itself) ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It never ran: the preparation failed, for this reason.
    Unprepared(String),
    /// It exited with this code; the last line of its standard error goes with it.
    Code(i32, String),
    /// It died by this signal.
    Signal(i32),
}

/// What happens to a lease.
#[derive(Debug, Clone)]
pub enum Event {
    /// The payload runs.
    Started(Started),
    /// The payload has ended; output follows.
    Ended(Ended),
    /// The child is gone and has said all it had to say.
    Gone(Exit),
    /// Somebody wants an end.
    Wished(Wish),
}

/// How a lease ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Tell the queue.
    Report(Outcome, Report),
    /// Say nothing: the lease is lost, or goes back with the pilot's farewell.
    Silent,
}

/// A result on its way to the queue, once logs and output are there: only the queue's word decides about it.
///
/// The queue closes the lease when it takes the result, and so it may seem lost while the answer travels. So a loss
/// counts between two requests, never under one.
#[derive(Debug, Default)]
pub struct Delivery {
    under_way: bool,
    lost: bool,
}

/// What became of one request with the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The queue has it.
    Taken,
    /// The lease was over before it came.
    Late,
    /// The queue will never take it.
    Refused,
    /// Nobody knows: it may be sent again.
    Unknown,
}

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// The queue has the result.
    Yes,
    /// The lease was lost before.
    Lost,
    /// The queue does not want it.
    Refused,
}

impl Delivery {
    /// A request leaves.
    pub fn send(&mut self) {
        self.under_way = true;
    }

    /// The lease is said to be lost.
    pub fn lose(&mut self) -> Option<Delivered> {
        self.lost = true;
        (!self.under_way).then_some(Delivered::Lost)
    }

    /// The request is over; `None` asks for another one.
    pub fn answer(&mut self, answer: Answer) -> Option<Delivered> {
        self.under_way = false;
        match answer {
            Answer::Taken => Some(Delivered::Yes),
            Answer::Late => Some(Delivered::Lost),
            Answer::Refused => Some(Delivered::Refused),
            Answer::Unknown => self.lost.then_some(Delivered::Lost),
        }
    }
}

/// What the machine wants done.
pub trait Effects {
    /// The queue should hear of this state.
    fn state(&mut self, state: PayloadState);
    /// End the payload, or its preparation.
    fn stop(&mut self, grace: Duration);
    /// It is over.
    fn finish(&mut self, verdict: Verdict);
}

/// The state of one lease.
#[derive(Debug)]
pub struct Lease {
    /// Facts known from the beginning: host and ports.
    base: Report,
    wish: Option<Wish>,
    started: Option<Started>,
    ended: Option<Ended>,
}

impl Lease {
    /// A lease just received.
    pub fn new(host: &str) -> Self {
        let base = Report { host: host.to_owned(), ..Report::default() };
        Self { base, wish: None, started: None, ended: None }
    }

    /// The ports that the payload gets.
    pub fn set_ports(&mut self, ports: Option<String>) {
        self.base.ports = ports;
    }

    /// Takes an event in.
    pub fn on(&mut self, event: Event, effects: &mut impl Effects) {
        match event {
            Event::Started(started) => {
                self.started = Some(started);
                effects.state(PayloadState::Running);
                // A wish from the time before found no payload to end.
                self.wish.into_iter().for_each(|wish| effects.stop(grace(wish)));
            }
            Event::Ended(ended) => {
                self.ended = Some(ended);
                effects.state(PayloadState::Completing);
            }
            Event::Wished(wish) => self.wished(wish, effects),
            Event::Gone(exit) => effects.finish(self.verdict(&exit)),
        }
    }

    fn wished(&mut self, wish: Wish, effects: &mut impl Effects) {
        if self.wish.is_some_and(|earlier| earlier >= wish) {
            return;
        }
        self.wish = Some(wish);
        if self.ended.is_none() {
            effects.stop(grace(wish));
        }
    }

    fn verdict(&self, exit: &Exit) -> Verdict {
        if self.wish == Some(Wish::Lost) {
            return Verdict::Silent;
        }
        match &self.ended {
            Some(ended) => self.after_end(ended),
            None => self.without_end(exit),
        }
    }

    /// The runner has reported properly.
    fn after_end(&self, ended: &Ended) -> Verdict {
        let report = self.report(ended.exit_code, ended.reason.clone(), Some((ended.wall_ms, ended.cpu_ms)));
        let outcome = match (ended.cause, self.wish) {
            (Cause::Exited, _) if ended.exit_code == Some(0) => Outcome::Ok,
            (Cause::Exited, _) => Outcome::User,
            (Cause::Walltime | Cause::Memory, _) => Outcome::Limit,
            (Cause::Stopped | Cause::Setup, Some(Wish::Drain)) => return Verdict::Silent,
            (Cause::Stopped | Cause::Setup, Some(_)) => Outcome::Killed,
            (Cause::Setup, None) => Outcome::Infra,
            (Cause::Stopped, None) => {
                return self.infra(
                    ended.exit_code,
                    "the session was ended by a signal from outside, such as the batch system's",
                );
            }
        };
        Verdict::Report(outcome, report)
    }

    /// The child ended without a report of the runner.
    fn without_end(&self, exit: &Exit) -> Verdict {
        match self.wish {
            Some(Wish::Drain) => return Verdict::Silent,
            Some(_) => return Verdict::Report(Outcome::Killed, self.report(None, None, None)),
            None => (),
        }
        let running = self.started.is_some();
        match exit {
            Exit::Unprepared(reason) => self.infra(None, reason),
            Exit::Code(code, line) if running && *code > 128 => {
                let reason = format!(
                    "its runner died with code {code}: killed by the payload itself or for lack of memory {line}"
                );
                Verdict::Report(Outcome::User, self.report(Some(*code), Some(reason.trim().to_owned()), None))
            }
            Exit::Code(code @ 201..=203, line) => {
                self.infra(None, &format!("glexec refused ({code}): {line}"))
            }
            Exit::Code(code @ (126 | 127), line) => {
                self.infra(None, &format!("glexec could not execute the pilot program ({code}): {line}"))
            }
            Exit::Code(code, line) => {
                self.infra(None, &format!("the runner failed with code {code}: {line}"))
            }
            Exit::Signal(signal) => {
                self.infra(None, &format!("glexec or the runner died by signal {signal}"))
            }
        }
    }

    fn infra(&self, exit_code: Option<i32>, reason: &str) -> Verdict {
        Verdict::Report(Outcome::Infra, self.report(exit_code, Some(reason.to_owned()), None))
    }

    fn report(&self, exit_code: Option<i32>, reason: Option<String>, times: Option<(u64, u64)>) -> Report {
        let started = self.started.as_ref();
        Report {
            exit_code,
            reason,
            account: started.map(|s| s.account.clone()),
            uid: started.map(|s| s.uid),
            session: started.and_then(|s| s.session.clone()),
            wall_ms: times.map(|t| t.0),
            cpu_ms: times.map(|t| t.1),
            ..self.base.clone()
        }
    }
}

fn grace(wish: Wish) -> Duration {
    if wish == Wish::Lost { LOST_GRACE } else { GRACE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        states: Vec<PayloadState>,
        stops: Vec<Duration>,
        verdict: Option<Verdict>,
    }

    impl Effects for Recorder {
        fn state(&mut self, state: PayloadState) {
            self.states.push(state);
        }
        fn stop(&mut self, grace: Duration) {
            self.stops.push(grace);
        }
        fn finish(&mut self, verdict: Verdict) {
            assert!(self.verdict.is_none(), "finished twice");
            self.verdict = Some(verdict);
        }
    }

    fn run(events: Vec<Event>) -> Recorder {
        let mut recorder = Recorder::default();
        let mut lease = Lease::new("wn1");
        lease.set_ports(Some("40000-40009".into()));
        events.into_iter().for_each(|event| lease.on(event, &mut recorder));
        recorder
    }

    fn outcome(events: Vec<Event>) -> Option<(Outcome, Report)> {
        match run(events).verdict.expect("not finished") {
            Verdict::Report(outcome, report) => Some((outcome, report)),
            Verdict::Silent => None,
        }
    }

    fn started() -> Event {
        let session = Some("s1".to_owned());
        Event::Started(Started {
            account: "alice".into(),
            uid: 20001,
            session,
            pid: 7,
            workdir: "/tmp/w".into(),
        })
    }

    fn ended(cause: Cause, exit_code: Option<i32>) -> Event {
        Event::Ended(Ended { exit_code, cause, reason: None, wall_ms: 5, cpu_ms: 3 })
    }

    fn gone(code: i32) -> Event {
        Event::Gone(Exit::Code(code, "a reason".into()))
    }

    #[test]
    fn a_plain_run_reports_its_facts() {
        let recorder = run(vec![started(), ended(Cause::Exited, Some(0)), gone(0)]);
        assert_eq!(recorder.states, [PayloadState::Running, PayloadState::Completing]);
        let Some(Verdict::Report(Outcome::Ok, report)) = recorder.verdict else {
            panic!("{:?}", recorder.verdict)
        };
        assert_eq!((report.exit_code, report.uid, report.wall_ms), (Some(0), Some(20001), Some(5)));
        assert_eq!(
            (report.host.as_str(), report.ports.as_deref(), report.session.as_deref()),
            ("wn1", Some("40000-40009"), Some("s1"))
        );
    }

    #[test]
    fn the_users_own_codes_are_never_the_sites_fault() {
        for code in [1, 7, 126, 137, 203] {
            let (outcome, report) =
                outcome(vec![started(), ended(Cause::Exited, Some(code)), gone(204)]).unwrap();
            assert_eq!((outcome, report.exit_code), (Outcome::User, Some(code)));
        }
    }

    #[test]
    fn refusals_of_glexec_are_infra_with_its_reason() {
        for code in [126, 127, 201, 202, 203, 3] {
            let (outcome, report) = outcome(vec![gone(code)]).unwrap();
            assert_eq!((outcome, report.exit_code), (Outcome::Infra, None));
            let reason = report.reason.unwrap();
            assert!(reason.contains("a reason") && reason.contains(&code.to_string()), "{reason}");
        }
        assert_eq!(outcome(vec![Event::Gone(Exit::Signal(9))]).unwrap().0, Outcome::Infra);
        assert_eq!(
            outcome(vec![Event::Gone(Exit::Unprepared("port range full".into()))]).unwrap().0,
            Outcome::Infra
        );
    }

    #[test]
    fn a_runner_killed_under_a_running_payload_is_blamed_on_the_payload() {
        let (outcome, report) = outcome(vec![started(), gone(137)]).unwrap();
        assert_eq!((outcome, report.exit_code), (Outcome::User, Some(137)));
    }

    #[test]
    fn limits_are_told_apart() {
        for cause in [Cause::Walltime, Cause::Memory] {
            assert_eq!(
                outcome(vec![started(), ended(cause, Some(143)), gone(143)]).unwrap().0,
                Outcome::Limit
            );
        }
    }

    #[test]
    fn a_cancel_stops_once_and_reports_killed() {
        let cancel = || Event::Wished(Wish::Cancel);
        let recorder = run(vec![started(), cancel(), cancel(), ended(Cause::Stopped, Some(143)), gone(143)]);
        assert_eq!(recorder.stops, [GRACE]);
        assert!(matches!(recorder.verdict, Some(Verdict::Report(Outcome::Killed, _))));
    }

    #[test]
    fn a_cancel_before_the_start_reaches_the_payload_that_starts_anyway() {
        let recorder = run(vec![Event::Wished(Wish::Cancel), started()]);
        assert_eq!(recorder.stops, [GRACE, GRACE]);
        assert_eq!(outcome(vec![Event::Wished(Wish::Cancel), gone(143)]).unwrap().0, Outcome::Killed);
    }

    #[test]
    fn a_payload_that_ended_by_itself_keeps_its_result() {
        for wish in [Wish::Cancel, Wish::Drain] {
            let recorder = run(vec![started(), ended(Cause::Exited, Some(0)), Event::Wished(wish), gone(0)]);
            assert!(recorder.stops.is_empty());
            assert!(matches!(recorder.verdict, Some(Verdict::Report(Outcome::Ok, _))));
        }
    }

    #[test]
    fn a_drained_payload_goes_back_without_a_word() {
        assert_eq!(
            outcome(vec![started(), Event::Wished(Wish::Drain), ended(Cause::Stopped, Some(143)), gone(143)]),
            None
        );
        assert_eq!(outcome(vec![Event::Wished(Wish::Drain), gone(143)]), None);
    }

    #[test]
    fn a_lost_lease_is_never_reported_and_beats_other_wishes() {
        assert_eq!(
            outcome(vec![started(), Event::Wished(Wish::Lost), ended(Cause::Exited, Some(0)), gone(0)]),
            None
        );
        let recorder = run(vec![
            started(),
            Event::Wished(Wish::Cancel),
            Event::Wished(Wish::Lost),
            Event::Wished(Wish::Drain),
        ]);
        assert_eq!(recorder.stops, [GRACE, LOST_GRACE]);
    }

    #[test]
    fn a_loss_heard_under_the_request_does_not_undo_its_answer() {
        for (answer, end) in [
            (Answer::Taken, Delivered::Yes),
            (Answer::Late, Delivered::Lost),
            (Answer::Refused, Delivered::Refused),
            (Answer::Unknown, Delivered::Lost),
        ] {
            let mut delivery = Delivery::default();
            delivery.send();
            assert_eq!(delivery.lose(), None, "{answer:?}");
            assert_eq!(delivery.answer(answer), Some(end), "{answer:?}");
        }
    }

    #[test]
    fn a_result_is_sent_again_until_the_queue_has_it_or_the_lease_is_lost() {
        let mut delivery = Delivery::default();
        for _ in 0..3 {
            delivery.send();
            assert_eq!(delivery.answer(Answer::Unknown), None);
        }
        assert_eq!(delivery.lose(), Some(Delivered::Lost));
        assert_eq!(Delivery::default().lose(), Some(Delivered::Lost), "before the first request");
    }

    #[test]
    fn an_end_from_outside_is_not_the_users_fault() {
        assert_eq!(
            outcome(vec![started(), ended(Cause::Stopped, Some(143)), gone(143)]).unwrap().0,
            Outcome::Infra
        );
        assert_eq!(outcome(vec![ended(Cause::Setup, None), gone(1)]).unwrap().0, Outcome::Infra);
    }
}
