//! The reaper of a session: closes it as soon as its supervisor is gone.
//!
//! The supervisor sits in the caller's own cgroup, where the batch system kills it. Some batch systems kill only whom
//! the processes listed in that very group (Slurm, OAR), and would miss what the payload left in the leaf below it. The reaper
//! sits in the leaf: it is missed as well, and ends the others then. It does what the next call of `glexec`, or
//! `glexec-monitor`, would do later (see [`orphans`]).
//!
//! It is root, in a session and with no group of its own, so that neither caller, payload nor a kill by group id reaches it.

use crate::log::Log;
use crate::session::cgroup::{self, Leaf};
use crate::session::orphans;
use crate::session::store;
use crate::sys::process::Fork;
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use policy::GlexecConf;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long the kernel may take to let go of an ended supervisor's lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// A reaper at work.
#[derive(Debug)]
pub(crate) struct SessionReaper {
    pid: Pid,
    /// A byte dismisses it; the line's end without one is the supervisor's end.
    line: UnixStream,
}

impl SessionReaper {
    /// Starts a reaper for a session that is on record. Without one the next call closes what is left, so `None` is no error.
    pub(crate) fn post(leaf: &Leaf, id: &str, conf: &GlexecConf) -> Option<Self> {
        let (line, other_end) = UnixStream::pair().ok()?;
        match cgroup::fork_in(Some(leaf)).ok()? {
            (Fork::Parent(pid), _) => Some(Self { pid, line }),
            (Fork::Child, door) => {
                let watched = door.enter().and_then(|()| watch(other_end));
                if watched.is_ok_and(|dismissed| !dismissed) {
                    relieve(leaf, id, &Log::configured(conf));
                }
                process::exit_now(0)
            }
        }
    }

    /// Ends it: from here on the supervisor closes the session itself.
    pub(crate) fn dismiss(mut self) {
        let _ = self.line.write_all(b"d");
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

/// Waits for the end of the supervisor, or to be dismissed.
fn watch(line: UnixStream) -> io::Result<bool> {
    let mut line = UnixStream::from(fds::keep_only(line.into())?);
    nix::unistd::setsid()?;
    nix::unistd::chdir("/")?;
    SigSet::all().thread_block()?;
    ids::be_root_alone()?;
    prctl::set_dumpable(false)?;
    prctl::set_name(c"glexec-reaper")?;
    loop {
        match line.read(&mut [0]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map(|bytes| bytes > 0),
        }
    }
}

/// Closes the session in the supervisor's place, unless somebody else does.
fn relieve(leaf: &Leaf, id: &str, log: &Log) {
    leaf.leave_job();
    let deadline = Instant::now() + PATIENCE;
    while let Some(found) = store::by_id(id)
        && Instant::now() < deadline
    {
        if found.orphaned.is_some() {
            return orphans::close(&found.state, log);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
