//! The lock file that keeps a second server from opening a store that another one serves.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Held by the server of a store as long as it runs; the system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock file beside the store, and writes into it who holds it.
    ///
    /// # Errors
    /// Says who holds it, or why the file cannot be used.
    pub fn take(store: &Path) -> Result<Self, String> {
        let path = beside(store);
        let failed = |why: &dyn std::fmt::Display| format!("lock {}: {why}", path.display());
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut file = options.open(&path).map_err(|e| failed(&e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.take(256).read_to_string(&mut holder).map_err(|e| failed(&e))?;
                return Err(format!(
                    "store {} is in use by {}; stop that one first, or give this one a store of its own",
                    store.display(),
                    holder.trim()
                ));
            }
            Err(TryLockError::Error(e)) => return Err(failed(&e)),
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let holder = format!("pilot queue, process {} on {}\n", std::process::id(), host.trim());
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(holder.as_bytes()));
        written.map_err(|e| failed(&e))?;
        Ok(Self { _file: file })
    }
}

fn beside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_server_learns_who_holds_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("queue.db");
        let first = Lock::take(&store).unwrap();
        let refused = Lock::take(&store).unwrap_err();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        Lock::take(&store).unwrap();
    }
}
