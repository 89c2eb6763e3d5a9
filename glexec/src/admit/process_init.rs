//! The first step: a process whose state the caller chose becomes one that we know.

use crate::admit::request;
use crate::failure::Failure;
use crate::run::child_processes;
use crate::sys::attributes::Attributes;
use crate::sys::{fds, ids, process};
use identity::{AccountName, Caller};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat;
use nix::unistd::{Pid, Uid, geteuid, getgid, getgroups, getpgrp, getpid, getsid, getuid};
use policy::judge::{Denial, NestedSign};
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// What this process can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Installed setuid root, or called by root: identities are switched.
    Switching,
    /// Installed without the setuid bit: decides and logs, runs payloads as the caller.
    LogOnly,
}

/// What the caller handed over, taken out of the process.
pub(crate) struct Start {
    /// Switching or log-only.
    pub(crate) mode: Mode,
    /// Real ids of the caller.
    pub(crate) caller: Caller,
    /// The process that the caller sees.
    pub(crate) pid: Pid,
    /// Its process group, which the payload shares.
    pub(crate) group: Pid,
    /// Its session, which the payload shares.
    pub(crate) session: Option<Pid>,
    /// All variables in their order, repeated ones too.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Arguments, the program's name first.
    pub(crate) argv: Vec<OsString>,
    /// Signals that were blocked; the payload gets them back so.
    pub(crate) signal_mask: SigSet,
    /// Bits that the caller takes away from new files; the payload inherits it.
    pub(crate) umask: stat::Mode,
    /// What else the caller chose and the payload gets back.
    pub(crate) attributes: Attributes,
    /// Where the caller wants to be told the session's id.
    pub(crate) session_fd: Option<OwnedFd>,
}

/// Takes what the caller set out of this process: descriptors, timers, environment, signal dispositions.
pub(crate) fn take_over() -> Result<Start, Failure> {
    fds::fill_standard().map_err(|e| Failure::site(format!("/dev/null: {e}")))?;
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let argv = std::env::args_os().collect();
    process::clear_environment();
    let session_fd = request::session_fd_of(&environment).and_then(fds::keep_for_caller);
    let closed =
        session_fd.as_ref().map_or_else(|| fds::close_from(3), |fd| fds::close_all_but(fd.as_raw_fd()));
    closed.map_err(|e| Failure::site(format!("cannot close inherited descriptors: {e}")))?;
    let signal_mask = own_signals().map_err(|e| Failure::site(format!("signals: {e}")))?;
    let umask = stat::umask(stat::Mode::from_bits_truncate(0o022));
    let mode = mode()?;
    let attributes = Attributes::take_over(mode == Mode::Switching).map_err(Failure::site)?;
    child_processes::remember(mode == Mode::Switching);
    ids::leave_caller_group();
    let groups = getgroups().map_err(|e| Failure::site(format!("getgroups: {e}")))?;
    let caller = Caller {
        name: account_name(getuid()),
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
        groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
    };
    let (pid, group, session) = (getpid(), getpgrp(), getsid(None).ok());
    Ok(Start {
        mode,
        pid,
        group,
        session,
        caller,
        environment,
        argv,
        signal_mask,
        umask,
        attributes,
        session_fd,
    })
}

/// The name of a uid, as far as it is one that this project accepts as a name.
pub(crate) fn account_name(uid: Uid) -> Option<AccountName> {
    let user = nix::unistd::User::from_uid(uid).ok().flatten()?;
    AccountName::parse(&user.name).ok()
}

/// An ignored SIGCHLD would hide how children end, and SIGPIPE and SIGXFSZ would end us halfway.
fn own_signals() -> nix::Result<SigSet> {
    process::default_signal(Signal::SIGCHLD)?;
    process::ignore_signal(Signal::SIGPIPE)?;
    process::ignore_signal(Signal::SIGXFSZ)?;
    SigSet::empty().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
}

fn mode() -> Result<Mode, Failure> {
    if geteuid().is_root() {
        return Ok(Mode::Switching);
    }
    let file =
        std::fs::metadata("/proc/self/exe").map_err(|e| Failure::site(format!("/proc/self/exe: {e}")))?;
    let setuid_root = file.mode() & 0o4000 != 0 && file.uid() == 0;
    match (setuid_root, process::no_new_privs()) {
        (false, _) => Ok(Mode::LogOnly),
        (true, true) => Err(Denial::Nested(vec![NestedSign::NoNewPrivs]).into()),
        (true, false) => {
            Err(Failure::site("the setuid bit has no effect: the file system is mounted nosuid"))
        }
    }
}
