//! Which paths root may trust, seen from outside: the rule is `policy::trusted`, as for `glexec`.

use policy::trusted::{Distrust, Kind, LookError, Rule, Status, Tree, walk};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Walks the path; an error says why root must not trust it.
pub fn audit(path: &Path, rule: Rule) -> Result<(), Distrust> {
    walk(&Outside, path, rule).map(drop)
}

/// Components are looked at by their names: nothing is opened, so no right to read is needed.
struct Outside;

impl Tree for Outside {
    type Place = PathBuf;

    fn root(&self) -> Result<(PathBuf, Status), LookError> {
        look(PathBuf::from("/"))
    }

    fn step(&self, from: &PathBuf, name: &OsStr, _last: bool) -> Result<(PathBuf, Status), LookError> {
        if name == ".." {
            return look(from.parent().unwrap_or(from).to_owned());
        }
        look(from.join(name))
    }

    fn target(&self, link: &PathBuf) -> Result<PathBuf, LookError> {
        fs::read_link(link).map_err(unseen)
    }
}

fn look(path: PathBuf) -> Result<(PathBuf, Status), LookError> {
    let metadata = fs::symlink_metadata(&path).map_err(unseen)?;
    Ok((path, status(&metadata)))
}

fn unseen(error: io::Error) -> LookError {
    match error.kind() {
        io::ErrorKind::NotFound => LookError::Missing,
        _ => LookError::Other(format!("cannot be looked at: {error}; run this as root")),
    }
}

/// Who may change what has this metadata.
pub fn status(metadata: &Metadata) -> Status {
    let kind = match () {
        () if metadata.is_file() => Kind::File,
        () if metadata.is_dir() => Kind::Directory,
        () if metadata.is_symlink() => Kind::Link,
        () => Kind::Other,
    };
    Status { kind, owner: metadata.uid(), mode: metadata.mode() & 0o7777 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debian_installs_is_trusted() {
        assert_eq!(audit(Path::new("/etc/passwd"), Rule::FILE), Ok(()));
        assert_eq!(audit(Path::new("/usr/../etc/passwd"), Rule::FILE), Ok(()));
        // A link of root's, on every Debian 12.
        assert_eq!(audit(Path::new("/bin/sh"), Rule::FILE), Ok(()));
    }

    #[test]
    fn a_directory_for_everybody_spoils_what_is_below() {
        let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        let Err(Distrust::Fault { at, what, .. }) = audit(file.path(), Rule::FILE) else {
            panic!("trusted a file in /tmp");
        };
        assert_eq!(at, Path::new("/tmp"));
        assert!(what.contains("1777"), "{what}");
    }

    #[test]
    fn kinds_are_told_apart() {
        assert!(matches!(audit(Path::new("/etc"), Rule::FILE), Err(Distrust::Fault { .. })));
        assert!(matches!(audit(Path::new("/etc/passwd"), Rule::DIRECTORY), Err(Distrust::Fault { .. })));
        assert!(matches!(audit(Path::new("/etc/no-such-file"), Rule::FILE), Err(Distrust::Missing(_))));
    }
}
