//! What becomes of one lease: the decisions, without a socket or a process.
//!
//! ```text
//! Preparing --Started--> Running --Ended--> Completing --Gone--> over
//!      \___________________\______________________\____Gone_____/
//! ```
//! Reasons to stop come at any time. A lost lease beats a cancel, a cancel beats a drain. Once the payload has ended by
//! itself a drain changes nothing any more; a cancel, or the end of the walltime, ends the packing of its output; the loss of
//! the lease always counts, but not under the request that carries the result ([`super::delivery`]).

use pilot_api::{MissingOutput, Outcome, OutputSummary, PayloadState, Report};
use pilot_wire::{EndCause, Ended, Started};
use std::time::Duration;

/// Time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);
/// The same when somebody else may be given the payload already.
pub const LOST_GRACE: Duration = Duration::from_secs(2);

/// How long output may be packed beyond the walltime.
pub const PACKING: Duration = Duration::from_secs(60);

/// Why a payload is to be ended; a greater one replaces a lesser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// The pilot must leave: hand the lease back.
    Drain,
    /// Its time is over, and its runner does nothing about it, or still packs its output.
    Time,
    /// The user wants it.
    Cancel,
    /// The lease is no longer ours.
    Lost,
}

/// How the child of the agent (`glexec`, or the runner itself) ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildExit {
    /// It never ran: the preparation failed, for this reason.
    Unprepared(String),
    /// It never ran: it was called back before its turn had come.
    Recalled,
    /// It exited with this code; the last line of its standard error goes with it.
    Code(i32, String),
    /// It died by this signal.
    Signal(i32),
}

/// What happens to a lease.
#[derive(Debug, Clone)]
pub enum LeaseEvent {
    /// The payload runs.
    Started(Started),
    /// The payload has ended; output follows.
    Ended(Ended),
    /// The archive of the output files has come.
    Packed(OutputSummary),
    /// The node lost something of the payload's, or its runner said what cannot be: nothing of it is to be trusted.
    NodeFailed(String),
    /// The child is gone and has said all it had to say.
    Gone(ChildExit),
    /// Somebody wants an end.
    Stop(StopReason),
}

/// How a lease ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Conclusion {
    /// Tell the queue.
    Report(Outcome, Box<Report>),
    /// Say nothing: the lease is lost, or goes back with the pilot's farewell.
    Silent,
    /// Hand it back at once: nothing has been begun.
    Return,
}

/// What the machine wants done.
pub trait Effects {
    /// The queue should hear of this state.
    fn state(&mut self, state: PayloadState);
    /// End the payload, or its preparation, or the packing of its output.
    fn stop(&mut self, grace: Duration);
    /// It is over.
    fn finish(&mut self, conclusion: Conclusion);
}

/// The state of one lease.
#[derive(Debug)]
pub struct LeaseMachine {
    /// Facts known from the beginning: host and ports.
    base: Report,
    wants_output: bool,
    stop: Option<StopReason>,
    started: Option<Started>,
    ended: Option<Ended>,
    packed: Option<OutputSummary>,
    node_fault: Option<String>,
}

impl LeaseMachine {
    /// A lease just received.
    pub fn new(host: &str, wants_output: bool) -> Self {
        let base = Report { host: host.to_owned(), ..Report::default() };
        Self { base, wants_output, stop: None, started: None, ended: None, packed: None, node_fault: None }
    }

    /// The ports that the payload gets.
    pub fn set_ports(&mut self, ports: Option<String>) {
        self.base.ports = ports;
    }

    /// Takes an event in.
    pub fn on(&mut self, event: LeaseEvent, effects: &mut impl Effects) {
        match event {
            LeaseEvent::Started(started) => {
                self.started = Some(started);
                effects.state(PayloadState::Running);
                // A reason from the time before found no payload to end.
                self.stop.into_iter().for_each(|reason| effects.stop(grace(reason)));
            }
            LeaseEvent::Ended(ended) => {
                self.ended = Some(ended);
                effects.state(PayloadState::Completing);
            }
            LeaseEvent::Packed(summary) => self.packed = Some(summary),
            LeaseEvent::NodeFailed(why) => {
                if self.node_fault.is_none() {
                    self.node_fault = Some(why);
                    effects.stop(GRACE);
                }
            }
            LeaseEvent::Stop(reason) => self.stop_for(reason, effects),
            LeaseEvent::Gone(exit) => effects.finish(self.conclusion(&exit)),
        }
    }

