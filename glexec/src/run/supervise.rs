//! Waiting for the payload: forwarding signals, ending what is left, counting what it used.
//!
//! The supervisor stays root and in the caller's process group and session. Once the payload runs it closes the caller's
//! descriptors: a reader of the payload's output must see its end when the payload ends, not when the supervisor does.

use crate::admit::request::FORWARDED;
use crate::failure::Failure;
use crate::run::checkpoints::Checkpoints;
use crate::run::child_processes;
use crate::run::gratia_log::GratiaLog;
use crate::run::launch::{self, Plan};
use crate::run::outcome::{self, Mishap, Outcome};
use crate::session::active_session::ActiveSession;
use crate::session::cgroup::Leaf;
use crate::session::usage::{self, Waited};
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, Uid, getppid};
use policy::GlexecConf;
use record::{Exit, Usage};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Ready to supervise: signals are held, orphans will come to us, and the clocks are read.
struct Supervisor {
    signals: SignalFd,
    start_boottime_ns: u64,
    before: Waited,
    checkpoints: Checkpoints,
    root_only: bool,
    /// Whose end ends the payload: the process that called.
    caller: Option<OwnedFd>,
}

/// What the site wants at the end, and who is heard until then.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// `[payload] kill_leftovers`.
    pub(crate) kill_leftovers: bool,
    /// `[payload] end_with_caller`.
    pub(crate) end_with_caller: bool,
    /// `[accounting] checkpoint`.
    pub(crate) checkpoint: Duration,
    /// With an epilogue only root may signal: nobody else shall keep it from running.
    pub(crate) root_only: bool,
}

/// How the payload's first process ended, and when.
struct FirstEnd {
    status: WaitStatus,
    max_rss_kib: u64,
    wall_ns: u64,
}

/// Starts the payload and supervises it to the end.
pub(crate) fn run(
    session: &mut ActiveSession,
    plan: &Plan<'_>,
    rules: Rules,
    conf: &GlexecConf,
    gratia: &GratiaLog<'_>,
) -> Result<Outcome, Failure> {
    let mut supervisor = Supervisor::prepare(rules)?;
    let mut payload = launch::start(plan, session.leaf(), session.namespace())?;
    session.post_reaper(conf);
    supervisor.hear(session.may_signal, rules);
    let report = payload.report();
    session.started(payload.pid, &report);
    let ran = report.mishap.is_none();
    if ran {
        let _ = fds::null_standard();
        gratia.started(payload.pid);
    }
    let end = supervisor.wait(payload.pid, session);
    session.dismiss_reaper();
    let outcome = supervisor.conclude(payload.pid, report.mishap, end, session, rules);
    if ran {
        gratia.terminated(payload.pid, &outcome.usage);
    }
    Ok(outcome)
}

impl Supervisor {
    /// Blocks the signals before the payload exists, so that none is lost. With `end_with_caller` it holds on to the
    /// process that called; a host where that cannot be done must not promise it.
    fn prepare(rules: Rules) -> Result<Self, Failure> {
        let held = Self::hold_signals(rules.checkpoint);
        let mut supervisor = held.map_err(|e| Failure::site(format!("supervisor: {e}")))?;
        if rules.end_with_caller {
            let caller = calling_process().map_err(|e| {
                Failure::site(format!(
                    "the policy asks for [payload] end_with_caller, and the calling process cannot be watched: {e}; \
                     call glexec from a process that waits for it, or remove the key"
                ))
            })?;
            supervisor.caller = Some(caller);
        }
        Ok(supervisor)
    }

