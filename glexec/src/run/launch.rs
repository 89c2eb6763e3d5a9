//! From here on there is a child: it becomes the account, writes the proxy, and executes the command.
//!
//! The steps of the child stand in [`become_payload`], in their order. What goes wrong there comes back through a
//! pipe that exec closes: silence means that the payload runs.

use crate::admit::config::Config;
use crate::admit::process_init::{self, Start};
use crate::admit::request::{Command, Request};
use crate::failure::{Failure, shown};
use crate::log::Log;
use crate::run::outcome::Mishap;
use crate::run::payload_env;
use crate::run::target_proxy;
use crate::session::active_session::ActiveSession;
use crate::session::cgroup::{self, Door, Leaf};
use crate::session::namespace::{self, Namespace};
use crate::sys::attributes::Attributes;
use crate::sys::{fds, ids, isolation, process, terminal};
use identity::Account;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, Pid, pipe2};
use policy::glexec_conf::Lock;
use policy::judge::Permit;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Everything the child needs, decided before it exists.
pub(crate) struct Plan<'a> {
    /// `None` ends after the proxy is written.
    command: Option<&'a Command>,
    account: &'a Account,
    /// False in log-only mode.
    switch: bool,
    environment: Vec<CString>,
    /// Bytes of the payload's proxy, and where they go.
    proxy: Vec<u8>,
    copies: Vec<PathBuf>,
    target_lock: Lock,
    no_new_privs: bool,
    work_dir: Option<&'a Path>,
    /// Signals that the caller had blocked.
    signal_mask: SigSet,
    umask: Mode,
    /// What else the caller had set.
    attributes: &'a Attributes,
    /// Whether the payload is kept from other sessions of its account by a domain.
    isolated: bool,
}

impl<'a> Plan<'a> {
    /// The payload's environment; the epilogue gets the same.
    pub(crate) fn environment(&self) -> &[CString] {
        &self.environment
    }

    /// Puts together what was decided.
    pub(crate) fn new(
        start: &'a Start,
        config: &Config,
        request: &'a Request,
        permit: &'a Permit,
        proxy: Vec<u8>,
        session: &ActiveSession,
    ) -> Self {
        let switch = start.mode == process_init::Mode::Switching;
        let account = permit.account();
        let (kept, id) = (&config.conf.preserve_env_variables, (switch).then_some(session.id()));
        let path = session.proxy();
        let isolated = switch && session.is_isolated();
        let copies = path.map(Path::to_owned).into_iter().chain(session.renewed().iter().cloned()).collect();
        Self {
            command: request.command.as_ref(),
            account,
            switch,
            environment: payload_env::build(&start.environment, kept, account, path, id),
            proxy,
            copies,
            target_lock: config.conf.target_lock,
            no_new_privs: switch && config.policy.payload.no_new_privs,
            work_dir: request.work_dir.as_deref(),
            signal_mask: start.signal_mask,
            umask: start.umask,
            attributes: &start.attributes,
            isolated,
        }
    }
}

/// What the child did before it executed the command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The directory of `GLEXEC_WORK_DIR` was not there, and is now.
    pub(crate) made_work_dir: bool,
    /// Why it did not execute the command.
    pub(crate) mishap: Option<Mishap>,
}

/// Comes first in a report, where no exit code is 0.
const MADE_WORK_DIR: u8 = 0;

/// A child on its way to exec.
pub(crate) struct Launched {
    /// Its process id.
    pub(crate) pid: Pid,
    report: File,
}

/// Forks the payload's first process, into the leaf and the namespace that the session has. The caller has blocked the
/// signals that it will forward.
pub(crate) fn start(
    plan: &Plan<'_>,
    leaf: Option<&Leaf>,
    namespace: Option<&Namespace>,
) -> Result<Launched, Failure> {
    let failed = |e: nix::errno::Errno| Failure::site(format!("cannot start a process: {e}"));
    let (report, reporter) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let forked = match namespace {
        Some(namespace) => namespace.fork(leaf),
        None => cgroup::fork_in(leaf),
    };
    let (forked, door) = forked.map_err(failed)?;
    match forked {
        process::Fork::Parent(pid) => Ok(Launched { pid, report: File::from(report) }),
        process::Fork::Child => {
            drop(report);
            let failed = enclose(namespace).and_then(|()| become_payload(plan, door, reporter.as_fd(), true));
            process::exit_now(i32::from(report_failure(failed, reporter, &mut |_| {})))
        }
    }
}