    fn stop_for(&mut self, reason: StopReason, effects: &mut impl Effects) {
        if self.stop.is_some_and(|earlier| earlier >= reason) {
            return;
        }
        self.stop = Some(reason);
        let packs = self.is_packing() && reason > StopReason::Drain;
        if self.ended.is_none() || packs {
            effects.stop(grace(reason));
        }
    }

    /// Whether the payload runs.
    pub fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    /// Whether the payload has ended and its output is still on its way from the runner.
    pub fn is_packing(&self) -> bool {
        self.ended.is_some() && self.wants_output && self.packed.is_none()
    }

    fn conclusion(&self, exit: &ChildExit) -> Conclusion {
        if self.stop == Some(StopReason::Lost) {
            return Conclusion::Silent;
        }
        match (&self.ended, &self.node_fault) {
            (Some(ended), None) => self.after_end(ended),
            (Some(ended), Some(why)) if self.stop != Some(StopReason::Cancel) => {
                self.infra(ended.exit_code, why)
            }
            (None, Some(why)) if self.stop.is_none() => self.infra(None, why),
            (Some(ended), Some(_)) => self.after_end(ended),
            (None, _) => self.without_end(exit),
        }
    }

    /// The runner has reported properly.
    fn after_end(&self, ended: &Ended) -> Conclusion {
        let report = |reason| {
            let times = Some((ended.wall_ms, ended.cpu_ms));
            Box::new(Report { limit: ended.limit, ..*self.report(ended.exit_code, reason, times) })
        };
        let own = ended.reason.clone();
        let cut = self.wants_output && self.packed.as_ref().is_none_or(|summary| summary.broken);
        let (outcome, reason) = match (ended.cause, self.stop) {
            (EndCause::Exited, Some(StopReason::Cancel)) if cut => {
                (Outcome::Killed, Some("cancelled while its output files were packed".to_owned()))
            }
            (EndCause::Exited, Some(StopReason::Time)) if cut => {
                (Outcome::Limit, Some("walltime was over while its output files were packed".to_owned()))
            }
            (EndCause::Exited, _) if ended.exit_code == Some(0) => (Outcome::Ok, own),
            (EndCause::Exited, _) => (Outcome::User, own),
            (EndCause::Walltime | EndCause::Memory | EndCause::Disk, _) => (Outcome::Limit, own),
            (EndCause::Stopped | EndCause::Setup, Some(StopReason::Drain)) => return Conclusion::Silent,
            (EndCause::Stopped, Some(StopReason::Time)) => {
                (Outcome::Limit, Some("walltime is over".to_owned()))
            }
            (EndCause::Stopped | EndCause::Setup, Some(_)) => (Outcome::Killed, own),
            (EndCause::Setup, None) => (Outcome::Infra, own),
            (EndCause::Stopped, None) => {
                return self.infra(
                    ended.exit_code,
                    "the session was ended by a signal from outside, such as the batch system's",
                );
            }
        };
        Conclusion::Report(outcome, report(reason))
    }

    /// The child ended without a report of the runner.
    fn without_end(&self, exit: &ChildExit) -> Conclusion {
        match self.stop {
            Some(StopReason::Drain) if *exit == ChildExit::Recalled => return Conclusion::Return,
            Some(StopReason::Drain) => return Conclusion::Silent,
            Some(StopReason::Time) => {
                let reason = Some("walltime is over, and its runner had been stopped".to_owned());
                return Conclusion::Report(Outcome::Limit, self.report(None, reason, None));
            }
            Some(_) => return Conclusion::Report(Outcome::Killed, self.report(None, None, None)),
            None => (),
        }
        let running = self.started.is_some();
        match exit {
            ChildExit::Unprepared(reason) => self.infra(None, reason),
            ChildExit::Recalled => Conclusion::Return,
            ChildExit::Code(code, line) if running && *code > 128 && !(201..=204).contains(code) => {
                let reason = format!(
                    "its runner died with code {code}: killed by the payload itself or for lack of memory {line}"
                );
                Conclusion::Report(
                    Outcome::User,
                    self.report(Some(*code), Some(reason.trim().to_owned()), None),
                )
            }
            ChildExit::Code(code @ 201..=204, line) => {
                self.infra(None, &format!("glexec refused ({code}): {line}"))
            }
            ChildExit::Code(code @ (126 | 127), line) => {
                self.infra(None, &format!("glexec could not execute the pilot program ({code}): {line}"))
            }
            ChildExit::Code(code, line) => {
                self.infra(None, &format!("the runner failed with code {code}: {line}"))
            }
            ChildExit::Signal(signal) => {
                self.infra(None, &format!("glexec or the runner died by signal {signal}"))
            }
        }
    }

