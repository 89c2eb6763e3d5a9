//! The agent's private directory: proxies, input, output and logs on their way. Only the pilot's account can enter it.
//!
//! An agent that was killed leaves its directory behind, with proxies in it. The next agent of the same account on the node
//! removes it: a directory is in use for as long as its file `lock` is locked.

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use tempfile::TempDir;

const PREFIX: &str = "pilotage-agent-";
const LOCK: &str = "lock";

/// The directory; removed when dropped.
#[derive(Debug)]
pub struct Private {
    dir: TempDir,
    _lock: Flock<File>,
}

impl Private {
    /// Makes it below `TMPDIR`, or `/tmp`, and removes what killed agents have left there.
    pub fn create() -> Result<Self> {
        Self::create_in(&std::env::temp_dir())
    }

    fn create_in(base: &Path) -> Result<Self> {
        clean(base);
        let fail = || format!("cannot make a private directory in {}", base.display());
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base).with_context(fail)?;
        let lock = File::create_new(dir.path().join(LOCK)).with_context(fail)?;
        let lock =
            Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e).with_context(fail)?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes directories of agents that are gone. What cannot be removed is somebody else's, or will be tried again.
fn clean(base: &Path) {
    let uid = nix::unistd::geteuid().as_raw();
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == uid);
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && named && is_abandoned(&entry.path()) && std::fs::remove_dir_all(entry.path()).is_ok() {
            tracing::info!(directory = %entry.path().display(), "removed what a killed pilot had left");
        }
    }
}

fn is_abandoned(dir: &Path) -> bool {
    let mut options = File::options();
    let lock = options.read(true).custom_flags(libc::O_NOFOLLOW).open(dir.join(LOCK));
    // Without the file an agent is just making it.
    lock.is_ok_and(|lock| Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_directories_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let first = Private::create_in(base.path()).unwrap();
        let abandoned = base.path().join("pilotage-agent-dead");
        std::fs::create_dir(&abandoned).unwrap();
        for name in [LOCK, "proxy.pem"] {
            std::fs::write(abandoned.join(name), "").unwrap();
        }
        let other = base.path().join("pilotage-agent-new");
        std::fs::create_dir(&other).unwrap();
        let second = Private::create_in(base.path()).unwrap();
        assert!(first.path().exists() && second.path().exists() && other.exists());
        assert!(!abandoned.exists());
    }
}
