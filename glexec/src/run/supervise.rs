//! The supervisor: starts the payload, forwards signals, holds the limits, ends what is left, counts what it used.
//!
//! It is root and nobody else (see [`front`](crate::run::front)), so that neither caller nor payload can signal, stop or
//! starve it. Once the payload runs it leaves the caller's session and closes the caller's descriptors: a reader of the
//! payload's output must see its end when the payload ends, not when the supervisor does. In log-only mode there is no
//! root: the process that was called supervises with the caller's ids.

use crate::admit::request::Limits;
use crate::failure::Failure;
use crate::run::checkpoints::Checkpoints;
use crate::run::child_processes;
use crate::run::front::{Line, News};
use crate::run::gratia_log::GratiaLog;
use crate::run::launch::{self, Plan};
use crate::run::limits::{Exceeded, Watched};
use crate::run::outcome::{self, Outcome};
use crate::session::active_session::ActiveSession;
use crate::session::cgroup::Leaf;
use crate::session::usage::{self, Waited};
use crate::sys::process::{self, End};
use crate::sys::{attributes, fds};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getppid};
use record::{Exit, Usage};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Between SIGTERM for a time limit and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How often the end of a killed payload is looked for that does not announce itself.
const TICK: Duration = Duration::from_millis(100);

/// What the site wants at the end.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// `[payload] kill_leftovers`.
    pub(crate) kill_leftovers: bool,
    /// `[accounting] checkpoint`.
    pub(crate) checkpoint: Duration,
    /// Limits that came with the call.
    pub(crate) limits: Limits,
}

/// Why the payload was ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Front,
    Caller,
    OwnTime,
    Limit(Exceeded),
}

impl Cause {
    /// In the record's words.
    fn text(self) -> String {
        match self {
            Self::Front => "the glexec that waited was killed".into(),
            Self::Caller => "its caller ended".into(),
            Self::OwnTime => "the CPU time that its caller allows is used up by its supervisor".into(),
            Self::Limit(exceeded) => exceeded.to_string(),
        }
    }
}

/// Ready to supervise: signals are held, orphans will come to us, and the clocks are read.
struct Supervisor<'a> {
    signals: SignalFd,
    line: Option<&'a mut Line>,
    /// Whose end ends the payload: the process that called.
    caller: Option<OwnedFd>,
    start_boottime_ns: u64,
    before: Waited,
    watched: Watched,
    checkpoints: Checkpoints,
    /// Why SIGKILL was sent, and since when that is waited for.
    killed: Option<(Cause, Instant)>,
    /// How many processes there were besides the first one when all were killed.
    killed_others: usize,
    /// Readable when the payload's first process has ended, also while another process keeps its end from us.
    payload: Option<OwnedFd>,
    /// Since when it has ended unseen.
    unseen: Option<Instant>,
    /// When SIGTERM for a limit is followed by SIGKILL.
    grace: Option<(Exceeded, Instant)>,
}

/// How the payload's first process ended, and when.
struct FirstEnd {
    end: End,
    max_rss_kib: u64,
    wall_ns: u64,
}

/// A descriptor of the process that called, which becomes readable when that ends. A host where that cannot be had must
/// not promise `end_with_caller`.
pub(crate) fn calling_process() -> Result<OwnedFd, Failure> {
    let caller = getppid();
    let watched = process::pidfd(caller).and_then(|watched| {
        // Had it ended before, its number could be another's, and init would be our parent.
        if getppid() == caller && caller.as_raw() > 1 { Ok(watched) } else { Err(Errno::ESRCH) }
    });
    watched.map_err(|e| {
        Failure::site(format!(
            "the policy asks for [payload] end_with_caller, and the calling process cannot be watched: {e}; \
             call glexec from a process that waits for it, or remove the key"
        ))
    })
}

