//! Locks on proxy files, which other programs take while they renew or read one: `input_lock_mechanism` and
//! `target_lock_mechanism` of glexec.conf(5).

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use policy::glexec_conf::Lock;
use std::fs::File;
use std::time::{Duration, Instant};

/// How long a lock that somebody else holds is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who else may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Others that read.
    Readers,
    /// Nobody. Record locks of this kind need a file that is open for writing (fcntl(2)).
    Nobody,
}

/// A file that stays locked while this lives.
pub(crate) enum Locked {
    /// By flock(2).
    Whole(Flock<File>),
    /// By fcntl(2), or not at all.
    Plain(File),
}

impl std::ops::Deref for Locked {
    type Target = File;
    fn deref(&self) -> &File {
        match self {
            Self::Whole(file) => file,
            Self::Plain(file) => file,
        }
    }
}

/// Takes the lock, and waits for those who hold it.
pub(crate) fn take(mut file: File, lock: Lock, share: Share) -> Result<Locked, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        file = match attempt(file, lock, share) {
            Ok(locked) => return Ok(locked),
            Err((file, Errno::EWOULDBLOCK | Errno::EACCES)) => file,
            Err((_, error)) => return Err(format!("lock: {error}")),
        };
        if Instant::now() >= deadline {
            return Err("stays locked by another process".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn attempt(file: File, lock: Lock, share: Share) -> Result<Locked, (File, Errno)> {
    let (whole, records) = match share {
        Share::Readers => (FlockArg::LockSharedNonblock, libc::F_RDLCK),
        Share::Nobody => (FlockArg::LockExclusiveNonblock, libc::F_WRLCK),
    };
    match lock {
        Lock::Disabled => Ok(Locked::Plain(file)),
        Lock::Flock => Flock::lock(file, whole).map(Locked::Whole),
        Lock::Fcntl => match fcntl(&file, FcntlArg::F_SETLK(&all_records(records))) {
            Ok(_) => Ok(Locked::Plain(file)),
            Err(errno) => Err((file, errno)),
        },
    }
}

fn all_records(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
