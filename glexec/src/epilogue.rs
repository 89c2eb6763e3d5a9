//! The site's own program after each payload (`epilogue` in `glexec.conf`, gLExec 0.9).
//!
//! It must be writable by root alone, or the account it runs as. It runs with the payload's environment and the
//! variables `GLEXEC_EPILOG_*`, without the caller's descriptors, within a time limit. When it fails, `glexec` returns 202;
//! when it ends with one of our own codes, 204, as after a payload that does so.

use crate::audit::{self, Rule};
use crate::launch::Plan;
use crate::log::Log;
use crate::request::Request;
use crate::start::Start;
use crate::supervise::Ended;
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Group, Pid, User};
use policy::glexec_conf::Epilogue;
use policy::judge::Permit;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the epilogue, if there is one and the payload ran; its failure changes the exit code, never the record's.
pub(crate) fn after(
    epilogue: Option<&Epilogue>,
    start: &Start,
    permit: &Permit,
    request: &Request,
    plan: &Plan<'_>,
    ended: Ended,
    log: &Log,
) -> Ended {
    let Some(epilogue) = epilogue.filter(|_| ended.mishap.is_none()) else { return ended };
    let variables = variables(start, permit, request, plan, &ended);
    let (why, code) = match run(epilogue, &variables) {
        Ok(0) => return ended,
        Ok(code) => (format!("ended with {code}"), if (201..=204).contains(&code) { 204 } else { 202 }),
        Err(why) => (why, 202),
    };
    log.error(&format!("epilogue {}: {why}", epilogue.program.display()));
    Ended { code, ..ended }
}

fn run(epilogue: &Epilogue, environment: &[CString]) -> Result<i32, String> {
    let user = epilogue.user.as_deref().map(account).transpose()?;
    let owner = user.as_ref().map(|u| u.uid.as_raw());
    let program = audit::open(&epilogue.program, Rule::FILE.or_owner(owner)).map_err(|f| f.reason())?;
    let gid = epilogue.group.as_deref().map(group).transpose()?;
    match process::fork().map_err(|e| e.to_string())? {
        process::Fork::Parent(pid) => wait(pid, epilogue.timeout),
        process::Fork::Child => {
            let _ = execute(&program, epilogue, user, gid, environment);
            process::exit_now(125)
        }
    }
}

fn account(name: &str) -> Result<User, String> {
    User::from_name(name).ok().flatten().ok_or_else(|| format!("epilogue_user {name} is not an account"))
}

fn group(name: &str) -> Result<Gid, String> {
    let found = Group::from_name(name).ok().flatten();
    found.map(|g| g.gid).ok_or_else(|| format!("epilogue_group {name} is not a group"))
}

fn execute(
    program: &File,
    epilogue: &Epilogue,
    user: Option<User>,
    gid: Option<Gid>,
    environment: &[CString],
) -> Result<std::convert::Infallible, String> {
    let text = |e: Errno| e.to_string();
    SigSet::empty().thread_set_mask().map_err(text)?;
    process::default_signal(Signal::SIGPIPE).map_err(text)?;
    nix::unistd::chdir("/").map_err(text)?;
    ids::become_service(user.map(|u| (u.uid, u.gid)), gid)?;
    // An interpreter opens the script by this descriptor, so it must survive exec.
    let program = nix::unistd::dup(program.as_fd()).map_err(text)?;
    fds::close_on_exec_but(program.as_fd()).map_err(text)?;
    let name = CString::new(epilogue.program.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    nix::unistd::fexecve(program, &[name], environment).map_err(text)
}

/// The exit code of the epilogue.
fn wait(pid: Pid, timeout: Duration) -> Result<i32, String> {
    let deadline = Instant::now() + timeout;
    let mut sent = None;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => std::thread::sleep(Duration::from_millis(5)),
            _ if sent.is_some() => return Err(format!("did not end within {} s", timeout.as_secs())),
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(status) => return Err(format!("ended with {status:?}")),
            Err(error) => return Err(format!("waitpid: {error}")),
        }
        let now = Instant::now();
        if now > deadline && sent.is_none() {
            let _ = kill(pid, Signal::SIGTERM);
            sent = Some(now);
        } else if sent.is_some_and(|at| now > at + GRACE) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// The payload's environment without its own names of ours, then what happened.
fn variables(
    start: &Start,
    permit: &Permit,
    request: &Request,
    plan: &Plan<'_>,
    ended: &Ended,
) -> Vec<CString> {
    let mut all = plan.environment().to_vec();
    let mut add = |name: &str, value: &[u8]| {
        all.extend(CString::new([b"GLEXEC_EPILOG_", name.as_bytes(), b"=", value].concat()).ok());
    };
    let command = request.command.iter().flat_map(|c| std::iter::once(&c.program).chain(&c.arguments));
    for (n, argument) in command.enumerate() {
        add(&format!("ARGV{n}"), OsStr::new(argument).as_bytes());
    }
    let (caller, account) = (&start.caller, permit.account());
    let caller_name = caller.name.as_ref().map_or_else(|| caller.uid.to_string(), ToString::to_string);
    let sides = [
        ("GLEXEC", caller_name, caller.uid, caller.gid, &caller.groups),
        ("TARGET", account.name.to_string(), account.uid, account.gid, &account.groups),
    ];
    for (side, name, uid, gid, groups) in sides {
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        let group =
            Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |g| g.name);
        add(&format!("{side}_USER"), name.as_bytes());
        add(&format!("{side}_GROUP"), group.as_bytes());
        add(&format!("{side}_UID"), uid.to_string().as_bytes());
        add(&format!("{side}_GID"), gid.to_string().as_bytes());
        add(&format!("{side}_SGIDS"), groups.join(":").as_bytes());
    }
    let own = |result: nix::Result<Pid>| result.map_or(0, Pid::as_raw);
    let group = nix::unistd::getpgrp().as_raw();
    let numbers = [
        ("GLEXEC_PID", std::process::id().cast_signed()),
        ("GLEXEC_SID", own(nix::unistd::getsid(None))),
        ("GLEXEC_PGID", group),
        ("TARGET_PID", ended.pid.as_raw()),
        // The payload starts in the caller's group.
        ("TARGET_PGID", group),
        ("TARGET_RC", i32::from(ended.code)),
    ];
    numbers.iter().for_each(|(name, number)| add(name, number.to_string().as_bytes()));
    all
}