    fn hold_signals(checkpoint: Duration) -> nix::Result<Self> {
        let mut held: SigSet = FORWARDED.into_iter().collect();
        held.add(Signal::SIGCHLD);
        held.thread_block()?;
        nix::sys::prctl::set_child_subreaper(true)?;
        let began = process::boottime_ns();
        Ok(Self {
            signals: SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC)?,
            start_boottime_ns: began,
            before: Waited::now(),
            checkpoints: Checkpoints::new(checkpoint, began),
            root_only: false,
            caller: None,
        })
    }

    /// From here on the payload's account and the caller may signal, as far as the rules let them.
    fn hear(&mut self, may_signal: Option<(u32, Uid)>, rules: Rules) {
        self.root_only = rules.root_only;
        let (ruid, suid) = may_signal.filter(|_| !rules.root_only).unwrap_or((0, Uid::from_raw(0)));
        if may_signal.is_some() {
            // Should it fail, root can still signal us, and the payload runs all the same.
            let _ = ids::be_signalable(ruid, suid);
        }
    }

    /// Waits for the end of the payload's first process.
    fn wait(&mut self, payload: Pid, session: &mut ActiveSession) -> FirstEnd {
        let (status, max_rss_kib) = self.wait_for(payload, session);
        FirstEnd {
            status,
            max_rss_kib,
            wall_ns: process::boottime_ns().saturating_sub(self.start_boottime_ns),
        }
    }

    /// Ends what the payload left behind, as far as the rules say so, and sums up.
    fn conclude(
        &self,
        pid: Pid,
        mishap: Option<Mishap>,
        end: FirstEnd,
        session: &ActiveSession,
        rules: Rules,
    ) -> Outcome {
        let leaf = session.leaf();
        let leftovers = session.leftovers();
        let abandoned = rules.end_with_caller && self.caller.is_none();
        let all_gone = !(rules.kill_leftovers || abandoned) || end_leftovers(leaf);
        let mut exit = Exit { leftovers: u32::try_from(leftovers).unwrap_or(u32::MAX), ..Exit::default() };
        if abandoned {
            exit.killed_by = Some("its caller ended".into());
        }
        if !all_gone {
            exit.killed_by = Some("leftovers do not end".into());
        }
        let code = outcome::fill_exit(&mut exit, end.status, mishap.as_ref());
        let usage = self.usage(leaf, &end);
        exit.oom = usage.oom_kills.is_some_and(|killed| killed > 0);
        Outcome { pid, usage, exit, mishap, code }
    }

    /// Reaps every child, forwards signals; returns the end of the payload's first process and its peak memory (KiB).
    fn wait_for(&mut self, payload: Pid, session: &mut ActiveSession) -> (WaitStatus, u64) {
        loop {
            if let Some(end) = reap(payload) {
                return end;
            }
            let waited = Waited::now().since(self.before);
            self.checkpoints.write_when_due(session, payload, Some(waited));
            let Some(info) = self.news(payload, self.checkpoints.patience(session)) else { continue };
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
            // The terminal signals the whole group, and the payload is in it: it has this one already.
            let from_terminal = info.ssi_code == libc::SI_KERNEL;
            let heard = !from_terminal && (!self.root_only || info.ssi_uid == 0);
            if let Some(signal) = signal.filter(|s| *s != Signal::SIGCHLD && heard) {
                let _ = kill(payload, signal);
            }
        }
    }

    /// Waits for the next signal, as long as patience lasts. The caller's end, where it counts, kills the payload, and its
    /// end will be the next.
    fn news(&mut self, payload: Pid, patience: PollTimeout) -> Option<siginfo> {
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.caller.as_ref().map(|caller| PollFd::new(caller.as_fd(), PollFlags::POLLIN)));
        if poll(&mut polled, patience).ok()? == 0 {
            return None;
        }
        if polled.get(1).is_some_and(|caller| caller.any() == Some(true)) {
            self.caller = None;
            let _ = kill(payload, Signal::SIGKILL);
            return None;
        }
        self.signals.read_signal().ok().flatten()
    }

    fn usage(&self, leaf: Option<&Leaf>, end: &FirstEnd) -> Usage {
        let mut usage = usage::counted(leaf, end.wall_ns, Some(Waited::now().since(self.before)));
        // A cgroup's peak is better where there is one: this is the largest single process.
        usage::note_peak(&mut usage, "maxrss", end.max_rss_kib.saturating_mul(1024));
        self.checkpoints.complete(&mut usage);
        usage
    }
}

/// A descriptor of the process that called, which becomes readable when that ends.
fn calling_process() -> nix::Result<OwnedFd> {
    let caller = getppid();
    let watched = process::pidfd(caller)?;
    // Had it ended before, its number could be another's, and init would be our parent.
    if getppid() == caller && caller.as_raw() > 1 { Ok(watched) } else { Err(Errno::ESRCH) }
}

/// Reaps whatever has ended; orphans of the payload among it. Returns the payload's own end.
fn reap(payload: Pid) -> Option<(WaitStatus, u64)> {
    loop {
        match process::wait_any() {
            Ok((status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)), rss))
                if pid == payload =>
            {
                return Some((status, rss));
            }
            Ok((WaitStatus::StillAlive, _)) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            // No child and yet no status: somebody else waited for it, which cannot be.
            Err(_) => return Some((WaitStatus::Exited(payload, 202), 0)),
        }
    }
}

/// Ends what the payload left behind, and proves it: an empty leaf, and no child.
fn end_leftovers(leaf: Option<&Leaf>) -> bool {
    let leaf_empty = leaf.is_none_or(Leaf::kill_all);
    child_processes::end_children() && leaf_empty
}
