//! A `gridmapdir` on a real file system: what [`policy::pool::MapDir`] asks for, one system call each.
//!
//! The directory is opened once, by whoever knows which directories may be trusted; every name is then looked up in that
//! open directory, and no link is followed.
//!
//! Must never: decide which account anybody gets (`policy::pool` does), or open a path. Called by: `glexec`, `site-policy` and
//! `mapping-server`.
#![forbid(unsafe_code)]

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, unlinkat};
use policy::pool::{Entry, MapDir};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// An open directory of leases.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// The caller has made sure that nobody but root, or the service that keeps the leases, can change the directory.
    pub fn new(open: impl Into<OwnedFd>) -> Self {
        Self(open.into())
    }
}

fn io(error: Errno) -> io::Error {
    error.into()
}

impl MapDir for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut open = Dir::openat(&self.0, ".", flags, Mode::empty()).map_err(io)?;
        let mut names = Vec::new();
        for entry in open.iter() {
            let entry = entry.map_err(io)?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    #[allow(clippy::useless_conversion, reason = "other machines count links in 32 bits")]
    fn look(&self, name: &str) -> io::Result<Option<Entry>> {
        match fstatat(self.0.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Entry {
                inode: stat.st_ino,
                links: stat.st_nlink.into(),
                regular: SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG,
                used: stat.st_mtime,
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(io(error)),
        }
    }

    fn link(&self, account: &str, lease: &str) -> io::Result<bool> {
        match linkat(&self.0, account, &self.0, lease, LinkatFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(error) => Err(io(error)),
        }
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(io(error)),
        }
    }

    fn touch(&self, name: &str) -> io::Result<()> {
        let now = TimeSpec::UTIME_NOW;
        utimensat(&self.0, name, &now, &now, UtimensatFlags::NoFollowSymlink).map_err(io)
    }

    fn pause(&self, attempt: u32) {
        // A hasher of the library has random keys: enough to keep two processes from moving in step.
        let spread = u64::from(attempt.clamp(1, 20)) * 5_000;
        std::thread::sleep(Duration::from_micros(500 + RandomState::new().hash_one(attempt) % spread));
    }
}
