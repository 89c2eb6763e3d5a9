//! The payload's own directory: the account makes it (see `launch`), and it is removed as the account, never as root.
//!
//! So whatever the payload put there, links and races included, removing it can do nothing that the payload could not.

use crate::run::child_processes;
use crate::session::store::SessionState;
use crate::sys::process::End;
use crate::sys::{fds, ids, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{getegid, geteuid, getpid};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long removing may take. Other processes of the account could stop it, and the directory may lie on a file system that
/// does not answer: nobody shall wait for that for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory to be removed when the session ends.
pub(crate) struct WorkDir {
    path: PathBuf,
    uid: u32,
    gid: u32,
}

impl WorkDir {
    /// The directory that a session's state names.
    pub(crate) fn of(state: &SessionState) -> Option<Self> {
        let path = state.work_dir.clone()?;
        Some(Self { path, uid: state.uid, gid: state.gid })
    }

    /// The directory of a payload that runs as the caller, in log-only mode.
    pub(crate) fn of_caller(path: PathBuf) -> Self {
        Self { path, uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// Removes it with everything in it; links are removed, not followed.
    pub(crate) fn remove(self, patience: Duration) -> Result<(), String> {
        let failed = |why: String| format!("working directory {} stays: {why}", self.path.display());
        if !geteuid().is_root() {
            return if self.remove_here() { Ok(()) } else { Err(failed("see its permissions".into())) };
        }
        let parent = getpid();
        match process::fork().map_err(|e| failed(e.to_string()))? {
            process::Fork::Child => {
                // From here on this is the account's process, so it holds nothing of root's and dies with us.
                let alone =
                    fds::close_from(3).is_ok() && ids::become_for_good(self.uid, self.gid, &[]).is_ok();
                let gone = alone && process::die_with(parent).is_ok() && self.remove_here();
                process::exit_now(i32::from(!gone))
            }
            process::Fork::Parent(pid) => match child_processes::wait_until(pid, Instant::now() + patience) {
                Ok(End::Exited(0)) => Ok(()),
                Ok(other) => Err(failed(format!("{other:?}"))),
                Err(why) => {
                    let _ = kill(pid, Signal::SIGKILL);
                    let _ = child_processes::wait_until(pid, Instant::now() + Duration::from_secs(1));
                    Err(failed(why))
                }
            },
        }
    }

    fn remove_here(&self) -> bool {
        match std::fs::remove_dir_all(&self.path) {
            Ok(()) => true,
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        }
    }
}
