//! Children of this process: ours, and those that the caller had before it executed `glexec`.
//!
//! exec(2) hands on the children of the caller, such as a shell's background jobs and `>(tee log)`. They belong to the
//! caller: they do not count as what a payload left behind, and are not ended with it.

use crate::sys::process::{self, End};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getuid};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long leftovers without a cgroup may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this time whoever traces a killed child is killed as well.
const TRACED: Duration = Duration::from_millis(100);

static INHERITED: OnceLock<Inherited> = OnceLock::new();

struct Inherited {
    /// With the time of their birth, in ticks since boot: an id alone may belong to somebody else by now.
    children: Vec<(Pid, u64)>,
    /// What these children start and leave comes to us, the nearest subreaper, and runs under the caller's real uid.
    /// `None` where a payload may have the same one: the caller is root, or nothing is switched.
    uid: Option<u32>,
}

/// Notes whom the caller left us; to be called before anything is started here.
pub(crate) fn remember(switching: bool) {
    let children = children();
    let uid = Some(getuid()).filter(|uid| switching && !uid.is_root() && !children.is_empty());
    let born = |pid: Pid| Some((pid, birth(&proc_text(pid, "stat"))?));
    let children = children.into_iter().filter_map(born).collect();
    // The first call counts; there is no second one.
    let _ = INHERITED.set(Inherited { children, uid: uid.map(nix::unistd::Uid::as_raw) });
}

/// Children of this process that the caller did not leave us.
pub(crate) fn own() -> Vec<Pid> {
    let mut children = children();
    if let Some(inherited) = INHERITED.get().filter(|i| !i.children.is_empty()) {
        children.retain(|pid| !inherited.has(*pid));
    }
    children
}

/// Whether none is left but children of the caller, as far as that can be told.
pub(crate) fn only_inherited() -> bool {
    INHERITED.get().is_some_and(|i| !i.children.is_empty()) && own().is_empty()
}

/// Ends all children of this process that are ours, and theirs, as far as they come to us as orphans. `false` when some
/// would not end. A process of this account that traces one of them is killed as well.
pub(crate) fn end_children(account: Option<u32>) -> bool {
    let began = Instant::now();
    loop {
        // Whoever is killed hands its own children to us, so this goes down the tree level by level.
        for pid in own() {
            let _ = kill(pid, Signal::SIGKILL);
            if began.elapsed() > TRACED {
                end_tracer(pid, account);
            }
        }
        match process::wait_any() {
            Err(Errno::ECHILD) => return true,
            Ok(None) if only_inherited() => return true,
            Ok(None) if began.elapsed() > PATIENCE => return false,
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

/// Waits for the end of a child, no longer than until the deadline.
pub(crate) fn wait_until(pid: Pid, deadline: Instant) -> Result<End, String> {
    // Kernels before 5.3 have none; there the end is looked for every millisecond.
    let ended = process::pidfd(pid).ok();
    loop {
        match process::try_wait(pid) {
            Ok(None) | Err(Errno::EINTR) => await_end(ended.as_ref(), deadline)?,
            Ok(Some(end)) => return Ok(end),
            Err(error) => return Err(format!("waitpid: {error}")),
        }
    }
}

fn await_end(pidfd: Option<&OwnedFd>, deadline: Instant) -> Result<(), String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("does not end in time".into());
    }
    let Some(pidfd) = pidfd else {
        std::thread::sleep(Duration::from_millis(1));
        return Ok(());
    };
    let timeout = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(format!("poll: {error}")),
    }
}

/// When a process was born, in ticks since boot; `None` when it is gone. With its id it names a process for good.
pub(crate) fn born(pid: Pid) -> Option<u64> {
    birth(&proc_text(pid, "stat"))
}

impl Inherited {
    fn has(&self, pid: Pid) -> bool {
        let known = self.children.iter().find(|(known, _)| *known == pid);
        known.is_some_and(|(_, born)| birth(&proc_text(pid, "stat")) == Some(*born))
            || (self.uid.is_some() && real_uid(&proc_text(pid, "status")) == self.uid)
    }
}

fn children() -> Vec<Pid> {
    // Mostly there is none, and to ask for that costs less than to read it.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    if waitid(Id::All, flags) == Err(Errno::ECHILD) {
        return Vec::new();
    }
    children_of(getpid())
}

fn children_of(pid: Pid) -> Vec<Pid> {
    // Numbers only.
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw).collect()
}

