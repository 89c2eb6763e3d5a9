//! Starts the payload, watches it, and ends it with everything that it started.

use crate::conversation::{Agent, News};
use crate::limits::{self, Watched};
use crate::signals::{asks_for_the_end, is_child};
use crate::sys::{Reaped, reap, send_signal};
use crate::tree;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use pilot_wire::api::{LimitKind, LimitReached, PayloadSpec, WarnSignal};
use pilot_wire::{EndCause, Ended, Frame, Start, ToRunner};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long killed processes may take to disappear; after that the kernel holds them, not we.
const DISAPPEAR: Duration = Duration::from_secs(10);
/// For so long a chain of forks is hunted without a pause: each pause lets it fork again.
const HUNT: Duration = Duration::from_secs(2);

/// Why nothing was started.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What a shell would say: 127 not found, 126 not executable; `None` when the node is at fault.
    pub(crate) exit_code: Option<i32>,
    /// Who is at fault.
    pub(crate) cause: EndCause,
    /// One line.
    pub(crate) reason: String,
}

/// Starts the payload in its own process group, with nothing on its standard input.
pub(crate) fn spawn(
    command: &[String],
    env: &BTreeMap<OsString, OsString>,
    workdir: &Path,
) -> Result<Pid, Refusal> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(users_fault(127, "no command was given".to_owned()));
    };
    let mut started = Command::new(program);
    started.args(arguments).env_clear().envs(env).current_dir(workdir).stdin(Stdio::null()).process_group(0);
    match started.spawn() {
        Ok(child) => Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))),
        Err(e) => Err(refusal(program, workdir, &e)),
    }
}

fn users_fault(code: i32, reason: String) -> Refusal {
    Refusal { exit_code: Some(code), cause: EndCause::Exited, reason }
}

fn refusal(program: &str, workdir: &Path, error: &io::Error) -> Refusal {
    let nodes_fault = |reason: String| Refusal { exit_code: None, cause: EndCause::Setup, reason };
    match error.raw_os_error() {
        Some(libc::ENOENT) => users_fault(
            127,
            format!("{program:?} was not found, or its interpreter was not{}", hint(program)),
        ),
        Some(libc::EACCES) if program.contains('/') && lies_in_noexec(program, workdir) => {
            nodes_fault(format!(
                "{program:?} cannot be executed: the scratch directory {} is mounted noexec; name another with pilot run --scratch",
                workdir.display()
            ))
        }
        // No more processes, no memory, no descriptors: another node, or another time, has them.
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EIO | libc::ENOSPC) => {
            nodes_fault(format!("{program:?} cannot be started here: {error}"))
        }
        _ => users_fault(126, format!("{program:?} cannot be executed: {error}")),
    }
}

fn hint(program: &str) -> &'static str {
    if program.contains('/') && !program.starts_with('/') {
        "; files of your own have to be sent along with --input"
    } else {
        ""
    }
}

/// Whether the program lies in the working directory, and that on a file system that executes nothing.
fn lies_in_noexec(program: &str, workdir: &Path) -> bool {
    let inside = workdir
        .join(program)
        .canonicalize()
        .is_ok_and(|real| workdir.canonicalize().is_ok_and(|root| real.starts_with(root)));
    inside && statvfs(workdir).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOEXEC))
}

/// A payload that runs.
pub(crate) struct Running {
    pid: Pid,
    since: Instant,
    cause: EndCause,
    grace: Duration,
    walltime: Option<Duration>,
    /// When to warn it, and how.
    warn: Option<(Instant, WarnSignal)>,
    watched: Watched,
    kill_at: Option<Instant>,
    code: Option<i32>,
}

impl Running {
    /// Takes over the process.
    pub(crate) fn new(
        pid: Pid,
        start: &Start,
        spec: &PayloadSpec,
        workdir: &Path,
        warn: Option<Instant>,
    ) -> Self {
        Self {
            pid,
            since: Instant::now(),
            cause: EndCause::Exited,
            grace: Duration::from_millis(start.grace_ms),
            walltime: spec.walltime.map(Duration::from_secs),
            warn: warn.map(|at| (at, spec.warn_signal)),
            watched: Watched::new(spec, workdir),
            kill_at: None,
            code: None,
        }
    }

    /// Returns once the payload and all its descendants are gone.
    pub(crate) fn watch(mut self, agent: &mut Agent) -> Ended {
        let deadline = self.walltime.and_then(|limit| self.since.checked_add(limit));
        self.reap();
        while self.code.is_none() {
            let deadline = deadline.filter(|_| self.kill_at.is_none());
            let warn = self.warn.map(|(at, _)| at).filter(|_| self.kill_at.is_none());
            let until = [deadline, self.kill_at, self.watched.next(), warn].into_iter().flatten().min();
            match agent.wait(until) {
                News::Signal(number) if is_child(number) => drop(self.reap()),
                News::Signal(number) if asks_for_the_end(number) => self.stop(EndCause::Stopped, self.grace),
                News::Signal(number) => drop(send_signal(self.pid.as_raw(), number)),
                News::Frame(frame) => self.stop(EndCause::Stopped, grace_of(&frame).unwrap_or(self.grace)),
                News::Hangup => self.stop(EndCause::Stopped, self.grace),
                News::Time => (),
            }
            let now = Instant::now();
            if deadline.is_some_and(|at| at <= now) {
                self.stop(EndCause::Walltime, self.grace);
            }
            if self.kill_at.is_some_and(|at| at <= now) {
                self.kill();
            }
            if let Some((_, which)) = self.warn.filter(|(at, _)| *at <= now && self.kill_at.is_none()) {
                self.warn = None;
                send_signal(self.pid.as_raw(), limits::number(which));
            }
            match self.watched.look(now) {
                Some(LimitKind::Disk) => self.stop(EndCause::Disk, self.grace),
                Some(_) => self.stop(EndCause::Memory, self.grace),
                None => (),
            }
        }
        if self.cause == EndCause::Exited && self.code == Some(128 + libc::SIGKILL) && self.watched.ran_out()
        {
            self.cause = EndCause::Memory;
        }
        let wall = self.since.elapsed();
        let left = self.clear(agent);
        self.report(wall, left)
    }

