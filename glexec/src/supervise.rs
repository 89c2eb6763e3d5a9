//! Waiting for the payload: forwarding signals, ending what is left, counting what it used.
//!
//! The supervisor stays root and in the caller's process group and session. It keeps none of the caller's
//! descriptors, so that nobody who waits for their end waits for us.

use crate::cgroup::Leaf;
use crate::launch::{Launched, Mishap};
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use record::{Exit, Usage};
use std::time::{Duration, Instant};

/// Passed on to the payload's first process.
const FORWARDED: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];
/// How long leftovers without a cgroup may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ready to supervise: signals are held, orphans will come to us, and the clocks are read.
pub(crate) struct Supervisor {
    signals: SignalFd,
    start_boottime_ns: u64,
    cpu_before: (u64, u64),
}

/// How it ended.
pub(crate) struct Ended {
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
    /// Blocks the signals before the payload exists, so that none is lost.
    pub(crate) fn prepare() -> nix::Result<Self> {
        let mut held: SigSet = FORWARDED.into_iter().collect();
        held.add(Signal::SIGCHLD);
        held.thread_block()?;
        nix::sys::prctl::set_child_subreaper(true)?;
        Ok(Self {
            signals: SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC)?,
            start_boottime_ns: process::boottime_ns(),
            cpu_before: children_cpu(),
        })
    }

    /// Supervises to the end.
    pub(crate) fn watch(
        self,
        mut payload: Launched,
        leaf: Option<&Leaf>,
        may_signal: Option<(u32, Uid)>,
        kill_leftovers: bool,
    ) -> Ended {
        if let Some((target, caller)) = may_signal {
            // Without it only root can signal us; the payload runs all the same.
            let _ = ids::be_signalable(target, caller);
        }
        let mishap = payload.report();
        if mishap.is_none() {
            let _ = fds::null_standard();
        }
        let status = self.wait_for(payload.pid);
        let wall_ns = process::boottime_ns().saturating_sub(self.start_boottime_ns);
        let leftovers = leftovers(leaf);
        let all_gone = !kill_leftovers || end_leftovers(leaf);
        let mut exit = Exit {
            leftovers: u32::try_from(leftovers).unwrap_or(u32::MAX),
            ..Exit::default()
        };
        if !all_gone {
            exit.killed_by = Some("leftovers do not end".into());
        }
        let code = fill_exit(&mut exit, status, mishap.as_ref());
        Ended {
            usage: self.usage(leaf, wall_ns),
            exit,
            mishap,
            code,
        }
    }

    /// Reaps every child, forwards signals, returns when the payload's first process has ended.
    fn wait_for(&self, payload: Pid) -> WaitStatus {
        loop {
            if let Some(status) = reap(payload) {
                return status;
            }
            let Ok(Some(info)) = self.signals.read_signal() else {
                continue;
            };
            let signal = i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|n| Signal::try_from(n).ok());
            // The terminal signals the whole group, and the payload is in it: it has this one already.
            let from_terminal = info.ssi_code == libc::SI_KERNEL;
            if let Some(signal) = signal.filter(|s| *s != Signal::SIGCHLD && !from_terminal) {
                let _ = kill(payload, signal);
            }
        }
    }

    fn usage(&self, leaf: Option<&Leaf>, wall_ns: u64) -> Usage {
        let (user, system) = children_cpu();
        let waited = (user - self.cpu_before.0, system - self.cpu_before.1);
        let counted = leaf.and_then(Leaf::counted);
        let max_rss = getrusage(UsageWho::RUSAGE_CHILDREN)
            .ok()
            .and_then(|u| u64::try_from(u.max_rss()).ok());
        let peak = counted.and_then(|c| c.memory_peak);
        Usage {
            wall_ns,
            cpu_user_us: counted.map_or(waited.0, |c| c.user_us),
            cpu_sys_us: counted.map_or(waited.1, |c| c.system_us),
            cpu_source: if counted.is_some() {
                "cgroup-v2"
            } else {
                "subreaper"
            }
            .into(),
            mem_peak_bytes: peak.or(max_rss.map(|kib| kib * 1024)),
            mem_kind: Some(if peak.is_some() { "cgroup_peak" } else { "maxrss" }.into()),
            ..Usage::default()
        }
    }
}

/// Reaps whatever has ended; orphans of the payload among it. Returns the payload's own end.
fn reap(payload: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) if pid == payload => {
                return Some(status);
            }
            Ok(WaitStatus::StillAlive) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            // No child and yet no status: somebody else waited for it, which cannot be.
            Err(_) => return Some(WaitStatus::Exited(payload, 202)),
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
    if (201..=204).contains(&code) {
        204
    } else {
        u8::try_from(code).unwrap_or(255)
    }
}

fn leftovers(leaf: Option<&Leaf>) -> usize {
    leaf.map_or_else(|| own_children().len(), Leaf::population)
}

/// Ends what the payload left behind, and proves it: an empty leaf, and no child.
fn end_leftovers(leaf: Option<&Leaf>) -> bool {
    let leaf_empty = leaf.is_none_or(Leaf::kill_all);
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Whoever is killed hands its own children to us, so this goes down the tree level by level.
        for pid in own_children() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return leaf_empty,
            Ok(WaitStatus::StillAlive) if Instant::now() > deadline => return false,
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

fn own_children() -> Vec<Pid> {
    let pid = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// User and system time of all children waited for, in microseconds.
fn children_cpu() -> (u64, u64) {
    let micros = |t: nix::sys::time::TimeVal| u64::try_from(t.num_microseconds()).unwrap_or(0);
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or((0, 0), |u| (micros(u.user_time()), micros(u.system_time())))
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
        for (n, expected) in [
            (0, 0),
            (7, 7),
            (127, 127),
            (200, 200),
            (201, 204),
            (203, 204),
            (204, 204),
            (205, 205),
        ] {
            assert_eq!(code(exited(n), None), expected);
        }
        assert_eq!(
            code(
                WaitStatus::Signaled(Pid::from_raw(2), Signal::SIGTERM, false),
                None
            ),
            143
        );
        assert_eq!(
            code(
                WaitStatus::Signaled(Pid::from_raw(2), Signal::SIGKILL, false),
                None
            ),
            137
        );
    }

    #[test]
    fn a_mishap_before_exec_keeps_its_own_code() {
        let mishap = Mishap {
            code: 201,
            reason: "no such command".into(),
        };
        assert_eq!(
            code(WaitStatus::Exited(Pid::from_raw(2), 201), Some(&mishap)),
            201
        );
    }
}
