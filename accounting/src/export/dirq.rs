//! The message queue of SSM on disk (`path_type: dirq`): a file for each message, below a directory for each minute.
//!
//! A message is written aside, synced, and then linked to its name: a reader sees it whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The name of a message: its minute and its moment, in hexadecimal digits; `salt` tells messages of one moment apart.
pub fn name(unix_ns: u64, salt: u64) -> String {
    let (seconds, micros) = (unix_ns / 1_000_000_000, unix_ns / 1000 % 1_000_000);
    format!("{:08x}/{seconds:08x}{micros:05x}{:x}", seconds / 60 * 60, salt & 15)
}

/// Whether a message stands in the queue, locked by its reader or not.
pub fn holds(queue: &Path, name: &str) -> bool {
    queue.join(name).exists() || queue.join(format!("{name}.lck")).exists()
}

/// Puts a message into the queue under a name; one that stands there already is left as it is.
///
/// # Errors
/// What the file system says.
pub fn put(queue: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = queue.join(name);
    let dir = path.parent().unwrap_or(queue);
    fs::DirBuilder::new().recursive(true).mode(0o770).create(dir).map_err(|e| named(dir, e))?;
    let aside: PathBuf = path.with_extension("tmp");
    // Left by one who died here; nobody else writes this name.
    let _ = fs::remove_file(&aside);
    let written = write(&aside, text).and_then(|()| match fs::hard_link(&aside, &path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = fs::remove_file(&aside);
    written.and_then(|()| File::open(dir)?.sync_all()).map_err(|e| named(&path, e))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o660).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_ssm_reads() {
        let name = name(1_795_294_105_123_456_789, 10);
        assert_eq!(name.len(), 8 + 1 + 14);
        let (dir, file) = name.split_once('/').unwrap();
        assert!(i64::from_str_radix(dir, 16).unwrap() % 60 == 0 && file.ends_with('a'));
        assert_eq!(i64::from_str_radix(&file[..8], 16).unwrap(), 1_795_294_105);
        assert_eq!(i64::from_str_radix(&file[8..13], 16).unwrap(), 123_456);
    }

    #[test]
    fn a_message_is_there_whole_and_once() {
        let queue = tempfile::TempDir::new().unwrap();
        put(queue.path(), "00000000/00000000000000", "first").unwrap();
        put(queue.path(), "00000000/00000000000000", "second").unwrap();
        assert!(holds(queue.path(), "00000000/00000000000000"));
        let dir = queue.path().join("00000000");
        assert_eq!(fs::read_to_string(dir.join("00000000000000")).unwrap(), "first");
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    }
}
