//! `glexec --session ID`: the caller that opened a session may inspect it and end it, without any credential.
//!
//! Pilots of gLExec could not kill what they had started once the user's proxy had expired. Here the session itself
//! says who opened it, and that is all the right that is needed.

use crate::admit::process_init::Start;
use crate::admit::request::{Action, SessionCall};
use crate::failure::Failure;
use crate::log::Log;
use crate::run::child_processes;
use crate::session::cgroup::Leaf;
use crate::session::orphans;
use crate::session::store::{self, Found, SessionState};
use crate::sys::{ids, process};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a supervisor may take to close its session after its payload was ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Acts on the session; 0 when it was done.
pub(crate) fn serve(call: &SessionCall, start: &Start, log: &Log) -> Result<u8, Failure> {
    let _unstoppable = ids::OutOfReach::enter();
    let owned = |found: &Found| start.caller.uid == 0 || found.state.caller_uid == start.caller.uid;
    let missing =
        || Failure::caller(format!("there is no session {} of this caller; it may have ended", call.id));
    let found = store::by_id(&call.id).filter(owned).ok_or_else(missing)?;
    if found.orphaned.is_some() {
        orphans::close(&found.state, log, orphans::PATIENCE);
        return if call.action == Action::End { prove_closed(&found.state) } else { Err(missing()) };
    }
    log.notice(&format!("session {}: {:?} by uid {}", call.id, call.action, start.caller.uid));
    match call.action {
        Action::Status => status(&found.state),
        Action::Signal(signal) => pass_on(&found.state, signal).map(|()| 0),
        Action::Kill => kill(&found.state).map(|()| 0),
        Action::End => end(&found.state, log),
    }
}

fn status(state: &SessionState) -> Result<u8, Failure> {
    let processes = state.leaf.as_ref().map(Leaf::population);
    let processes = processes.map_or_else(|| "?".into(), |n| n.to_string());
    let account = crate::admit::process_init::account_name(nix::unistd::Uid::from_raw(state.uid));
    let account = account.map_or_else(|| state.uid.to_string(), |name| name.to_string());
    let line = format!(
        "session={} state=running account={account} uid={} processes={processes}\n",
        state.id, state.uid
    );
    let _ = std::io::stdout().write_all(line.as_bytes());
    Ok(0)
}

/// The supervisor hears root at any time and passes the signal on.
fn pass_on(state: &SessionState, signal: i32) -> Result<(), Failure> {
    let ended = || Failure::caller(format!("session {} has just ended", state.id));
    if signal_supervisor(state, signal)? { Ok(()) } else { Err(ended()) }
}

/// Signals the supervisor as root; `false` when it has ended.
fn signal_supervisor(state: &SessionState, signal: i32) -> Result<bool, Failure> {
    let failed = |e| Failure::site(format!("session {}: {e}", state.id));
    let supervisor = match process::pidfd(Pid::from_raw(state.supervisor)) {
        Err(Errno::ESRCH) => return Ok(false),
        other => other.map_err(failed)?,
    };
    // The lock is looked at again now that the process is pinned: held, the session lives.
    if !state.is_still_named() || store::by_id(&state.id).is_none_or(|found| found.orphaned.is_some()) {
        return Ok(false);
    }
    ids::be_root().map_err(failed)?;
    process::send_to_pidfd(supervisor.as_fd(), signal).map_err(failed).map(|()| true)
}

fn kill(state: &SessionState) -> Result<(), Failure> {
    let Some(leaf) = &state.leaf else {
        // Without a leaf there is the supervisor's tree; it ends the rest itself once the first process is gone.
        return kill_children(state);
    };
    if leaf.kill_all(Some(state.uid)) {
        Ok(())
    } else {
        Err(Failure::site(format!("session {}: processes do not end", state.id)))
    }
}

fn kill_children(state: &SessionState) -> Result<(), Failure> {
    if !state.is_still_named() {
        return Ok(());
    }
    let path = format!("/proc/{0}/task/{0}/children", state.supervisor);
    let children = std::fs::read_to_string(path).unwrap_or_default();
    for pid in children.split_whitespace().filter_map(|word| word.parse().ok()).filter(|pid| *pid > 1) {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    Ok(())
}

fn end(state: &SessionState, log: &Log) -> Result<u8, Failure> {
    kill(state)?;
    let deadline = Instant::now() + PATIENCE;
    while store::exists(&state.id) {
        match store::by_id(&state.id) {
            Some(found) if found.orphaned.is_some() => {
                orphans::close(&found.state, log, orphans::PATIENCE);
                return prove_closed(state);
            }
            _ if Instant::now() > deadline => {
                return Err(Failure::site(format!("session {}: its supervisor does not end", state.id)));
            }
            _ => {
                // Its payload may have stopped it, and can do so no more.
                let _ = signal_supervisor(state, libc::SIGCONT);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    prove_gone(state)
}

/// After orphans were closed: what cannot be closed now, as on a full disk, is not tried again and again.
fn prove_closed(state: &SessionState) -> Result<u8, Failure> {
    if store::exists(&state.id) {
        return Err(Failure::site(format!("session {}: cannot be closed; the log says why", state.id)));
    }
    if state.leaf.is_none() && state.pid_namespace.is_none() && child_processes::any_runs_as(state.uid) {
        // Without a leaf nobody can tell whose they are once the supervisor is gone.
        let uid = state.uid;
        return Err(Failure::site(format!(
            "session {}: closed, but processes of uid {uid} live on; without cgroups nobody can tell whether they are its own",
            state.id
        )));
    }
    prove_gone(state)
}

/// An empty leaf cannot be proven better than by its absence: only empty ones can be removed.
fn prove_gone(state: &SessionState) -> Result<u8, Failure> {
    match state.leaf.as_ref().and_then(Leaf::remains) {
        Some(dir) => Err(Failure::site(format!("session {}: {} is not empty", state.id, dir.display()))),
        None => Ok(0),
    }
}
