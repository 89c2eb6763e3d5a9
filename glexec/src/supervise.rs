//! Waiting for the payload: forwarding signals, ending what is left, counting what it used.
//!
//! The supervisor stays root and in the caller's process group and session. It keeps none of the caller's
//! descriptors, so that nobody who waits for their end waits for us.

use crate::cgroup::Leaf;
use crate::failure::Failure;
use crate::kin;
use crate::launch::{Launched, Mishap};
use crate::monitor::Monitor;
use crate::request::FORWARDED;
use crate::sitting::Sitting;
use crate::sys::{fds, ids, process};
use crate::usage::{self, Waited};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid, getppid};
use record::{Exit, Usage};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long leftovers without a cgroup may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ready to supervise: signals are held, orphans will come to us, and the clocks are read.
pub(crate) struct Supervisor {
    signals: SignalFd,
    start_boottime_ns: u64,
    before: Waited,
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
    /// With an epilogue only root may signal: nobody else shall keep it from running.
    pub(crate) root_only: bool,
}

/// How it ended.
pub(crate) struct Ended {
    /// The payload's first process.
    pub(crate) pid: Pid,
    /// For the record.
    pub(crate) exit: Exit,
    /// For the record.
    pub(crate) usage: Usage,
    /// What kept the command from being executed.
    pub(crate) mishap: Option<Mishap>,
    /// Exit code of `glexec`.
    pub(crate) code: u8,
}

