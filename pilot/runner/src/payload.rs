//! Starts the payload, watches it, and ends it with everything that it started.

use super::tree;
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pilot_wire::{Cause, Ended, Frame, Start, ToRunner};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// How often the memory of a payload with a limit is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
/// How long killed processes may take to disappear; after that the kernel holds them, not we.
const DISAPPEAR: Duration = Duration::from_secs(5);

/// News from the kernel.
pub struct Signals {
    /// A child has ended.
    child: Stream,
    /// The session is to end.
    pub end: EndSignals,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> io::Result<Self> {
        Ok(Self { child: signal(SignalKind::child())?, end: EndSignals::install()? })
    }
}

/// Signals that ask for a graceful end.
pub struct EndSignals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    quit: Stream,
}

impl EndSignals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for one of them.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
            _ = self.hangup.recv() => (),
            _ = self.quit.recv() => (),
        }
    }
}

/// Starts the payload in its own process group, with nothing on its standard input.
///
/// The error is the exit code that a shell would give (127 not found, 126 not executable) and the reason.
pub fn spawn(start: &Start, env: &BTreeMap<String, String>, workdir: &Path) -> Result<Pid, (i32, String)> {
    let Some((program, arguments)) = start.command.split_first() else {
        return Err((127, "no command was given".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(env).current_dir(workdir).stdin(Stdio::null()).process_group(0);
    let child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => (127, format!("{program:?} was not found, or its interpreter was not")),
        _ => (126, format!("{program:?} cannot be executed: {e}")),
    })?;
    Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)))
}

/// A payload that runs.
pub struct Running {
    pid: Pid,
    since: Instant,
    cause: Cause,
    kill_at: Option<Instant>,
    code: Option<i32>,
}

impl Running {
    /// Takes over the process.
    pub fn new(pid: Pid) -> Self {
        Self { pid, since: Instant::now(), cause: Cause::Exited, kill_at: None, code: None }
    }

    /// Returns once the payload and all its descendants are gone.
    pub async fn watch(
        mut self,
        start: &Start,
        signals: &mut Signals,
        agent: &mut mpsc::Receiver<Frame>,
    ) -> Ended {
        let grace = Duration::from_millis(start.grace_ms);
        let deadline = start.walltime_ms.map(|ms| self.since + Duration::from_millis(ms));
        let mut look_at_memory = tokio::time::interval(MEMORY_INTERVAL);
        let mut agent_alive = true;
        self.reap();
        while self.code.is_none() {
            tokio::select! {
                _ = signals.child.recv() => self.reap(),
                () = signals.end.received() => self.stop(Cause::Stopped, grace),
                frame = agent.recv(), if agent_alive => {
                    agent_alive = frame.is_some();
                    self.stop(Cause::Stopped, grace_of(frame.as_ref()).unwrap_or(grace));
                }
                () = at(deadline), if self.kill_at.is_none() => self.stop(Cause::Walltime, grace),
                () = at(self.kill_at) => self.kill(),
                _ = look_at_memory.tick(), if start.memory.is_some() => {
                    if start.memory.is_some_and(|limit| tree::memory() > limit) {
                        self.stop(Cause::Memory, grace);
                    }
                }
            }
        }
        let wall = self.since.elapsed();
        let left = self.clear().await;
        self.report(start, wall, left)
    }

    /// The first cause counts; a later wish can only shorten the grace.
    fn stop(&mut self, cause: Cause, grace: Duration) {
        let kill_at = Instant::now() + grace;
        if self.kill_at.is_none() {
            self.cause = cause;
            tree::signal_all(Signal::SIGTERM);
            // A stopped process would sleep through its grace.
            tree::signal_all(Signal::SIGCONT);
        }
        self.kill_at = Some(self.kill_at.map_or(kill_at, |set| set.min(kill_at)));
    }

    fn kill(&mut self) {
        tree::signal_all(Signal::SIGKILL);
        self.kill_at = Some(Instant::now() + Duration::from_millis(100));
    }

    /// Reaps every child that has ended; orphans of the payload are ours too.
    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(_) => continue,
            };
            if pid == self.pid {
                self.code = Some(code);
            }
        }
    }

    /// Kills what the payload left behind; returns how many processes resist.
    async fn clear(&mut self) -> usize {
        let give_up = Instant::now() + DISAPPEAR;
        loop {
            let left = tree::signal_all(Signal::SIGKILL);
            self.reap();
            if left == 0 || Instant::now() > give_up {
                return left;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn report(&self, start: &Start, wall: Duration, left: usize) -> Ended {
        let mut reason = match self.cause {
            Cause::Walltime => {
                Some(format!("walltime of {} s is over", start.walltime_ms.unwrap_or(0) / 1000))
            }
            Cause::Memory => Some(format!("used more than {} bytes of memory", start.memory.unwrap_or(0))),
            _ => self.code.filter(|c| *c > 128).and_then(signal_name),
        };
        if left > 0 {
            reason = Some(format!("{left} processes could not be killed; {}", reason.unwrap_or_default()));
        }
        Ended { exit_code: self.code, cause: self.cause, reason, wall_ms: millis(wall), cpu_ms: cpu_ms() }
    }
}

fn signal_name(code: i32) -> Option<String> {
    Signal::try_from(code - 128).ok().map(|s| format!("died by {}", s.as_str()))
}

fn grace_of(frame: Option<&Frame>) -> Option<Duration> {
    match frame?.message::<ToRunner>().ok()? {
        ToRunner::Stop { grace_ms } => Some(Duration::from_millis(grace_ms)),
        _ => None,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
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
