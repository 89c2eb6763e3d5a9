//! The site's own program after each payload (`epilogue` in `glexec.conf`, gLExec 0.9).
//!
//! It must be writable by root alone, or the account it runs as. It runs with an environment of its own and the variables
//! `GLEXEC_EPILOG_*`, without the caller's descriptors, within a time limit. When it fails, `glexec` returns 202;
//! when it ends with one of our own codes, 204, as after a payload that does so.

use crate::admit::audit::{self, Rule};
use crate::admit::process_init::Start;
use crate::admit::request::Request;
use crate::log::Log;
use crate::run::launch::Plan;
use crate::run::outcome::Outcome;
use crate::run::payload_env;
use crate::session::cgroup::Post;
use crate::sys::process::End;
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Gid, Group, Pid, User};
use policy::glexec_conf::Epilogue;
use policy::judge::Permit;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of environment. The kernel allows 128 KiB for it and the arguments under any limit (execve(2)): a caller with many
/// words must not keep the epilogue from running.
const MAX_ENVIRONMENT: usize = 96 * 1024;

/// Runs the epilogue, if there is one and the payload ran; its failure changes the exit code, never the record's.
pub(crate) fn after(
    epilogue: Option<&Epilogue>,
    start: &Start,
    permit: &Permit,
    request: &Request,
    (plan, post): (&Plan<'_>, Option<&Post>),
    ended: Outcome,
    log: &Log,
) -> Outcome {
    let Some(epilogue) = epilogue.filter(|_| ended.mishap.is_none()) else { return ended };
    let variables = variables(start, permit, request, plan, &ended);
    let (why, code) = match run(epilogue, &variables, post) {
        Ok(0) => return ended,
        Ok(code) => (format!("ended with {code}"), if (201..=204).contains(&code) { 204 } else { 202 }),
        Err(why) => (why, 202),
    };
    log.error(&format!("epilogue {}: {why}", epilogue.program.display()));
    Outcome { code, ..ended }
}

fn run(epilogue: &Epilogue, variables: &[CString], post: Option<&Post>) -> Result<i32, String> {
    let user = epilogue.user.as_deref().map(account).transpose()?;
    let owner = user.as_ref().map(|u| u.uid.as_raw());
    let program = audit::open(&epilogue.program, Rule::FILE.or_owner(owner)).map_err(|f| f.reason())?;
    let gid = epilogue.group.as_deref().map(group).transpose()?;
    let environment = environment(user.as_ref(), variables);
    match Post::fork_back(post).map_err(|e| e.to_string())? {
        process::Fork::Parent(pid) => wait(pid, epilogue.timeout),
        process::Fork::Child => {
            // What it leaves behind is the site's, and must not keep the supervisor's directory.
            if let Some(post) = post {
                post.leave_rest();
            }
            let _ = execute(&program, epilogue, user, gid, &environment);
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
    // An interpreter opens the script by this descriptor, so it must survive exec.
    let program = nix::unistd::dup(program.as_fd()).map_err(text)?;
    // Before it is anybody else's, it has nothing of root's but this.
    fds::close_all_but(program.as_raw_fd()).map_err(text)?;
    ids::become_service(user.map(|u| (u.uid, u.gid)), gid)?;
    let name = CString::new(epilogue.program.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    nix::unistd::fexecve(program, &[name], environment).map_err(text)
}

/// The exit code of the epilogue.
fn wait(pid: Pid, timeout: Duration) -> Result<i32, String> {
    let deadline = Instant::now() + timeout;
    let mut sent = None;
    loop {
        match process::try_wait(pid) {
            Ok(None) | Err(Errno::EINTR) => std::thread::sleep(Duration::from_millis(5)),
            _ if sent.is_some() => return Err(format!("did not end within {} s", timeout.as_secs())),
            Ok(Some(End::Exited(code))) => return Ok(code),
            Ok(Some(End::Signaled(signal))) => return Err(format!("ended by signal {signal}")),
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

/// Home, name and path are those of who runs it, not the payload's or the caller's: interpreters execute what they find in
/// there. What does not fit is left out, the words of the command first.
fn environment(user: Option<&User>, variables: &[CString]) -> Vec<CString> {
    let root = ("root".to_owned(), "/root".into());
    let (name, home) = user.map_or(root, |user| (user.name.clone(), user.dir.clone()));
    let own = [
        [b"HOME=", home.as_os_str().as_bytes()].concat(),
        format!("USER={name}").into(),
        format!("LOGNAME={name}").into(),
        format!("PATH={}", payload_env::PATH).into(),
    ];
    let own = own.into_iter().filter_map(|text| CString::new(text).ok());
    let mut left = MAX_ENVIRONMENT;
    let fits = |variable: &CString| {
        // A pointer belongs to each of them.
        let rest = left.checked_sub(variable.as_bytes_with_nul().len() + size_of::<usize>());
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    own.chain(variables.iter().cloned()).filter(fits).collect()
}

/// What happened, then what both sides know: the payload's proxy and session, and the caller's `GLEXEC_*`.
fn variables(
    start: &Start,
    permit: &Permit,
    request: &Request,
    plan: &Plan<'_>,
    ended: &Outcome,
) -> Vec<CString> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: &[u8]| all.extend(variable(name, value));
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
    let group = start.group.as_raw();
    let numbers = [
        ("GLEXEC_PID", start.pid.as_raw()),
        ("GLEXEC_SID", start.session.map_or(0, Pid::as_raw)),
        ("GLEXEC_PGID", group),
        ("TARGET_PID", ended.pid.as_raw()),
        // The payload starts in the caller's group.
        ("TARGET_PGID", group),
        ("TARGET_RC", i32::from(ended.code)),
    ];
    numbers.iter().for_each(|(name, number)| add(name, number.to_string().as_bytes()));
    all.extend(plan.environment().iter().filter(|v| is_shared(v.as_bytes())).cloned());
    let command = request.command.iter().flat_map(|c| std::iter::once(&c.program).chain(&c.arguments));
    for (n, argument) in command.enumerate() {
        all.extend(variable(&format!("ARGV{n}"), OsStr::new(argument).as_bytes()));
    }
    all
}

fn variable(name: &str, value: &[u8]) -> Option<CString> {
    CString::new([b"GLEXEC_EPILOG_", name.as_bytes(), b"=", value].concat()).ok()
}

/// The names that a site preserves for payloads, such as `PYTHONPATH`, are not for a program of root's.
fn is_shared(variable: &[u8]) -> bool {
    let names: [&[u8]; 3] = [b"GLEXEC_", b"X509_USER_PROXY=", b"PILOT_SESSION="];
    names.iter().any(|name| variable.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out() {
        let long = CString::new(format!("GLEXEC_A={}", "x".repeat(MAX_ENVIRONMENT))).unwrap();
        let many = (0..50_000).map(|n| variable(&format!("ARGV{n}"), b"word").unwrap());
        let first = variable("TARGET_RC", b"0").unwrap();
        let all: Vec<CString> = [first.clone(), long.clone()].into_iter().chain(many).collect();
        let environment = environment(None, &all);
        assert!(environment.contains(&first) && !environment.contains(&long));
        assert!(environment.contains(&c"HOME=/root".to_owned()));
        let bytes: usize = environment.iter().map(|v| v.as_bytes_with_nul().len() + 8).sum();
        assert!((MAX_ENVIRONMENT - 100..=MAX_ENVIRONMENT).contains(&bytes), "{bytes}");
    }

    #[test]
    fn names_that_interpreters_obey_do_not_reach_it() {
        for name in ["HOME=/home/alice", "PATH=/home/alice", "PYTHONPATH=x", "BASH_ENV=x", "LD_PRELOAD=x"] {
            assert!(!is_shared(name.as_bytes()), "{name}");
        }
        assert!(is_shared(b"GLEXEC_ID=7") && is_shared(b"X509_USER_PROXY=/tmp/x"));
    }
}
