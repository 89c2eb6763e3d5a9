//! Without linger the payload takes the place of `glexec` itself: same process, and nobody waits for it.
//!
//! The site's record must still be closed and leftovers ended. A detached supervisor does that: a process of root, orphaned at once
//! so that the payload never meets it as a child, outside the caller's process group and without its descriptors. It sees
//! the payload end, but not with which code: the record says neither code nor signal.

use crate::failure::Failure;
use crate::log::Log;
use crate::run::checkpoints::Checkpoints;
use crate::run::gratia_log::GratiaLog;
use crate::run::launch::{self, Plan};
use crate::run::outcome::Outcome;
use crate::run::supervise::Rules;
use crate::session::active_session::ActiveSession;
use crate::session::usage;
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, getpid, pipe2};
use record::Exit;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Starts the detached supervisor and becomes the payload; returns only when there is nothing to become.
pub(crate) fn run(
    session: ActiveSession,
    plan: &Plan<'_>,
    rules: Rules,
    gratia: &GratiaLog<'_>,
    log: &Log,
) -> u8 {
    let (report, reporter) = match pipe2(OFlag::O_CLOEXEC) {
        Ok(ends) => ends,
        Err(error) => return session.abandon(log, &Failure::site(format!("pipe: {error}"))),
    };
    if session.account().is_none() {
        // Log-only: no root, no record, nothing to keep.
        launch::in_place(plan, None, reporter, log)
    }
    let payload = getpid();
    let leaf = session.leaf().cloned();
    match process::pidfd(payload).and_then(|pidfd| Ok((pidfd, orphan()?))) {
        Ok((_, Side::Payload)) => launch::in_place(plan, leaf.as_ref(), reporter, log),
        Ok((pidfd, Side::Supervisor)) => {
            drop(reporter);
            keep(session, File::from(report), payload, &pidfd, rules, gratia, log);
            process::exit_now(0)
        }
        Err(error) => session.abandon(log, &Failure::site(format!("detached supervisor: {error}"))),
    }
}

enum Side {
    Payload,
    Supervisor,
}

/// Forks twice, so that the supervisor is nobody's child here.
fn orphan() -> nix::Result<Side> {
    match process::fork()? {
        process::Fork::Parent(between) => {
            process::wait_for(between)?;
            Ok(Side::Payload)
        }
        process::Fork::Child => match process::fork() {
            Ok(process::Fork::Child) => Ok(Side::Supervisor),
            Ok(process::Fork::Parent(_)) => process::exit_now(0),
            Err(_) => process::exit_now(1),
        },
    }
}

fn keep(
    mut session: ActiveSession,
    mut report: File,
    payload: Pid,
    pidfd: &OwnedFd,
    rules: Rules,
    gratia: &GratiaLog<'_>,
    log: &Log,
) {
    // The caller could stop the supervisor, and the record would never end.
    let _ = ids::be_root_alone();
    let _ = SigSet::all().thread_block();
    let _ = nix::unistd::setsid();
    let _ = fds::null_standard();
    let began = process::boottime_ns();
    let report = launch::read_report(&mut report);
    session.started(payload, &report);
    let mishap = report.mishap;
    if mishap.is_none() {
        gratia.started(payload);
    }
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let mut checkpoints = Checkpoints::new(rules.checkpoint, began);
    // Nobody waits for the payload here, so only a cgroup counts.
    while matches!(poll(&mut polled, checkpoints.patience(&session)), Ok(0) | Err(Errno::EINTR)) {
        checkpoints.write_when_due(&mut session, payload, None);
    }
    let wall_ns = process::boottime_ns().saturating_sub(began);
    let leaf = session.leaf();
    let leftovers = leaf.map_or(0, |leaf| leaf.population());
    if rules.kill_leftovers {
        let _ = leaf.map(|leaf| leaf.kill_all(session.account()));
    }
    let mut usage = usage::counted(leaf, wall_ns, None);
    checkpoints.complete(&mut usage);
    if mishap.is_none() {
        gratia.terminated(payload, &usage);
    }
    let code = mishap.as_ref().map_or(0, |m| m.code);
    let exit = Exit {
        code: mishap.as_ref().map(|m| i32::from(m.code)),
        killed_by: mishap.as_ref().map(|m| format!("not executed: {}", m.reason)),
        leftovers: u32::try_from(leftovers).unwrap_or(u32::MAX),
        ..Exit::default()
    };
    session.close(log, Outcome { pid: payload, exit, usage, mishap, code });
}
