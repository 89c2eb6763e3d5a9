//! `[payload] pid_namespace`: the payload sees its own processes only, and no process outlives the namespace.
//!
//! Process 1 of the namespace is ours and does nothing but reap. It is root without any capability and cannot be dumped, so
//! that neither the payload nor anybody else of its account can signal, trace or stop it. It holds one descriptor: a
//! line to the supervisor. When the supervisor ends, however that happens, process 1 ends too (by that line, and by
//! `PR_SET_PDEATHSIG`), and with it the kernel ends every process of the namespace (pid_namespaces(7)).
//!
//! The payload is not a child of process 1: the supervisor forks it into the namespace. So its exit status, its signals,
//! its group and session, and its CPU time are what they are without a namespace. Inside, its parent has the number 0.

use crate::failure::Failure;
use crate::session::cgroup::{Door, Leaf, fork_in, membership};
use crate::sys::process::Fork;
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The namespace that this process itself is in.
const OWN: &str = "/proc/self/ns/pid";

/// A namespace of this session, alive as long as this is.
#[derive(Debug)]
pub(crate) struct Namespace {
    first: Pid,
    inside: File,
    outside: File,
    /// Process 1 ends when this is closed.
    line: UnixStream,
}

impl Namespace {
    /// Makes one, with its process 1 in the leaf. The policy asked for a wall, so a host that has none to give is an error.
    pub(crate) fn make(leaf: Option<&Leaf>) -> Result<Self, Failure> {
        Self::build(leaf).map_err(|e| {
            Failure::site(format!(
                "the policy asks for [payload] pid_namespace, and this host does not give one: {e}; \
                 allow it (user.max_pid_namespaces, CAP_SYS_ADMIN in a container), or remove the key"
            ))
        })
    }

    fn build(leaf: Option<&Leaf>) -> io::Result<Self> {
        let outside = File::open(OWN)?;
        let (mut line, other_end) = UnixStream::pair()?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        let forked = fork_in(leaf);
        if let Ok((Fork::Child, to_enter)) = forked {
            let ended = first_process(other_end.into(), to_enter);
            process::exit_now(i32::from(ended.is_err()))
        }
        drop(other_end);
        // From here on children are ours again: whoever is forked next belongs to the site, not to the payload.
        setns(&outside, CloneFlags::CLONE_NEWPID)?;
        let Fork::Parent(first) = forked?.0 else { return Err(Errno::EINVAL.into()) };
        let ready = line.read_exact(&mut [0]);
        let inside = ready.and_then(|()| File::open(format!("/proc/{first}/ns/pid")));
        inside.map(|inside| Self { first, inside, outside, line }).inspect_err(|_| reap(first))
    }

    /// The number that tells one namespace from another, as long as it lives.
    pub(crate) fn id(&self) -> Option<u64> {
        self.inside.metadata().ok().map(|meta| meta.ino())
    }

    /// Forks a child of this process into it. The second value is what the child must still enter by itself.
    pub(crate) fn fork<'l>(&self, leaf: Option<&'l Leaf>) -> nix::Result<(Fork, Door<'l>)> {
        setns(&self.inside, CloneFlags::CLONE_NEWPID)?;
        let forked = fork_in(leaf);
        if !matches!(forked, Ok((Fork::Child, _))) {
            setns(&self.outside, CloneFlags::CLONE_NEWPID)?;
        }
        forked
    }

    /// How many processes came to process 1 as orphans, for hosts without a cgroup that counts.
    pub(crate) fn orphans(&self) -> usize {
        let path = format!("/proc/{0}/task/{0}/children", self.first);
        fs::read_to_string(path).map_or(0, |numbers| numbers.split_whitespace().count())
    }

    /// Ends it and everything in it; for a supervisor that has reaped process 1 already, nothing.
    pub(crate) fn end(self) {
        drop(self.line);
        reap(self.first);
    }
}