    fn infra(&self, exit_code: Option<i32>, reason: &str) -> Conclusion {
        Conclusion::Report(Outcome::Infra, self.report(exit_code, Some(reason.to_owned()), None))
    }

    fn report(
        &self,
        exit_code: Option<i32>,
        reason: Option<String>,
        times: Option<(u64, u64)>,
    ) -> Box<Report> {
        let started = self.started.as_ref();
        Box::new(Report {
            exit_code,
            reason,
            account: started.map(|s| s.account.clone()),
            uid: started.map(|s| s.uid),
            session: started.and_then(|s| s.session.clone()),
            wall_ms: times.map(|t| t.0),
            cpu_ms: times.map(|t| t.1),
            output: self.packed.clone(),
            ..self.base.clone()
        })
    }
}

/// Puts what became of the output files into the result, once they are stored or cannot be: the last word before the report.
pub fn settle_output(outcome: Outcome, mut report: Report, missing: MissingOutput) -> (Outcome, Report) {
    let Some(text) = report.output.as_ref().and_then(OutputSummary::missing) else {
        return (outcome, report);
    };
    let failed = outcome == Outcome::Ok
        && missing == MissingOutput::Fail
        && report.output.as_ref().is_some_and(|o| !o.is_complete());
    report.reason = Some(report.reason.map_or(text.clone(), |reason| format!("{reason}; {text}")));
    (if failed { Outcome::User } else { outcome }, report)
}