impl Supervisor {
    /// Blocks the signals before the payload exists, so that none is lost. With `end_with_caller` it holds on to the
    /// process that called; a host where that cannot be done must not promise it.
    pub(crate) fn prepare(end_with_caller: bool) -> Result<Self, Failure> {
        let mut supervisor = Self::hold_signals().map_err(|e| Failure::site(format!("supervisor: {e}")))?;
        if end_with_caller {
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

    fn hold_signals() -> nix::Result<Self> {
        let mut held: SigSet = FORWARDED.into_iter().collect();
        held.add(Signal::SIGCHLD);
        held.thread_block()?;
        nix::sys::prctl::set_child_subreaper(true)?;
        Ok(Self {
            signals: SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC)?,
            start_boottime_ns: process::boottime_ns(),
            before: Waited::now(),
            root_only: false,
            caller: None,
        })
    }

    /// Supervises to the end.
    pub(crate) fn watch(
        mut self,
        mut payload: Launched,
        sitting: &mut Sitting,
        rules: Rules,
        monitor: &Monitor<'_>,
    ) -> Ended {
        self.root_only = rules.root_only;
        let (ruid, suid) = sitting.may_signal.filter(|_| !rules.root_only).unwrap_or((0, Uid::from_raw(0)));
        if sitting.may_signal.is_some() {
            // Should it fail, root can still signal us, and the payload runs all the same.
            let _ = ids::be_signalable(ruid, suid);
        }
        let report = payload.report();
        sitting.started(payload.pid, &report);
        let mishap = report.mishap;
        if mishap.is_none() {
            let _ = fds::null_standard();
            monitor.started(payload.pid);
        }
        let (status, max_rss_kib) = self.wait_for(payload.pid);
        let wall_ns = process::boottime_ns().saturating_sub(self.start_boottime_ns);
        sitting.dismiss_guard();
        let leaf = sitting.leaf();
        let leftovers = sitting.leftovers();
        let abandoned = rules.end_with_caller && self.caller.is_none();
        let all_gone = !(rules.kill_leftovers || abandoned) || end_leftovers(leaf);
        let mut exit = Exit { leftovers: u32::try_from(leftovers).unwrap_or(u32::MAX), ..Exit::default() };
        if abandoned {
            exit.killed_by = Some("its caller ended".into());
        }
        if !all_gone {
            exit.killed_by = Some("leftovers do not end".into());
        }
        let code = fill_exit(&mut exit, status, mishap.as_ref());
        let usage = self.usage(leaf, wall_ns, max_rss_kib);
        exit.oom = usage.oom_kills.is_some_and(|killed| killed > 0);
        if mishap.is_none() {
            monitor.terminated(payload.pid, &usage);
        }
        Ended { pid: payload.pid, usage, exit, mishap, code }
    }

    /// Reaps every child, forwards signals; returns the end of the payload's first process and its peak memory (KiB).
    fn wait_for(&mut self, payload: Pid) -> (WaitStatus, u64) {
        loop {
            if let Some(end) = reap(payload) {
                return end;
            }
            let Some(info) = self.news(payload) else { continue };
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
            // The terminal signals the whole group, and the payload is in it: it has this one already.
            let from_terminal = info.ssi_code == libc::SI_KERNEL;
            let heard = !from_terminal && (!self.root_only || info.ssi_uid == 0);
            if let Some(signal) = signal.filter(|s| *s != Signal::SIGCHLD && heard) {
                let _ = kill(payload, signal);
            }
        }
    }

    /// Waits for the next signal. The caller's end, where it counts, kills the payload, and its end will be the next.
    fn news(&mut self, payload: Pid) -> Option<siginfo> {
        if let Some(caller) = &self.caller {
            let mut polled = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(caller.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut polled, PollTimeout::NONE).ok()?;
            if polled[1].any() == Some(true) {
                self.caller = None;
                let _ = kill(payload, Signal::SIGKILL);
                return None;
            }
        }
        self.signals.read_signal().ok().flatten()
    }

    fn usage(&self, leaf: Option<&Leaf>, wall_ns: u64, max_rss_kib: u64) -> Usage {
        let mut usage = usage::counted(leaf, wall_ns, Some(Waited::now().since(self.before)));
        // A cgroup's peak is better where there is one: this is the largest single process.
        usage::note_peak(&mut usage, "maxrss", max_rss_kib.saturating_mul(1024));
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

fn fill_exit(exit: &mut Exit, status: WaitStatus, mishap: Option<&Mishap>) -> u8 {
    match (mishap, status) {
        (Some(mishap), _) => {
            exit.code = Some(i32::from(mishap.code));
            exit.killed_by = Some(format!("not executed: {}", mishap.reason));
            mishap.code
        }
        (None, WaitStatus::Signaled(_, signal, _)) => {
            exit.signal = Some(signal as i32);
            u8::try_from(128 + signal as i32).unwrap_or(255)
        }
        (None, WaitStatus::Exited(_, code)) => {
            exit.code = Some(code);
            caller_code(code)
        }
        (None, _) => 202,
    }
}

/// 201 to 204 are ours: a payload that ends with one of them is shown as 204.
fn caller_code(code: i32) -> u8 {
    if (201..=204).contains(&code) { 204 } else { u8::try_from(code).unwrap_or(255) }
}

/// Ends what the payload left behind, and proves it: an empty leaf, and no child.
fn end_leftovers(leaf: Option<&Leaf>) -> bool {
    let leaf_empty = leaf.is_none_or(Leaf::kill_all);
    end_children() && leaf_empty
}

/// Ends all children of this process that are ours, and theirs, as far as they come to us as orphans. `false` when some
/// would not end.
pub(crate) fn end_children() -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Whoever is killed hands its own children to us, so this goes down the tree level by level.
        for pid in kin::own() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) if kin::only_inherited() => return true,
            Ok(WaitStatus::StillAlive) if Instant::now() > deadline => return false,
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(status: WaitStatus, mishap: Option<&Mishap>) -> u8 {
        fill_exit(&mut Exit::default(), status, mishap)
    }

    #[test]
    fn codes_of_the_payload_pass_but_for_ours() {
        let exited = |n| WaitStatus::Exited(Pid::from_raw(2), n);
        for (n, expected) in
            [(0, 0), (7, 7), (127, 127), (200, 200), (201, 204), (203, 204), (204, 204), (205, 205)]
        {
            assert_eq!(code(exited(n), None), expected);
        }
        assert_eq!(code(WaitStatus::Signaled(Pid::from_raw(2), Signal::SIGTERM, false), None), 143);
        assert_eq!(code(WaitStatus::Signaled(Pid::from_raw(2), Signal::SIGKILL, false), None), 137);
    }

    #[test]
    fn a_mishap_before_exec_keeps_its_own_code() {
        let mishap = Mishap { code: 201, reason: "no such command".into() };
        assert_eq!(code(WaitStatus::Exited(Pid::from_raw(2), 201), Some(&mishap)), 201);
    }
}
