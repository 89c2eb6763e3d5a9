//! Opening files that root trusts.
//!
//! A path is walked from `/`, one `openat` a component, by the rule of [`policy::trusted`]. What is opened at the end is
//! checked by its descriptor and never opened again. So nobody but root can have chosen what is read.

use crate::failure::Failure;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use policy::trusted::{self, Kind, LookError, Status, Tree};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub(crate) use policy::trusted::Rule;

/// Site files are small; what is larger is a mistake.
const MAX_SITE_FILE: u64 = 64 * 1024 * 1024;

/// Opens the path for reading; a failure is the site's (202) and names the component.
pub(crate) fn open(path: &Path, rule: Rule) -> Result<File, Failure> {
    trusted::walk(&Opened, path, rule).map(File::from).map_err(|why| Failure::site(why.about(path)))
}

/// Reads a whole file that passes [`open`].
pub(crate) fn read(path: &Path, rule: Rule) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::site(format!("{}: {why}", path.display()));
    let file = open(path, rule)?;
    let size = file.metadata().map_or(0, |meta| meta.len().min(MAX_SITE_FILE));
    // One byte more than expected, so that the end is seen with the first read.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_SITE_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX_SITE_FILE {
        return Err(failed("larger than 64 MiB".into()));
    }
    Ok(bytes)
}

/// Whether the path exists at all; other errors are for [`open`] to report.
pub(crate) fn exists(path: &Path) -> bool {
    !matches!(std::fs::symlink_metadata(path), Err(e) if e.kind() == std::io::ErrorKind::NotFound)
}

/// Each component is opened from the one before.
struct Opened;

impl Tree for Opened {
    type Place = OwnedFd;

    fn root(&self) -> Result<(OwnedFd, Status), LookError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open("/", flags, Mode::empty()).map_err(unseen)?;
        let stat = fstat(&root).map_err(unseen)?;
        Ok((root, status(&stat)))
    }

    fn step(&self, from: &OwnedFd, name: &OsStr, last: bool) -> Result<(OwnedFd, Status), LookError> {
        let (fd, stat) = step(from, name, last).map_err(unseen)?;
        Ok((fd, status(&stat)))
    }

    fn target(&self, link: &OwnedFd) -> Result<PathBuf, LookError> {
        readlinkat(link, "").map(PathBuf::from).map_err(unseen)
    }
}

fn unseen(error: Errno) -> LookError {
    match error {
        Errno::ENOENT => LookError::Missing,
        error => LookError::Other(error.desc().to_owned()),
    }
}

fn status(stat: &FileStat) -> Status {
    let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Link,
        _ => Kind::Other,
    };
    Status { kind, owner: stat.st_uid, mode: stat.st_mode & 0o7777 }
}

/// Opens what has this name in the directory: the last one for reading, others as a place to go on from, links to look at.
fn step(directory: &OwnedFd, name: &OsStr, last: bool) -> nix::Result<(OwnedFd, FileStat)> {
    let open = |flags| {
        openat(directory, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())
    };
    // Without O_DIRECTORY, O_PATH would stop before what autofs mounts there, such as a repository of CVMFS.
    let wanted = if last { OFlag::O_RDONLY | OFlag::O_NONBLOCK } else { OFlag::O_PATH | OFlag::O_DIRECTORY };
    let fd = match open(wanted) {
        Err(Errno::ELOOP | Errno::ENOTDIR) => open(OFlag::O_PATH),
        opened => opened,
    }?;
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}
