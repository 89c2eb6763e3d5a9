//! A directory in which the agents of a node, under whichever account, agree on blocks.
//!
//! `LOW-HIGH.lock` is locked with flock(2) while a payload has the block, so a killed agent frees it at once. `LOW-HIGH.UID` is that
//! account's mark: `held` or `free`, written when the block changes hands. The newest mark tells since when the block rests; a
//! newest mark that says `held` without a lock belongs to an agent that was killed, so the rest begins when somebody finds it.
//!
//! Strangers can write in that directory, and lock blocks. So everything in it is opened without following links and without waiting, must be
//! a regular file, and a mark must belong to the account in its name.

use super::Clock;
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use policy::ports::PortRange;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where agents meet.
#[derive(Debug)]
pub struct Directory {
    dir: PathBuf,
    quarantine: Duration,
    clock: Clock,
}

impl Directory {
    /// Prepares the directory.
    pub fn open(dir: &Path, quarantine: Duration) -> Result<Self> {
        let remedy = || {
            format!(
                "port directory {}: cannot use it; make it with mode 1777 or name another with --port-dir",
                dir.display()
            )
        };
        if !dir.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir).with_context(remedy)?;
            std::fs::set_permissions(dir, Permissions::from_mode(0o1777)).with_context(remedy)?;
        }
        tempfile::tempfile_in(dir).with_context(remedy)?;
        Ok(Self { dir: dir.to_owned(), quarantine, clock: Clock::default() })
    }

    /// Locks a block that has rested.
    pub fn hold(&self, block: PortRange) -> Option<Held> {
        let file = open_lock(&self.dir.join(format!("{block}.lock"))).ok()?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        let uid = nix::unistd::geteuid();
        let held = Held { block, mark: self.dir.join(format!("{block}.{uid}")), taken: false, _lock: lock };
        match self.newest_mark(block) {
            None => (),
            Some(Mark { held: true, .. }) => {
                mark(&held.mark, "free").ok();
                return None;
            }
            Some(Mark { age, .. }) if age < self.quarantine => return None,
            Some(_) => (),
        }
        Some(held)
    }
}

/// One locked block.
#[derive(Debug)]
pub struct Held {
    block: PortRange,
    mark: PathBuf,
    taken: bool,
    _lock: Flock<File>,
}

impl Held {
    /// Its ports.
    pub fn range(&self) -> PortRange {
        self.block
    }

    /// Says that a payload has it.
    pub fn take(&mut self) {
        self.taken = true;
        // Without its mark a block is safe too: the lock holds, only the rest after a kill would be missing.
        mark(&self.mark, "held").ok();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.taken {
            // The lock is released after this, so nobody sees a free block without its mark.
            mark(&self.mark, "free").ok();
        }
    }
}

/// Opens the lock file, which may belong to another account: reading is enough for flock(2).
fn open_lock(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(SAFELY);
    let opened = options.open(path).or_else(|e| match e.kind() {
        ErrorKind::NotFound => {
            let mut new = options.clone();
            match new.write(true).create_new(true).mode(0o644).open(path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => options.open(path),
                made => made,
            }
        }
        _ => Err(e),
    });
    regular(opened?)
}

/// Neither follows a link nor waits for the other end of a pipe.
const SAFELY: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;

fn regular(file: File) -> std::io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("is no regular file")) }
}

fn mark(path: &Path, word: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o644).custom_flags(SAFELY);
    let mut file = regular(options.open(path).or_else(|_| options.create_new(true).open(path))?)?;
    file.set_len(0)?;
    file.write_all(word.as_bytes())?;
    // An unchanged word would leave an old time.
    file.set_modified(SystemTime::now())
}

struct Mark {
    held: bool,
    age: Duration,
}

impl Directory {
    /// The mark written last for a block, by whichever account.
    fn newest_mark(&self, block: PortRange) -> Option<Mark> {
        let prefix = format!("{block}.");
        let entries = std::fs::read_dir(&self.dir).ok()?.flatten();
        let marks = entries.filter_map(|e| {
            let name = e.file_name();
            let uid = name.to_str()?.strip_prefix(&prefix)?.parse::<u32>().ok()?;
            self.read_mark(e.path(), uid)
        });
        marks.min_by_key(|mark| mark.age)
    }

    /// A mark of this account; `None` for anything that pretends to be one.
    fn read_mark(&self, path: PathBuf, uid: u32) -> Option<Mark> {
        let file = OpenOptions::new().read(true).custom_flags(SAFELY).open(&path).and_then(regular).ok()?;
        let meta = file.metadata().ok()?;
        if meta.uid() != uid {
            return None;
        }
        let mut word = Vec::new();
        file.take(16).read_to_end(&mut word).ok()?;
        Some(Mark { held: word == b"held", age: self.clock.age(&path, meta.modified().ok()?) })
    }
}
