//! The payload's copy of the proxy, written with the payload's rights and nothing more.

use crate::admit::proxy_lock::{self, Locked, Share};
use crate::admit::request::Target;
use crate::failure::shown;
use crate::sys::ids::FilesAs;
use crate::sys::process;
use policy::glexec_conf::Lock;
use record::text::hex;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the copy goes; `None` when there is to be none. The default name is the same for every call that maps to
/// this uid, so that a later call can renew it. A payload that runs as the `caller` must not get that one's own default
/// proxy replaced: it gets a name that nobody else looks for.
pub(crate) fn path(target: &Target, uid: u32, caller: Option<u32>, own: Option<String>) -> Option<PathBuf> {
    match (target, caller) {
        (Target::Nowhere, _) => None,
        (Target::Default, _) if own.is_some() => own.map(|name| format!("/tmp/x509up_u{uid}.{name}").into()),
        (Target::Default, None) => Some(format!("/tmp/x509up_u{uid}").into()),
        (Target::Default, Some(caller)) => Some(format!("/tmp/x509up_u{caller}_for_u{uid}").into()),
        (Target::File(path), _) => Some(path.clone()),
    }
}

/// A name that nobody can guess, and so nobody can have taken.
pub(crate) fn unguessable() -> nix::Result<String> {
    let mut random = [0; 16];
    process::random(&mut random)?;
    Ok(hex(&random))
}

/// Removes a copy with a session's own name, with the account's rights on files. What was put in its place by the account
/// is removed likewise, unless it is a directory.
pub(crate) fn remove(path: &Path, account: Option<(u32, u32)>) {
    let rights = account.map(|(uid, gid)| FilesAs::enter(uid, gid));
    if rights.as_ref().is_none_or(Option::is_some) {
        let _ = fs::remove_file(path);
    }
}

/// Writes the copy as the process that calls this: beside its name first, mode 0600, then renamed over it.
pub(crate) fn write(path: &Path, bytes: &[u8], uid: u32, lock: Lock) -> Result<(), String> {
    replace(path, bytes, uid, lock).map_err(|why| format!("target proxy {}: {why}", shown(path.as_os_str())))
}

fn replace(path: &Path, bytes: &[u8], uid: u32, lock: Lock) -> Result<(), String> {
    let name = path.file_name().ok_or("names no file")?;
    let _held = match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => return Err("exists and is not a regular file".into()),
        Ok(meta) if meta.uid() != uid => return Err(format!("exists and belongs to uid {}", meta.uid())),
        Ok(_) => hold(path, lock)?,
        Err(_) => None,
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    // Not the process id: in a namespace of its own every payload has the same.
    let mut random = [0; 8];
    process::random(&mut random).map_err(|e| format!("getrandom: {e}"))?;
    beside.push(format!(".{}", hex(&random)));
    let beside = path.with_file_name(beside);
    let written = create(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&beside);
        format!("cannot be written by uid {uid}: {e}")
    })
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // The caller's umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)
}

/// Waits for readers of the old copy that lock it. They keep what they have: the new copy is another file.
fn hold(path: &Path, lock: Lock) -> Result<Option<Locked>, String> {
    if lock == Lock::Disabled {
        return Ok(None);
    }
    let (flags, records) = (libc::O_NOFOLLOW | libc::O_NONBLOCK, lock == Lock::Fcntl);
    let old = OpenOptions::new().read(true).write(records).custom_flags(flags).open(path);
    let old = old.map_err(|e| format!("cannot be opened for locking: {e}"))?;
    proxy_lock::take(old, lock, Share::Nobody).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("target-proxy-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_copy_is_private_and_replaces_its_predecessor() {
        let dir = scratch("replace");
        let path = dir.join("proxy");
        for text in ["one", "two"] {
            write(&path, text.as_bytes(), own_uid(), Lock::Flock).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing stays beside it");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn directories_links_and_foreign_files_are_left_alone() {
        let dir = scratch("refuse");
        let link = dir.join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(write(&link, b"x", own_uid(), Lock::Flock).unwrap_err().contains("not a regular file"));
        assert!(write(&dir, b"x", own_uid(), Lock::Flock).unwrap_err().contains("not a regular file"));
        let foreign = dir.join("foreign");
        fs::write(&foreign, "test").unwrap();
        assert!(write(&foreign, b"x", own_uid() + 1, Lock::Flock).unwrap_err().contains("belongs to uid"));
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "test");
        assert!(write(&dir.join("missing/proxy"), b"x", own_uid(), Lock::Flock).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_default_name_depends_on_the_account_alone() {
        assert_eq!(path(&Target::Default, 20_001, None, None), Some("/tmp/x509up_u20001".into()));
        assert_eq!(path(&Target::Default, 20_001, Some(7), None), Some("/tmp/x509up_u7_for_u20001".into()));
        assert_eq!(path(&Target::Nowhere, 20_001, None, None), None);
    }
}