/// A text of `/proc`, in which the process has a word: bytes, and nothing that can fail to be text.
fn proc_text(pid: Pid, name: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// The 22nd field of `/proc/<pid>/stat`; the second one is in parentheses and may hold anything.
fn birth(stat: &[u8]) -> Option<u64> {
    std::str::from_utf8(process::stat_field(stat, 19)?).ok()?.parse().ok()
}

/// Who a process belongs to; `None` once it is gone.
pub(crate) fn real_uid_of(pid: i32) -> Option<u32> {
    real_uid(&proc_text(Pid::from_raw(pid), "status"))
}

/// Whether any process of the host runs under this uid; also when that cannot be told. One that only waits to be
/// collected does not run.
pub(crate) fn any_runs_as(uid: u32) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    let mut pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.any(|pid| runs_as(&proc_text(Pid::from_raw(pid), "status"), uid))
}

fn runs_as(status: &[u8], uid: u32) -> bool {
    real_uid(status) == Some(uid)
        && status_field(status, b"State:").is_none_or(|state| !state.starts_with(b"Z"))
}

/// The first number behind `Uid:` in `/proc/<pid>/status`; the name above it has its line breaks escaped.
fn real_uid(status: &[u8]) -> Option<u32> {
    first_number(status, b"Uid:")
}

/// The first number of a line of `/proc/<pid>/status`.
pub(crate) fn first_number(status: &[u8], field: &[u8]) -> Option<u32> {
    let value = status_field(status, field)?;
    let number = value.split(|byte| byte.is_ascii_whitespace()).next()?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// What stands behind a name in `/proc/<pid>/status`. The process's own name is bytes of its choice.
pub(crate) fn status_field<'s>(status: &'s [u8], field: &[u8]) -> Option<&'s [u8]> {
    let mut lines = status.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.strip_prefix(field)).map(|value| value.trim_ascii())
}

/// Kills the process of this account that traces another one of it, which it could hold on its way out for ever. Tracers of
/// anybody else, such as an administrator's, are left alone.
pub(crate) fn end_tracer(pid: Pid, account: Option<u32>) {
    let tracer = first_number(&proc_text(pid, "status"), b"TracerPid:").unwrap_or(0).cast_signed();
    let Some(account) = account.filter(|_| tracer > 1) else { return };
    let tracer = Pid::from_raw(tracer);
    if let Ok(pinned) = process::pidfd(tracer)
        && real_uid(&proc_text(tracer, "status")) == Some(account)
    {
        let _ = process::signal_pidfd(pinned.as_fd(), Signal::SIGKILL);
    }
}

/// Everything below this process.
pub(crate) fn descendants() -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    let mut next = own();
    while let Some(pid) = next.pop() {
        // The tree changes while it is read: a number may come twice.
        if !found.contains(&pid.as_raw()) {
            found.push(pid.as_raw());
            next.extend(children_of(pid));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_birth_and_uid() {
        let stat = b"77 (x) S 1 (y) S 12 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8812 0 0";
        assert_eq!(birth(stat), Some(8812));
        assert_eq!(birth(b""), None);
        let own = proc_text(getpid(), "stat");
        assert!(birth(&own) > Some(0), "{own:?}");
        assert_eq!(real_uid(b"Name:\tx\\nUid:\nUid:\t5\t0\t0\t0\n"), Some(5));
        assert_eq!(real_uid(&proc_text(getpid(), "status")), Some(getuid().as_raw()));
        assert!(runs_as(b"Name:\tState:\\tZ\nState:\tS (sleeping)\nUid:\t5\t0\n", 5));
        assert!(!runs_as(b"Name:\tx\nState:\tZ (zombie)\nUid:\t5\t0\n", 5));
        assert!(any_runs_as(getuid().as_raw()));
    }

    #[test]
    fn a_name_that_is_no_text_hides_nobody() {
        let status = b"Name:\t\xff\xfe\nState:\tS (sleeping)\nTracerPid:\t12\nUid:\t5\t0\n";
        assert!(runs_as(status, 5));
        assert_eq!(first_number(status, b"TracerPid:"), Some(12));
        assert_eq!(birth(b"77 (\xff) S 12 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8812 0 0"), Some(8812));
    }

    #[test]
    fn the_caller_s_children_are_told_from_others() {
        let mut child = std::process::Command::new("/bin/sleep").arg("10").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let stranger = Inherited { children: vec![(pid, 1)], uid: None };
        assert!(!stranger.has(pid), "same id, other birth");
        let known = Inherited { children: vec![(pid, birth(&proc_text(pid, "stat")).unwrap())], uid: None };
        assert!(known.has(pid));
        let by_uid = Inherited { children: vec![], uid: Some(getuid().as_raw()) };
        assert!(by_uid.has(pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