/// Becomes the payload in this very process, or ends with an exit code: that failed, or nothing was to run.
pub(crate) fn in_place(plan: &Plan<'_>, leaf: Option<&Leaf>, reporter: OwnedFd, log: &Log) -> ! {
    let mut told = |mishap: &Mishap| log.tell_caller(&identity::one_line(&mishap.reason));
    let door = leaf.map_or(Door::none(), Leaf::door);
    let ended = become_payload(plan, door, reporter.as_fd(), false);
    process::exit_now(i32::from(report_failure(ended, reporter, &mut told)))
}

fn report_failure(result: Result<(), Mishap>, reporter: OwnedFd, tell: &mut dyn FnMut(&Mishap)) -> u8 {
    let Err(mishap) = result else { return 0 };
    let text = [&[mishap.code], identity::one_line(&mishap.reason).as_bytes()].concat();
    let _ = File::from(reporter).write_all(&text);
    tell(&mishap);
    mishap.code
}

impl Launched {
    /// Waits until the child has executed the command, or says why it could not.
    pub(crate) fn report(&mut self) -> Report {
        read_report(&mut self.report)
    }
}

/// Reads what [`become_payload`] and [`report_failure`] wrote; exec closes the pipe.
pub(crate) fn read_report(report: &mut File) -> Report {
    let mut bytes = Vec::new();
    let _ = report.read_to_end(&mut bytes);
    let made_work_dir = bytes.first() == Some(&MADE_WORK_DIR);
    let failure = bytes[usize::from(made_work_dir)..].split_first();
    let mishap = failure.map(|(code, reason)| {
        let reason = String::from_utf8_lossy(reason).into_owned();
        Mishap { code: *code, reason }
    });
    Report { made_work_dir, mishap }
}

/// While this process is still root: in a namespace it gets a `/proc` of its own.
fn enclose(namespace: Option<&Namespace>) -> Result<(), Mishap> {
    let own_proc = namespace.map_or(Ok(()), |_| namespace::own_proc());
    own_proc.map_err(|reason| Mishap {
        code: 202,
        reason: format!("the policy asks for [payload] pid_namespace: {reason}; allow it, or remove the key"),
    })
}

/// The `reporter` is a pipe that the supervisor alone reads. A `supervised` payload ends with its supervisor.
fn become_payload(
    plan: &Plan<'_>,
    door: Door<'_>,
    reporter: BorrowedFd<'_>,
    supervised: bool,
) -> Result<(), Mishap> {
    let site = |reason: String| Mishap { code: 202, reason };
    let user = |reason: String| Mishap { code: 201, reason };
    // Locks, log and record are root's: before this process is anybody's, it has nothing of them.
    door.enter().map_err(|e| site(format!("cgroup leaf: {e}")))?;
    umask(plan.umask);
    fds::close_all_but(reporter.as_raw_fd()).map_err(|e| site(format!("descriptors: {e}")))?;
    let account = &plan.account;
    plan.attributes.give_back_priorities();
    if plan.isolated {
        let refused = |what: &'static str| {
            move |e| {
                site(format!(
                    "the policy asks for [payload] isolate = \"account\", and {what} does not let us: {e}; \
                     give glexec CAP_SYS_ADMIN, or remove the key"
                ))
            }
        };
        isolation::enter_domain().map_err(refused("Landlock"))?;
        isolation::forbid_touching_others().map_err(refused("seccomp"))?;
    }
    if plan.switch && terminal::is_shared() {
        terminal::forbid_typing().map_err(|e| site(format!("terminal: {e}")))?;
    }
    if plan.switch {
        ids::become_for_good(account.uid, account.gid, &account.groups).map_err(site)?;
        process::new_session_keyring().map_err(|e| site(format!("session keyring: {e}")))?;
    }
    if plan.switch && supervised {
        process::die_with_reader(reporter).map_err(|e| site(format!("supervisor: {e}")))?;
    }
    if plan.no_new_privs {
        nix::sys::prctl::set_no_new_privs().map_err(|e| site(format!("no_new_privs: {e}")))?;
    }
    if let Some(dir) = plan.work_dir {
        let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
        made.map_err(|e| user(format!("working directory {}: {e}", dir.display())))?;
        let _ = nix::unistd::write(reporter, &[MADE_WORK_DIR]);
    }
    let mishap = hand_over(plan);
    if mishap.is_err() {
        // Nothing ran in the directory that was made for it, so it goes as it came.
        let _ = plan.work_dir.map(std::fs::remove_dir_all);
    }
    mishap
}