    /// The first cause counts; a later one can only shorten the grace.
    fn stop(&mut self, cause: EndCause, grace: Duration) {
        let kill_at = Instant::now() + grace.min(Duration::from_secs(86_400));
        if self.kill_at.is_none() {
            self.cause = cause;
            tree::signal_all(libc::SIGTERM);
            // A stopped process would sleep through its grace.
            tree::signal_all(libc::SIGCONT);
        }
        self.kill_at = Some(self.kill_at.map_or(kill_at, |set| set.min(kill_at)));
    }

    fn kill(&mut self) {
        tree::signal_all(libc::SIGKILL);
        self.kill_at = Some(Instant::now() + Duration::from_millis(100));
    }

    /// Reaps every child that has ended; orphans of the payload are ours too. Returns whether any child is left.
    fn reap(&mut self) -> bool {
        loop {
            match reap() {
                Reaped::Child(pid, code) if pid == self.pid => self.code = Some(code),
                Reaped::Child(..) => (),
                Reaped::None => return true,
                Reaped::NoChildren => {
                    // Somebody else reaped it: impossible, but no reason to wait for ever.
                    self.code = self.code.or(Some(1));
                    return false;
                }
            }
        }
    }

    /// Kills what the payload left behind, until the kernel says that there is no child any more; returns how many processes
    /// resist.
    fn clear(&mut self, agent: &mut Agent) -> usize {
        let begun = Instant::now();
        while self.reap() {
            if begun.elapsed() > DISAPPEAR {
                return tree::count().max(1);
            }
            tree::signal_all(libc::SIGKILL);
            if begun.elapsed() > HUNT || tree::count() == 0 {
                agent.rest(Duration::from_millis(5));
            }
        }
        0
    }

    fn report(&self, wall: Duration, left: usize) -> Ended {
        let limit = match self.cause {
            EndCause::Walltime => {
                let allowed = self.walltime.unwrap_or_default().as_secs();
                Some(LimitReached { kind: LimitKind::Walltime, allowed, used: wall.as_secs() })
            }
            EndCause::Memory => self.watched.reached(LimitKind::Memory),
            EndCause::Disk => self.watched.reached(LimitKind::Disk),
            EndCause::Exited | EndCause::Stopped | EndCause::Setup => None,
        };
        let mut reason = match limit {
            Some(limit) => Some(limit.to_string()),
            None => self
                .code
                .filter(|c| *c > 128)
                .map(|c| c - 128)
                .and_then(signal_name)
                .map(|name| format!("died by {name}")),
        };
        if left > 0 {
            reason = Some(format!("{left} processes could not be killed; {}", reason.unwrap_or_default()));
        }
        let (exit_code, cause) = (self.code, self.cause);
        Ended { exit_code, cause, reason, wall_ms: millis(wall), cpu_ms: cpu_ms(), limit }
    }
}

/// The usual name of a signal; real-time signals count from the C library's SIGRTMIN.
fn signal_name(number: i32) -> Option<String> {
    if (34..=64).contains(&number) {
        return Some(format!("SIGRTMIN+{} (signal {number})", number - 34));
    }
    Signal::try_from(number).ok().map(|signal| signal.as_str().to_owned())
}

fn grace_of(frame: &Frame) -> Option<Duration> {
    match frame.message().ok()? {
        ToRunner::Stop { grace_ms } => Some(Duration::from_millis(grace_ms)),
        _ => None,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// CPU time of all reaped children; complete once nothing of the payload is left.
fn cpu_ms() -> u64 {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN);
    used.map_or(0, |u| u64::try_from((u.user_time() + u.system_time()).num_milliseconds()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_real_time_ones_too() {
        assert_eq!(signal_name(9).as_deref(), Some("SIGKILL"));
        assert_eq!(signal_name(34).as_deref(), Some("SIGRTMIN+0 (signal 34)"));
        assert_eq!(signal_name(64).as_deref(), Some("SIGRTMIN+30 (signal 64)"));
        assert_eq!(signal_name(72), None);
    }

    #[test]
    fn a_program_that_cannot_run_is_told_apart_from_a_node_that_cannot_run_it() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |errno| refusal("./run.sh", dir.path(), &io::Error::from_raw_os_error(errno));
        let missing = refusal(libc::ENOENT);
        assert_eq!((missing.exit_code, missing.cause), (Some(127), EndCause::Exited));
        assert!(missing.reason.contains("--input"), "{}", missing.reason);
        assert_eq!(refusal(libc::EACCES).exit_code, Some(126));
        let full = refusal(libc::EAGAIN);
        assert_eq!((full.exit_code, full.cause), (None, EndCause::Setup));
    }
}
