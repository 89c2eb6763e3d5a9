//! The proxy file, by the rules of gLExec: of the caller, closed to others, not a link.

use super::Stop;
use helper::MAX_CREDENTIAL;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The bytes, when `glexec` would take them from this caller.
pub(super) fn read(path: &Path, caller_uid: u32) -> Result<Vec<u8>, Stop> {
    const STEP: &str = "proxy";
    let refused = |why: String| Stop::caller(STEP, format!("{}: {why}", path.display()));
    let metadata = fs::symlink_metadata(path).map_err(|e| refused(e.to_string()))?;
    if metadata.is_symlink() {
        return Err(refused("is a symbolic link; name the file itself".into()));
    }
    if !metadata.is_file() {
        return Err(refused("is not a regular file".into()));
    }
    if metadata.uid() != caller_uid {
        let owner = metadata.uid();
        return Err(refused(format!(
            "belongs to uid {owner}, but uid {caller_uid} calls; only its own proxy counts"
        )));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & !0o700 != 0 {
        return Err(refused(format!("mode {mode:04o} lets others in; chmod 600")));
    }
    if metadata.len() > MAX_CREDENTIAL as u64 {
        return Err(refused(format!("is larger than {MAX_CREDENTIAL} bytes: not a proxy")));
    }
    match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Err(refused("is empty".into())),
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::PermissionDenied && nix::unistd::getuid().as_raw() != caller_uid => {
            Err(Stop::CannotTell(format!("{}: {e}; run this as its owner or as root", path.display())))
        }
        Err(e) => Err(refused(e.to_string())),
    }
}