/// The last steps, with the account's rights: proxy, working directory, command.
fn hand_over(plan: &Plan<'_>) -> Result<(), Mishap> {
    let user = |reason: String| Mishap { code: 201, reason };
    for path in &plan.copies {
        let own = nix::unistd::geteuid().as_raw();
        target_proxy::write(path, &plan.proxy, own, plan.target_lock).map_err(user)?;
    }
    let Some(command) = &plan.command else {
        return Ok(());
    };
    settle(plan.work_dir, &plan.account.home).map_err(user)?;
    check_command(Path::new(&command.program), plan.account).map_err(user)?;
    restore(plan).map_err(|e| Mishap { code: 202, reason: format!("signals: {e}") })?;
    execute(command, &plan.environment, plan.attributes)
}

/// Enters the directory that was made for it; else keeps the working directory where the account can
/// enter it; else its home, else the root.
fn settle(work_dir: Option<&Path>, home: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("working directory: {e}");
    if let Some(dir) = work_dir {
        return std::env::set_current_dir(dir).map_err(failed);
    }
    let entered = [Path::new("."), home, Path::new("/")]
        .into_iter()
        .find_map(|dir| std::env::set_current_dir(dir).ok());
    entered.ok_or_else(|| "working directory: not even / can be entered".into())
}

fn check_command(program: &Path, account: &Account) -> Result<(), String> {
    let shown = shown(program.as_os_str());
    let meta =
        std::fs::metadata(program).map_err(|e| format!("command {shown}: {e}, seen as {}", account.name))?;
    if !meta.is_file() {
        return Err(format!("command {shown}: is not a regular file"));
    }
    let allowed = nix::unistd::faccessat(AT_FDCWD, program, AccessFlags::X_OK, AtFlags::AT_EACCESS);
    // The kernel answers alike where nobody may execute anything; that is left to exec, and its code.
    let noexec = || statvfs(program).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOEXEC));
    if allowed.is_ok() || noexec() {
        return Ok(());
    }
    Err(format!("command {shown}: account {} may not execute it", account.name))
}

/// The payload finds signals as the caller left them, but for dispositions that `process_init` changed: these get their
/// default.
fn restore(plan: &Plan<'_>) -> nix::Result<()> {
    plan.attributes.give_back_limits()?;
    process::default_signal(Signal::SIGPIPE)?;
    process::default_signal(Signal::SIGXFSZ)?;
    plan.signal_mask.thread_set_mask()
}

fn execute(command: &Command, environment: &[CString], attributes: &Attributes) -> Result<(), Mishap> {
    let refused = |reason: String| Mishap { code: 126, reason };
    let c = |text: &std::ffi::OsStr| CString::new(text.as_bytes()).map_err(|e| refused(e.to_string()));
    let program = c(&command.program)?;
    let mut argv = vec![program.clone()];
    for argument in &command.arguments {
        argv.push(c(argument)?);
    }
    let environment: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
    fds::close_on_exec().map_err(|e| refused(format!("descriptors: {e}")))?;
    attributes.start_timers();
    let error = match nix::unistd::execve(&program, &argv, &environment) {
        Err(error) => error,
        Ok(never) => match never {},
    };
    let shown = shown(&command.program);
    Err(refused(format!("command {shown}: exec: {error}")))
}
