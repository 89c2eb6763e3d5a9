//! How files of the spool are opened: regular files only, and never in a way that waits.
//!
//! The spool is root's, but whoever can put a name there by mistake or malice must not make a reader hang on a FIFO,
//! follow a link or touch a device.

use nix::fcntl::{AT_FDCWD, AtFlags};
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path))
}

/// Opens a regular file that is there already, for reading and for appending.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    regular(OpenOptions::new().read(true).append(true).custom_flags(flags).open(path))
}

/// Opens a directory, to sync it.
pub(crate) fn open_dir(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK).open(path)
}

/// A file without a name in this directory: whoever dies before [`give_name`] leaves nothing behind. `None` where the file
/// system has no such files, as NFS.
pub(crate) fn nameless(dir: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(dir) {
        // A kernel or file system that does not know the flag sees a directory that is to be written.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Gives a file of [`nameless`] its name; `AlreadyExists` when there is one of that name.
pub(crate) fn give_name(file: &File, path: &Path) -> io::Result<()> {
    // linkat(2) with AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; the manual page names this way.
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    nix::unistd::linkat(AT_FDCWD, own.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)
        .map_err(io::Error::from)
}

fn regular(opened: io::Result<File>) -> io::Result<File> {
    match opened {
        Ok(file) => {
            let kind = file.metadata()?.file_type();
            if kind.is_file() { Ok(file) } else { Err(not_regular(kind)) }
        }
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(bad("is a symbolic link")),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Err(bad("is a socket, or a FIFO without reader")),
        Err(e) if e.raw_os_error() == Some(libc::EISDIR) => Err(bad("is a directory")),
        Err(e) => Err(e),
    }
}

fn not_regular(kind: FileType) -> io::Error {
    bad(match kind {
        kind if kind.is_fifo() => "is a FIFO",
        kind if kind.is_dir() => "is a directory",
        kind if kind.is_socket() => "is a socket",
        _ => "is a device",
    })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{what}, and a record is a regular file"))
}
