//! A directory that belongs to the payload's account, inside one that belongs to the caller.
//!
//! ```text
//! <base>/gltmpdir.<random>/      the caller's, parent mode (0755): nobody else can rename or replace what is inside
//!                     <random>/  the payload's, target mode (0700)
//! ```
//!
//! The account must be able to make its directory there once, and who it is only glexec knows. So the parent is open
//! to everybody, sticky, for the time of one `mkdir`; then it is closed, and its content is looked at: exactly
//! one directory of the expected name, or all of it is given up.

use crate::gateway::{Gateway, Refused};
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Part of the parent's name by which pilots recognise such directories.
pub const MARK: &str = "gltmpdir";
const OPEN: u32 = 0o1777;

/// Modes of the two directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    /// Of the payload's directory.
    pub target: u32,
    /// Of the caller's directory around it.
    pub parent: u32,
}

impl Default for Modes {
    fn default() -> Self {
        Self { target: 0o700, parent: 0o755 }
    }
}

/// Reads an octal mode such as `777`.
///
/// # Errors
/// One line, when it is none.
pub fn mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let value = u32::from_str_radix(text, 8).ok().filter(|m| digits && *m <= 0o7777);
    value.ok_or_else(|| format!("{text:?} is no mode; write octal digits such as 700"))
}

/// Makes the two directories below `base`; returns the path of the inner one.
///
/// # Errors
/// When glexec refuses, or when somebody else got at the parent while it was open.
pub fn create(glexec: &Gateway, base: &Path, modes: Modes) -> Result<PathBuf, Refused> {
    let base = fs::canonicalize(base).map_err(|e| failed(base, &e))?;
    let parent = unused_directory(&base)?;
    open_the_way(&base);
    let target = parent.join(random().map_err(|e| failed(Path::new("/dev/urandom"), &e))?);
    let made = fill(glexec, &parent, &target, modes);
    if made.is_err() {
        let _ = fs::remove_dir(&target);
        let _ = fs::remove_dir(&parent);
    }
    made.map(|()| target)
}

fn unused_directory(base: &Path) -> Result<PathBuf, Refused> {
    loop {
        let name = random().map_err(|e| failed(Path::new("/dev/urandom"), &e))?;
        let parent = base.join(format!("{MARK}.{name}"));
        match DirBuilder::new().mode(0o700).create(&parent) {
            Ok(()) => return Ok(parent),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(&parent, &e)),
        }
    }
}

/// Lets everybody pass through the directories above, as far up as they are the caller's to change.
fn open_the_way(base: &Path) {
    for dir in base.ancestors() {
        let Ok(meta) = fs::metadata(dir) else { return };
        let passable = meta.mode() | 0o111;
        if meta.mode() != passable
            && fs::set_permissions(dir, Permissions::from_mode(passable & 0o7777)).is_err()
        {
            return;
        }
    }
}

fn fill(glexec: &Gateway, parent: &Path, target: &Path, modes: Modes) -> Result<(), Refused> {
    let made = fs::symlink_metadata(parent).map_err(|e| failed(parent, &e))?;
    set_mode(parent, OPEN)?;
    let mode = format!("{:04o}", modes.target);
    let mkdir = ["/bin/mkdir".as_ref(), "-m".as_ref(), mode.as_ref(), target.as_os_str()];
    let ran = glexec.run(&mkdir);
    set_mode(parent, modes.parent)?;
    ran?;
    let same =
        fs::symlink_metadata(parent).is_ok_and(|now| (now.dev(), now.ino()) == (made.dev(), made.ino()));
    let inside = fs::read_dir(parent).map_err(|e| failed(parent, &e))?.count();
    let is_directory = fs::symlink_metadata(target).is_ok_and(|meta| meta.is_dir());
    if same && inside == 1 && is_directory {
        Ok(())
    } else {
        Err(no(format!("{}: somebody else wrote there; try again elsewhere", parent.display())))
    }
}