/// Starts the payload and supervises it to the end.
pub(crate) fn run(
    session: &mut ActiveSession,
    plan: &Plan<'_>,
    rules: Rules,
    line: Option<&mut Line>,
    caller: Option<OwnedFd>,
    gratia: &GratiaLog<'_>,
) -> Result<Outcome, Failure> {
    let has_line = line.is_some();
    let mut supervisor = Supervisor::prepare(session, rules, line, caller)?;
    supervisor.line.as_mut().map_or(Ok(()), |line| line.wait_for_front())?;
    let mut payload = launch::start(plan, session.leaf(), session.namespace())?;
    // Kernels before 5.3 have none; there a traced payload's end is seen when the tracer lets go.
    supervisor.payload = process::pidfd(payload.pid).ok();
    if has_line {
        // The payload was born in the caller's session; a terminal's signals are none of ours.
        let _ = nix::unistd::setsid();
        let _ = nix::unistd::chdir("/");
        attributes::normal_memory_policy();
    }
    let report = payload.report();
    session.started(payload.pid, &report);
    let ran = report.mishap.is_none();
    if ran {
        let _ = fds::null_standard();
        gratia.started(payload.pid);
    }
    let first = supervisor.wait_for(payload.pid, session);
    // Those that were killed together with the first one are no more by now, or still on their way out.
    let leftovers = session.leftovers(payload.pid).max(supervisor.killed_others);
    // Who obeys the warning of a limit was ended by the limit all the same.
    let warned = supervisor.grace.map(|(exceeded, _)| Cause::Limit(exceeded));
    let cause = supervisor.killed.map(|(cause, _)| cause).or(warned);
    let all_gone = !(rules.kill_leftovers || cause.is_some()) || end_leftovers(session);
    let mut exit = Exit { leftovers: u32::try_from(leftovers).unwrap_or(u32::MAX), ..Exit::default() };
    exit.killed_by = cause.map(Cause::text);
    if !all_gone {
        exit.killed_by = Some("leftovers do not end".into());
    }
    let code = outcome::fill_exit(&mut exit, first.end, report.mishap.as_ref());
    let usage = supervisor.usage(session.leaf(), &first);
    exit.oom = usage.oom_kills.is_some_and(|killed| killed > 0);
    if ran {
        gratia.terminated(payload.pid, &usage);
    }
    Ok(Outcome { pid: payload.pid, usage, exit, mishap: report.mishap, code })
}

