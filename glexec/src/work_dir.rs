//! The payload's own directory: the account makes it (see `launch`), and it is removed as the account, never as root.
//!
//! So whatever the payload put there, links and races included, removing it can do nothing that the payload could not.

use crate::session::State;
use crate::sys::{ids, process};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{getegid, geteuid};
use std::path::PathBuf;

/// A directory to be removed when the session ends.
pub(crate) struct WorkDir {
    path: PathBuf,
    uid: u32,
    gid: u32,
}

impl WorkDir {
    /// The directory that a session's state names.
    pub(crate) fn of(state: &State) -> Option<Self> {
        let path = state.work_dir.clone()?;
        Some(Self { path, uid: state.uid, gid: state.gid })
    }

    /// The directory of a payload that runs as the caller, in log-only mode.
    pub(crate) fn of_caller(path: PathBuf) -> Self {
        Self { path, uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// Removes it with everything in it; links are removed, not followed.
    pub(crate) fn remove(self) -> Result<(), String> {
        let failed = |why: String| format!("working directory {} stays: {why}", self.path.display());
        if !geteuid().is_root() {
            return if self.remove_here() { Ok(()) } else { Err(failed("see its permissions".into())) };
        }
        match process::fork().map_err(|e| failed(e.to_string()))? {
            process::Fork::Child => {
                let gone = ids::become_for_good(self.uid, self.gid, &[]).is_ok() && self.remove_here();
                process::exit_now(i32::from(!gone))
            }
            process::Fork::Parent(pid) => loop {
                match waitpid(pid, None) {
                    Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                    Err(Errno::EINTR) => {}
                    other => return Err(failed(format!("{other:?}"))),
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
