//! How files of the spool are opened: regular files only, and never in a way that waits.
//!
//! The spool is root's, but whoever can put a name there by mistake or malice must not make a reader hang on a FIFO,
//! follow a link or touch a device.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind};
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