fn reap(first: Pid) {
    while waitpid(first, None) == Err(Errno::EINTR) {}
}

/// The namespace of this process: two calls that give the same number share one.
pub(crate) fn own() -> Option<u64> {
    fs::metadata(OWN).ok().map(|meta| meta.ino())
}

/// Process 1: says that it is ready, then reaps orphans until the supervisor hangs up.
fn first_process(line: OwnedFd, door: Door<'_>) -> io::Result<()> {
    door.enter()?;
    let mut line = UnixStream::from(fds::keep_only(line)?);
    // Neither the caller's terminal nor signals to its group are any of its business.
    nix::unistd::setsid()?;
    nix::unistd::chdir("/")?;
    SigSet::all().thread_block()?;
    let ends = SignalFd::with_flags(
        &SigSet::from_iter([Signal::SIGCHLD]),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?;
    ids::be_powerless_root().map_err(io::Error::other)?;
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    prctl::set_name(c"glexec-init")?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    line.write_all(b"+")?;
    loop {
        let mut polled =
            [PollFd::new(line.as_fd(), PollFlags::POLLIN), PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut polled, PollTimeout::NONE);
        // Nobody ever writes to the line, so news on it is its end.
        if polled[0].any() == Some(true) {
            return Ok(());
        }
        while let Ok(Some(_)) = ends.read_signal() {}
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(s) if s != WaitStatus::StillAlive) {}
    }
}

/// In the payload's process, still as root: a `/proc` that shows the namespace and nothing else, and no other way to see
/// processes. The mounts are this process's own; what the host mounts later (a file system that comes on demand) still comes.
pub(crate) fn own_proc() -> Result<(), String> {
    let step = |what: &str, e: Errno| format!("own /proc: {what}: {e}");
    let none = None::<&str>;
    if shows_processes(Path::new(".")) {
        // The directory would still be that of the host.
        nix::unistd::chdir("/").map_err(|e| step("/", e))?;
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| step("mount namespace", e))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(|e| step("propagation", e))?;
    let mounts = fs::read("/proc/self/mountinfo").map_err(|e| format!("own /proc: mountinfo: {e}"))?;
    for place in other_views(&mounts) {
        while shows_processes(&place) {
            umount2(&place, MntFlags::MNT_DETACH)
                .map_err(|e| step(&format!("another view of processes at {}", place.display()), e))?;
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(|e| step("mount", e))
}

fn shows_processes(place: &Path) -> bool {
    statfs(place).is_ok_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Where else `/proc` is mounted, such as in the directory of a chroot, from the text of mountinfo (proc(5)).
fn other_views(mountinfo: &[u8]) -> Vec<PathBuf> {
    let views = membership::lines(mountinfo).filter_map(|line| {
        let middle = line.windows(3).position(|part| part == b" - ")?;
        let is_proc = line[middle + 3..].starts_with(b"proc ");
        let point = line[..middle].split(|byte| *byte == b' ').nth(4).filter(|_| is_proc)?;
        Some(membership::unescaped(point))
    });
    views.filter(|point| !point.starts_with("/proc")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_view_of_processes_is_found() {
        let mounts = b"22 28 0:21 / /proc rw,nosuid - proc proc rw\n\
                       23 22 0:22 /sys /proc/sys ro - proc proc rw\n\
                       24 28 0:21 / /srv/old\\040root/proc rw shared:5 - proc proc rw\n\
                       25 28 0:9 / /process rw - tmpfs tmpfs rw\n\
                       26 28 0:21 / /procfs rw - proc none rw\n";
        let found = other_views(mounts);
        assert_eq!(found, [Path::new("/srv/old root/proc"), Path::new("/procfs")]);
    }

    #[test]
    fn what_shows_processes_is_told_from_what_does_not() {
        assert!(shows_processes(Path::new("/proc")));
        assert!(!shows_processes(Path::new("/")));
        assert!(!shows_processes(Path::new("/nonexistent")));
    }
}
