//! The agent's private directory: proxies, input, output and logs on their way. Only the pilot's account can enter it.
//!
//! An agent that was killed leaves its directory behind, with proxies in it. The next agent of the same account on the node
//! removes it: a directory is in use for as long as its file `lock` is locked.

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

const PREFIX: &str = "pilotage-agent-";
const LOCK: &str = "lock";

/// The directory; removed when dropped.
#[derive(Debug)]
pub struct Private {
    base: PathBuf,
    made: Mutex<Made>,
}

/// One directory with its locks.
#[derive(Debug)]
struct Made {
    dir: TempDir,
    _lock: Flock<File>,
    /// systemd-tmpfiles(8) leaves a directory alone whose lock somebody holds.
    _against_cleaners: Flock<File>,
}

impl Private {
    /// Makes it in this directory, and removes what killed agents have left there.
    pub fn create_in(base: &Path) -> Result<Self> {
        clean(base);
        Ok(Self { base: base.to_owned(), made: Mutex::new(make(base)?) })
    }

    /// Where it is. One that a cleaner of temporary files took away is made again: a pilot lives longer than such a cleaner's
    /// patience.
    pub fn path(&self) -> Result<PathBuf> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.dir.path().is_dir() {
            tracing::warn!(directory = %made.dir.path().display(), "the private directory has been removed: making another one");
            *made = make(&self.base)?;
        }
        Ok(made.dir.path().to_owned())
    }
}

fn make(base: &Path) -> Result<Made> {
    let fail = || format!("cannot make a private directory in {}", base.display());
    let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base).with_context(fail)?;
    let lock = |file: File| {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e).with_context(fail)
    };
    let (own, whole) = (File::create_new(dir.path().join(LOCK)), File::open(dir.path()));
    let (own, whole) = (lock(own.with_context(fail)?)?, lock(whole.with_context(fail)?)?);
    Ok(Made { dir, _lock: own, _against_cleaners: whole })
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
    let lock = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(dir.join(LOCK));
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
        assert!(first.path().unwrap().exists() && second.path().unwrap().exists() && other.exists());
        assert!(!abandoned.exists());
    }

    #[test]
    fn a_directory_that_a_cleaner_took_away_is_made_again() {
        let base = tempfile::tempdir().unwrap();
        let private = Private::create_in(base.path()).unwrap();
        let first = private.path().unwrap();
        std::fs::remove_dir_all(&first).unwrap();
        let second = private.path().unwrap();
        assert!(second.is_dir() && second != first);
        assert_eq!(private.path().unwrap(), second);
    }
}
