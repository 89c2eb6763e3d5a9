//! Puts the programs that cargo built at their real places, following `packaging/files` like `make install` does.

use crate::view::{Failed, bind, bind_read_only};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

const LIST: &str = include_str!("../../../packaging/files");
/// Names another program to install as `/usr/sbin/glexec`, to compare it with ours.
const UNDER_TEST: &str = "GLEXEC_UNDER_TEST";
/// Names the directory of the built programs; without it, the one this test was built into.
const BIN_DIR: &str = "PILOTAGE_BIN_DIR";
const GLEXEC: &str = "/usr/sbin/glexec";
/// Where machines see this repository, read-only.
pub const SOURCE: &str = "/mnt/pilotage/source";
/// Where machines see the programs that cargo built, read-only.
pub const BUILT: &str = "/mnt/pilotage/built";

/// One line of the list.
struct Entry<'a> {
    kind: &'a str,
    mode: u32,
    owner: &'a str,
    source: &'a str,
    place: &'a str,
}

fn entries() -> impl Iterator<Item = Entry<'static>> {
    LIST.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let kind = fields.next()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
        let (owner, source, place) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Entry { kind, mode, owner, source, place })
    })
}

/// Where cargo put the programs that belong to this test.
pub(crate) fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        return PathBuf::from(dir);
    }
    let exe = std::env::current_exe().expect("the kernel knows the running program");
    // Tests run from target/PROFILE/deps, programs from target/PROFILE.
    let dirs = exe.ancestors().skip(1).filter(|d| d.file_name().is_some_and(|n| n != "deps"));
    dirs.take(1).next().expect("a program lies in a directory").to_path_buf()
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Shows the repository and the built programs below `root`: their own paths may be hidden by a private `/tmp`.
pub(crate) fn show_source(root: &Path) -> Result<(), Failed> {
    for (from, to) in [(top(), SOURCE), (bin_dir(), BUILT)] {
        let to = root.join(&to[1..]);
        fs::create_dir_all(&to)?;
        bind_read_only(&from, &to)?;
    }
    Ok(())
}

/// Installs programs, scripts and directories below `root`; what is not built is left out and returned.
pub(crate) fn install(root: &Path) -> Result<Vec<&'static str>, Failed> {
    let (bin, top) = (bin_dir(), top());
    let mut missing = Vec::new();
    for entry in entries() {
        let place = root.join(&entry.place[1..]);
        let source = match entry.kind {
            "bin" => bin.join(entry.source),
            "file" => top.join(entry.source),
            _ => continue,
        };
        let other = std::env::var_os(UNDER_TEST).filter(|_| entry.place == GLEXEC);
        let source = other.map_or(source, PathBuf::from);
        if !source.exists() {
            missing.push(entry.place);
            continue;
        }
        put(&source, &place, entry.mode)
            .map_err(|e| format!("{} -> {}: {e}", source.display(), entry.place))?;
    }
    Ok(missing)
}

/// Removes what the host has installed itself.
pub(crate) fn remove(root: &Path) {
    for entry in entries() {
        let place = root.join(&entry.place[1..]);
        // Most of them are not there.
        let _ = if entry.kind == "dir" { fs::remove_dir_all(place) } else { fs::remove_file(place) };
    }
}

fn put(source: &Path, place: &Path, mode: u32) -> Result<(), Failed> {
    fs::create_dir_all(place.parent().expect("places are absolute"))?;
    // Binding takes no memory, copying allows to change owner and mode.
    if mode == 0o755 && fs::metadata(source)?.permissions().mode() & 0o7777 == mode {
        fs::write(place, b"")?;
        return bind(source, place);
    }
    fs::copy(source, place)?;
    chown(place, Some(0), Some(0))?;
    fs::set_permissions(place, Permissions::from_mode(mode))?;
    Ok(())
}

/// Makes the directories of the list; to be called in the view, once its accounts exist.
pub(crate) fn directories() -> Result<(), Failed> {
    for entry in entries().filter(|e| e.kind == "dir") {
        let (user, group) = entry.owner.split_once(':').unwrap_or((entry.owner, "root"));
        let user = crate::accounts::find(user).ok_or_else(|| format!("no account {user}"))?;
        let group = crate::accounts::group(group).ok_or_else(|| format!("no group {group}"))?;
        fs::create_dir_all(entry.place)?;
        chown(entry.place, Some(user.uid), Some(group))?;
        fs::set_permissions(entry.place, Permissions::from_mode(entry.mode))?;
    }
    Ok(())
}

/// Whether the list puts a program at this path.
pub(crate) fn is_ours(program: &str) -> bool {
    entries().any(|e| e.kind == "bin" && e.place == program)
}