fn grace(reason: StopReason) -> Duration {
    match reason {
        StopReason::Lost | StopReason::Time => LOST_GRACE,
        StopReason::Drain | StopReason::Cancel => GRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_api::{LimitKind, LimitReached};

    #[derive(Default)]
    struct Recorder {
        states: Vec<PayloadState>,
        stops: Vec<Duration>,
        conclusion: Option<Conclusion>,
    }

    impl Effects for Recorder {
        fn state(&mut self, state: PayloadState) {
            self.states.push(state);
        }
        fn stop(&mut self, grace: Duration) {
            self.stops.push(grace);
        }
        fn finish(&mut self, conclusion: Conclusion) {
            assert!(self.conclusion.is_none(), "finished twice");
            self.conclusion = Some(conclusion);
        }
    }

    fn run(events: Vec<LeaseEvent>) -> Recorder {
        run_with(false, events)
    }

    fn run_with(outputs: bool, events: Vec<LeaseEvent>) -> Recorder {
        let mut recorder = Recorder::default();
        let mut lease = LeaseMachine::new("wn1", outputs);
        lease.set_ports(Some("40000-40009".into()));
        events.into_iter().for_each(|event| lease.on(event, &mut recorder));
        recorder
    }

    fn outcome(events: Vec<LeaseEvent>) -> Option<(Outcome, Report)> {
        match run(events).conclusion.expect("not finished") {
            Conclusion::Report(outcome, report) => Some((outcome, *report)),
            Conclusion::Silent | Conclusion::Return => None,
        }
    }

    fn started() -> LeaseEvent {
        let session = Some("s1".to_owned());
        LeaseEvent::Started(Started {
            account: "alice".into(),
            uid: 20001,
            session,
            pid: 7,
            workdir: "/tmp/w".into(),
        })
    }

    fn ended(cause: EndCause, exit_code: Option<i32>) -> LeaseEvent {
        LeaseEvent::Ended(Ended { exit_code, cause, reason: None, wall_ms: 5, cpu_ms: 3, limit: None })
    }

    fn gone(code: i32) -> LeaseEvent {
        LeaseEvent::Gone(ChildExit::Code(code, "a reason".into()))
    }

    #[test]
    fn a_plain_run_reports_its_facts() {
        let recorder = run(vec![started(), ended(EndCause::Exited, Some(0)), gone(0)]);
        assert_eq!(recorder.states, [PayloadState::Running, PayloadState::Completing]);
        let Some(Conclusion::Report(Outcome::Ok, report)) = recorder.conclusion else {
            panic!("{:?}", recorder.conclusion)
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
                outcome(vec![started(), ended(EndCause::Exited, Some(code)), gone(204)]).unwrap();
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
        assert_eq!(outcome(vec![LeaseEvent::Gone(ChildExit::Signal(9))]).unwrap().0, Outcome::Infra);
        assert_eq!(
            outcome(vec![LeaseEvent::Gone(ChildExit::Unprepared("port range full".into()))]).unwrap().0,
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
        for cause in [EndCause::Walltime, EndCause::Memory, EndCause::Disk] {
            assert_eq!(
                outcome(vec![started(), ended(cause, Some(143)), gone(143)]).unwrap().0,
                Outcome::Limit
            );
        }
    }

    #[test]
    fn the_report_names_the_limit() {
        let limit = Some(LimitReached { kind: LimitKind::Memory, allowed: 5, used: 7 });
        let reached = Ended {
            exit_code: Some(143),
            cause: EndCause::Memory,
            reason: None,
            wall_ms: 5,
            cpu_ms: 3,
            limit,
        };
        assert_eq!(outcome(vec![started(), LeaseEvent::Ended(reached), gone(143)]).unwrap().1.limit, limit);
    }

    #[test]
    fn a_cancel_stops_once_and_reports_killed() {
        let cancel = || LeaseEvent::Stop(StopReason::Cancel);
        let recorder =
            run(vec![started(), cancel(), cancel(), ended(EndCause::Stopped, Some(143)), gone(143)]);
        assert_eq!(recorder.stops, [GRACE]);
        assert!(matches!(recorder.conclusion, Some(Conclusion::Report(Outcome::Killed, _))));
    }

    #[test]
    fn a_cancel_before_the_start_reaches_the_payload_that_starts_anyway() {
        let recorder = run(vec![LeaseEvent::Stop(StopReason::Cancel), started()]);
        assert_eq!(recorder.stops, [GRACE, GRACE]);
        assert_eq!(
            outcome(vec![LeaseEvent::Stop(StopReason::Cancel), gone(143)]).unwrap().0,
            Outcome::Killed
        );
    }

    #[test]
    fn a_payload_that_ended_by_itself_keeps_its_result() {
        for reason in [StopReason::Cancel, StopReason::Drain] {
            let recorder =
                run(vec![started(), ended(EndCause::Exited, Some(0)), LeaseEvent::Stop(reason), gone(0)]);
            assert!(recorder.stops.is_empty());
            assert!(matches!(recorder.conclusion, Some(Conclusion::Report(Outcome::Ok, _))));
        }
    }

    #[test]
    fn a_drained_payload_goes_back_without_a_word() {
        assert_eq!(
            outcome(vec![
                started(),
                LeaseEvent::Stop(StopReason::Drain),
                ended(EndCause::Stopped, Some(143)),
                gone(143)
            ]),
            None
        );
        assert_eq!(outcome(vec![LeaseEvent::Stop(StopReason::Drain), gone(143)]), None);
    }

    #[test]
    fn what_was_called_back_before_it_began_goes_back_unless_somebody_wants_more() {
        let recalled = |reason| {
            let events = vec![LeaseEvent::Stop(reason), LeaseEvent::Gone(ChildExit::Recalled)];
            run(events).conclusion.unwrap()
        };
        assert_eq!(recalled(StopReason::Drain), Conclusion::Return);
        assert_eq!(recalled(StopReason::Lost), Conclusion::Silent);
        let Conclusion::Report(Outcome::Killed, _) = recalled(StopReason::Cancel) else {
            panic!("a cancelled payload would wait again")
        };
    }

    #[test]
    fn a_lost_lease_is_never_reported_and_beats_other_wishes() {
        assert_eq!(
            outcome(vec![
                started(),
                LeaseEvent::Stop(StopReason::Lost),
                ended(EndCause::Exited, Some(0)),
                gone(0)
            ]),
            None
        );
        let recorder = run(vec![
            started(),
            LeaseEvent::Stop(StopReason::Cancel),
            LeaseEvent::Stop(StopReason::Lost),
            LeaseEvent::Stop(StopReason::Drain),
        ]);
        assert_eq!(recorder.stops, [GRACE, LOST_GRACE]);
    }

    #[test]
    fn an_end_from_outside_is_not_the_users_fault() {
        assert_eq!(
            outcome(vec![started(), ended(EndCause::Stopped, Some(143)), gone(143)]).unwrap().0,
            Outcome::Infra
        );
        assert_eq!(outcome(vec![ended(EndCause::Setup, None), gone(1)]).unwrap().0, Outcome::Infra);
    }

    fn packed(broken: bool) -> LeaseEvent {
        LeaseEvent::Packed(OutputSummary { broken, ..OutputSummary::default() })
    }

    #[test]
    fn a_cancel_ends_the_packing_of_output_and_not_what_is_packed_already() {
        let cancel = || LeaseEvent::Stop(StopReason::Cancel);
        let whole = || ended(EndCause::Exited, Some(0));
        let early = run_with(true, vec![started(), whole(), cancel(), packed(true), gone(0)]);
        assert_eq!(early.stops, [GRACE]);
        assert!(
            matches!(early.conclusion, Some(Conclusion::Report(Outcome::Killed, _))),
            "{:?}",
            early.conclusion
        );
        let late = run_with(true, vec![started(), whole(), packed(false), cancel(), gone(0)]);
        assert!(late.stops.is_empty());
        assert!(matches!(late.conclusion, Some(Conclusion::Report(Outcome::Ok, _))), "{:?}", late.conclusion);
        let time = LeaseEvent::Stop(StopReason::Time);
        let over = run_with(true, vec![started(), whole(), time, packed(true), gone(0)]);
        assert!(
            matches!(over.conclusion, Some(Conclusion::Report(Outcome::Limit, _))),
            "{:?}",
            over.conclusion
        );
    }

    #[test]
    fn a_payload_that_stops_its_runner_is_ended_at_its_walltime_all_the_same() {
        let time = || LeaseEvent::Stop(StopReason::Time);
        let silent = run(vec![started(), time(), gone(137)]);
        assert_eq!(silent.stops, [LOST_GRACE]);
        assert!(matches!(silent.conclusion, Some(Conclusion::Report(Outcome::Limit, _))));
        let woken = run(vec![started(), time(), ended(EndCause::Stopped, Some(143)), gone(143)]);
        assert!(matches!(woken.conclusion, Some(Conclusion::Report(Outcome::Limit, _))));
    }

    #[test]
    fn what_the_node_lost_is_the_nodes_fault_and_a_cancel_still_the_users_wish() {
        let failed = || LeaseEvent::NodeFailed("this node cannot keep the output files: no space".into());
        let (result, report) =
            outcome(vec![started(), ended(EndCause::Exited, Some(7)), failed(), gone(7)]).unwrap();
        assert_eq!((result, report.exit_code), (Outcome::Infra, Some(7)));
        assert!(report.reason.unwrap().contains("no space"));
        assert_eq!(outcome(vec![started(), failed(), gone(143)]).unwrap().0, Outcome::Infra);
        let cancelled = vec![started(), LeaseEvent::Stop(StopReason::Cancel), failed(), gone(143)];
        assert_eq!(outcome(cancelled).unwrap().0, Outcome::Killed);
    }

    #[test]
    fn missing_output_is_said_and_fails_the_payload_only_where_that_was_asked_for() {
        let output = Some(OutputSummary { unmatched: vec!["*.root".into()], ..OutputSummary::default() });
        let report = || Report { output: output.clone(), ..Report::default() };
        let (result, said) = settle_output(Outcome::Ok, report(), MissingOutput::Ok);
        assert_eq!(result, Outcome::Ok);
        assert!(said.reason.unwrap().contains("*.root"));
        assert_eq!(settle_output(Outcome::Ok, report(), MissingOutput::Fail).0, Outcome::User);
        assert_eq!(settle_output(Outcome::Limit, report(), MissingOutput::Fail).0, Outcome::Limit);
        let whole = Report { output: Some(OutputSummary::default()), ..Report::default() };
        assert_eq!(settle_output(Outcome::Ok, whole.clone(), MissingOutput::Fail), (Outcome::Ok, whole));
    }
}