fn set_mode(dir: &Path, mode: u32) -> Result<(), Refused> {
    fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(|e| failed(dir, &e))
}

/// Removes what [`create`] made. The inner directory must be empty unless `force`, which empties both: the inner one
/// as the payload's account, through glexec, the outer one as the caller.
///
/// # Errors
/// When it is not a directory of this kind, not empty, or glexec refuses.
pub fn remove(
    glexec: impl FnOnce() -> Result<Gateway, String>,
    target: &Path,
    force: bool,
) -> Result<(), Refused> {
    let absolute = std::path::absolute(target).map_err(|e| failed(target, &e))?;
    let parent = own_parent(&absolute)?;
    let gone = fs::remove_dir(&absolute).or_else(|error| match error.kind() {
        ErrorKind::DirectoryNotEmpty if !force => {
            Err(no(format!("{}: is not empty; -f removes what is inside", absolute.display())))
        }
        ErrorKind::DirectoryNotEmpty => {
            empty(&glexec().map_err(no)?, &absolute)?;
            fs::remove_dir_all(&absolute).map_err(|e| failed(&absolute, &e))
        }
        _ => Err(failed(&absolute, &error)),
    });
    gone?;
    match fs::remove_dir(&parent) {
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty && force => {
            fs::remove_dir_all(&parent).map_err(|e| failed(&parent, &e))
        }
        // The caller keeps files of its own beside the payload's directory; they are not ours to remove.
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other.map_err(|e| failed(&parent, &e)),
    }
}

/// The caller's directory around the payload's, recognised by name, kind and owner.
fn own_parent(target: &Path) -> Result<PathBuf, Refused> {
    let meta = fs::symlink_metadata(target).map_err(|e| failed(target, &e))?;
    let parent = target.parent().unwrap_or(target);
    let marked = parent.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MARK));
    let around = fs::symlink_metadata(parent).map_err(|e| failed(parent, &e))?;
    if meta.is_dir() && marked && around.is_dir() && Some(around.uid()) == own_uid() {
        Ok(parent.to_owned())
    } else {
        Err(no(format!("{}: was not made by your mkgltempdir", target.display())))
    }
}

fn empty(glexec: &Gateway, target: &Path) -> Result<(), Refused> {
    // Directories may have been closed by the payload itself, and the caller may have put its own files inside: what
    // the account cannot remove is left to the caller. find follows no links.
    const SCRIPT: &str = "exec 2>/dev/null; \
        find \"$1\" -type d -user \"$(id -u)\" ! -perm -700 -exec chmod u+rwx {} \\;; \
        find \"$1\" -mindepth 1 -delete || chmod 777 \"$1\"";
    let [sh, c, script, name] = ["/bin/sh", "-c", SCRIPT, "empty"].map(std::ffi::OsStr::new);
    glexec.run(&[sh, c, script, name, target.as_os_str()])
}

fn own_uid() -> Option<u32> {
    fs::metadata("/proc/self").ok().as_ref().map(Metadata::uid)
}

fn random() -> io::Result<String> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

fn failed(path: &Path, error: &io::Error) -> Refused {
    no(format!("{}: {error}", path.display()))
}

fn no(reason: String) -> Refused {
    Refused { code: 1, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("777"), Ok(0o777));
        assert_eq!(mode("0700"), Ok(0o700));
        assert_eq!(mode("1777"), Ok(0o1777));
        for wrong in ["", "8", "+7", "77777", "rwx"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_not_made_here_is_not_removed() {
        let dir = std::env::temp_dir().join(format!("foreign-{}", std::process::id()));
        fs::create_dir_all(dir.join("inside")).unwrap();
        let never = || Err("glexec is not needed to refuse".to_owned());
        for path in [dir.join("inside"), dir.join("missing"), PathBuf::from("/")] {
            assert!(remove(never, &path, true).is_err());
        }
        assert!(dir.join("inside").is_dir());
        fs::remove_dir_all(dir).unwrap();
    }
}
