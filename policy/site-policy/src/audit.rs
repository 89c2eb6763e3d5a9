//! Which paths root may trust: the rules by which `glexec` opens the site's files, told from outside.
//!
//! Every directory from `/` on must belong to root and be writable by nobody else; a symbolic link is followed
//! when root owns it; the last component must be of the wanted kind and belong to root or the one other allowed owner.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// More links than this in one path are a loop (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// What the last component must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

/// Why root must not trust a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Distrust {
    /// It does not exist.
    Missing,
    /// This account may not look at it: what happened.
    Hidden(String),
    /// This component is in the way: what is wrong with it, and the remedy.
    Component { at: PathBuf, what: String, remedy: String },
}

/// Walks the path; `also_owner` may own its last component besides root.
pub fn audit(path: &Path, kind: Kind, also_owner: Option<u32>) -> Result<(), Distrust> {
    let mut rest: VecDeque<OsString> = VecDeque::new();
    push_front(path, &mut rest);
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    judge(&here, &look(&here)?, Kind::Directory, None)?;
    while let Some(name) = rest.pop_front() {
        let next = here.join(&name);
        let metadata = look(&next)?;
        if metadata.is_symlink() {
            links += 1;
            let target = follow(&next, &metadata, links)?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            push_front(&target, &mut rest);
            continue;
        }
        let (kind, owner) = if rest.is_empty() { (kind, also_owner) } else { (Kind::Directory, None) };
        judge(&next, &metadata, kind, owner)?;
        here = if name == ".." { parent(&here) } else { next };
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

fn look(path: &Path) -> Result<Metadata, Distrust> {
    fs::symlink_metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Distrust::Missing,
        _ => Distrust::Hidden(format!("{}: cannot be looked at: {e}; run this as root", path.display())),
    })
}

fn follow(path: &Path, metadata: &Metadata, links: usize) -> Result<PathBuf, Distrust> {
    if metadata.uid() != 0 || links > MAX_LINKS {
        let what = "is a link that root does not own, or one of a loop".to_owned();
        return Err(component(path, what, "name the file itself".into()));
    }
    fs::read_link(path).map_err(|e| component(path, e.to_string(), "name the file itself".into()))
}

fn judge(path: &Path, metadata: &Metadata, kind: Kind, also_owner: Option<u32>) -> Result<(), Distrust> {
    let right = match kind {
        Kind::File => metadata.is_file(),
        Kind::Directory => metadata.is_dir(),
    };
    if !right {
        let wanted = if kind == Kind::File { "is not a regular file" } else { "is not a directory" };
        return Err(component(path, wanted.to_owned(), "name another path".into()));
    }
    if metadata.uid() != 0 && Some(metadata.uid()) != also_owner {
        let what = format!("belongs to uid {}, so root does not trust it", metadata.uid());
        return Err(component(path, what, format!("chown root {}", path.display())));
    }
    if metadata.mode() & 0o022 != 0 {
        let what =
            format!("mode {:04o} lets others write, so root does not trust it", metadata.mode() & 0o7777);
        // Nobody wants a /tmp without its mode.
        let remedy = match metadata.mode() & 0o1000 {
            0 => format!("chmod go-w {}", path.display()),
            _ => "keep it in a directory that only root can write".to_owned(),
        };
        return Err(component(path, what, remedy));
    }
    Ok(())
}

fn component(at: &Path, what: String, remedy: String) -> Distrust {
    Distrust::Component { at: at.to_owned(), what, remedy }
}

fn push_front(path: &Path, rest: &mut VecDeque<OsString>) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => rest.push_front(name.to_owned()),
            Component::ParentDir => rest.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debian_installs_is_trusted() {
        assert_eq!(audit(Path::new("/etc/passwd"), Kind::File, None), Ok(()));
        assert_eq!(audit(Path::new("/usr/../etc/passwd"), Kind::File, None), Ok(()));
        // A link of root's, on every Debian 12.
        assert_eq!(audit(Path::new("/bin/sh"), Kind::File, None), Ok(()));
    }

    #[test]
    fn a_directory_for_everybody_spoils_what_is_below() {
        let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        let Err(Distrust::Component { at, what, .. }) = audit(file.path(), Kind::File, None) else {
            panic!("trusted a file in /tmp");
        };
        assert_eq!(at, Path::new("/tmp"));
        assert!(what.contains("1777"), "{what}");
    }

    #[test]
    fn kinds_are_told_apart() {
        assert!(matches!(audit(Path::new("/etc"), Kind::File, None), Err(Distrust::Component { .. })));
        assert!(matches!(
            audit(Path::new("/etc/passwd"), Kind::Directory, None),
            Err(Distrust::Component { .. })
        ));
        assert_eq!(audit(Path::new("/etc/no-such-file"), Kind::File, None), Err(Distrust::Missing));
    }
}
