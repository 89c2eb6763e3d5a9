//! Around the play: namespaces that end with it, and a look at the host before and after.

use crate::{progress, progress_over};
use anyhow::{Context, Result};
use harness::left::{self, Traces};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// What is still there after this long is left behind.
const SETTLED: Duration = Duration::from_secs(20);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Plays in namespaces of its own and shows that nothing is left; false when anything went wrong.
pub(crate) fn run() -> Result<bool> {
    let before = Traces::now();
    let ended = play_apart()?;
    if ended.code().is_none() {
        // Killed, so it could not clean up; what a play that ended by itself leaves is to be seen.
        left::clean_up();
    }
    let traces = remaining(&before);
    progress_over();
    for trace in &traces {
        println!("left behind: {trace}");
    }
    if !traces.is_empty() {
        left::clean_up();
    } else if ended.success() {
        println!(
            "Nothing is left on this host: no account, process, mount, cgroup, setuid file or other file of the demo."
        );
    }
    Ok(ended.success() && traces.is_empty())
}

/// What is there now, was not there before, and stays. Other people on this host start and end things meanwhile, so one
/// look is not enough: what is gone at the next one was theirs.
fn remaining(before: &Traces) -> Vec<String> {
    let look = || Traces::now().since(before, of_others);
    let end = Instant::now() + SETTLED;
    let mut traces = look();
    while !traces.is_empty() && Instant::now() < end {
        std::thread::sleep(BETWEEN_LOOKS);
        let now = look();
        traces.retain(|trace| now.contains(trace));
    }
    traces
}

/// `--clean`: for the demo or test that was killed together with its parents.
pub(crate) fn clean() -> Result<bool> {
    let found = left::clean_up();
    for line in &found {
        println!("removed {line}");
    }
    if found.is_empty() {
        println!("nothing was left");
    }
    Ok(true)
}

/// Other people on this host go on working meanwhile.
fn of_others(trace: &str) -> bool {
    let ours = ["glexec", "pilot", "x509"];
    let file = trace.starts_with("file: ") && !ours.iter().any(|name| trace.contains(name));
    file || left::is_of_living_machine(trace)
}

/// Runs this program again as the first process of a pid namespace: when it ends, so does everything in there.
fn play_apart() -> Result<ExitStatus> {
    let mut watched = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD] {
        watched.add(signal);
    }
    watched.thread_block()?;
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a pid namespace")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--inner");
    let apart = move || {
        SigSet::all().thread_unblock()?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)?;
        Ok(())
    };
    // SAFETY: the closure makes system calls with constant arguments only; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(apart) };
    let mut child = command.spawn().context("cannot start the play in namespaces of its own")?;
    loop {
        let signal = watched.wait()?;
        if signal != Signal::SIGCHLD {
            progress(&format!("{signal}: ending everything"));
            child.kill()?;
            return Ok(child.wait()?);
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
    }
}