impl<'a> Supervisor<'a> {
    /// Blocks the signals before the payload exists, so that none is lost, and puts the limits up.
    fn prepare(
        session: &ActiveSession,
        rules: Rules,
        line: Option<&'a mut Line>,
        caller: Option<OwnedFd>,
    ) -> Result<Self, Failure> {
        let failed = |e: Errno| Failure::site(format!("supervisor: {e}"));
        SigSet::all().thread_block().map_err(failed)?;
        nix::sys::prctl::set_child_subreaper(true).map_err(failed)?;
        let began = process::boottime_ns();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            signals: SignalFd::with_flags(&SigSet::all(), flags).map_err(failed)?,
            line,
            caller,
            start_boottime_ns: began,
            before: Waited::now(),
            watched: Watched::begin(rules.limits, session.leaf()),
            checkpoints: Checkpoints::new(rules.checkpoint, began),
            killed: None,
            killed_others: 0,
            payload: None,
            unseen: None,
            grace: None,
        })
    }

    /// Reaps every child, forwards signals, holds the limits; returns the end of the payload's first process.
    fn wait_for(&mut self, payload: Pid, session: &mut ActiveSession) -> FirstEnd {
        loop {
            if let Some((end, max_rss_kib)) = reap(payload) {
                let wall_ns = process::boottime_ns().saturating_sub(self.start_boottime_ns);
                return FirstEnd { end, max_rss_kib, wall_ns };
            }
            self.hold_limits(payload, session);
            if let Some(end) = self.unseen_end(payload, session) {
                let wall_ns = process::boottime_ns().saturating_sub(self.start_boottime_ns);
                return FirstEnd { end, max_rss_kib: 0, wall_ns };
            }
            let waited = Waited::now().since(self.before);
            self.checkpoints.write_when_due(session, payload, Some(waited));
            self.wait_for_news(payload, session);
        }
    }

    fn wait_for_news(&mut self, payload: Pid, session: &ActiveSession) {
        let [signalled, told, ended, payload_ended] = self.poll(session);
        if signalled {
            while let Ok(Some(info)) = self.signals.read_signal() {
                // The terminal signals the whole group, and the payload is in it: it has this one already.
                let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
                if info.ssi_code == libc::SI_KERNEL && signal == libc::SIGXCPU {
                    // The last warning before the caller's hard limit ends this process.
                    self.end(payload, session, Cause::OwnTime);
                }
                if info.ssi_code != libc::SI_KERNEL && signal != libc::SIGCHLD {
                    process::send(payload, signal);
                }
            }
        }
        if told {
            match self.line.as_mut().map_or(News::Nothing, |line| line.news()) {
                News::Signal(signal) => process::send(payload, signal),
                News::FrontEnded => {
                    self.line = None;
                    self.end(payload, session, Cause::Front);
                }
                News::Nothing => {}
            }
        }
        if payload_ended {
            // Asked once: from here on it would be readable for ever. Mostly the next look for children finds it.
            self.payload = None;
            self.unseen = Some(Instant::now());
        }
        if ended {
            self.caller = None;
            self.end(payload, session, Cause::Caller);
        }
    }

    /// Which of signals, line, caller and payload have news.
    fn poll(&self, session: &ActiveSession) -> [bool; 4] {
        let ends = [
            Some(self.signals.as_fd()),
            self.line.as_ref().map(|line| line.as_fd()),
            self.caller.as_ref().map(AsFd::as_fd),
            self.payload.as_ref().map(AsFd::as_fd),
        ];
        let listened: Vec<BorrowedFd<'_>> = ends.iter().flatten().copied().collect();
        let mut polled: Vec<_> = listened.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let _ = poll(&mut polled, sooner(self.patience(), self.checkpoints.patience(session)));
        let mut answers = polled.iter().map(|p| p.any() == Some(true));
        ends.map(|end| end.is_some() && answers.next().unwrap_or(false))
    }

    fn patience(&self) -> PollTimeout {
        let until_grace = self.grace.map(|(_, until)| until.saturating_duration_since(Instant::now()));
        let tick = self.unseen.or(self.killed.map(|(_, since)| since)).map(|_| TICK);
        let next = [until_grace, tick, self.watched.next()].into_iter().flatten().min();
        next.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        })
    }

    fn hold_limits(&mut self, payload: Pid, session: &ActiveSession) {
        if self.killed.is_some() {
            return;
        }
        if let Some((exceeded, until)) = self.grace {
            if Instant::now() >= until {
                self.end(payload, session, Cause::Limit(exceeded));
            }
            return;
        }
        let Some(exceeded) = self.watched.exceeded(session.leaf()) else { return };
        if exceeded.is_of_time() {
            process::send(payload, libc::SIGTERM);
            self.grace = Some((exceeded, Instant::now() + GRACE));
        } else {
            self.end(payload, session, Cause::Limit(exceeded));
        }
    }

    /// Kills all of it; the first process's end will be the next news.
    fn end(&mut self, payload: Pid, session: &ActiveSession, cause: Cause) {
        if self.killed.is_none() {
            self.killed = Some((cause, Instant::now()));
            self.killed_others = session.leftovers(payload);
        }
        let _ = kill(payload, Signal::SIGKILL);
        if let Some(leaf) = session.leaf() {
            let _ = leaf.kill_at_once();
        }
    }

    /// A process of the same account that traces the payload can hold it on its way out, and its end from us. It is killed
    /// as well: who is killed by root ends.
    fn unseen_end(&self, payload: Pid, session: &ActiveSession) -> Option<End> {
        let since = self.unseen.or(self.killed.map(|(_, since)| since))?;
        if since.elapsed() >= TICK {
            child_processes::end_tracer(payload, session.account());
        }
        if self.unseen.is_some() && since.elapsed() > GRACE { process::unreaped_end(payload) } else { None }
    }

    fn usage(&self, leaf: Option<&Leaf>, first: &FirstEnd) -> Usage {
        let mut usage = usage::counted(leaf, first.wall_ns, Some(Waited::now().since(self.before)));
        // A cgroup's peak is better where there is one: this is the largest single process.
        usage::note_peak(&mut usage, "maxrss", first.max_rss_kib.saturating_mul(1024));
        self.checkpoints.complete(&mut usage);
        usage
    }
}

/// The one of two that is over first.
fn sooner(a: PollTimeout, b: PollTimeout) -> PollTimeout {
    // A negative one is never over.
    let (one, other) = (i32::from(a), i32::from(b));
    if one < 0 || (other >= 0 && other < one) { b } else { a }
}

/// Reaps whatever has ended; orphans of the payload among it. Returns the payload's own end and its peak memory (KiB).
fn reap(payload: Pid) -> Option<(End, u64)> {
    loop {
        match process::wait_any() {
            Ok(Some((pid, end, rss))) if pid == payload => return Some((end, rss)),
            Ok(None) => return None,
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            // No child and yet no status: somebody else waited for it, which cannot be.
            Err(_) => return Some((End::Exited(202), 0)),
        }
    }
}

/// Ends what the payload left behind, and proves it: an empty leaf, and no child.
fn end_leftovers(session: &ActiveSession) -> bool {
    let leaf_empty = session.leaf().is_none_or(|leaf| leaf.kill_all(session.account()));
    child_processes::end_children(session.account()) && leaf_empty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_first_is_waited_for() {
        let (never, soon, later) = (PollTimeout::NONE, PollTimeout::from(5_u8), PollTimeout::from(9_u8));
        for (a, b, first) in [
            (never, never, never),
            (never, soon, soon),
            (soon, never, soon),
            (later, soon, soon),
            (soon, later, soon),
        ] {
            assert_eq!(sooner(a, b), first);
        }
    }
}
