//! Puts the programs that cargo built at their real places, following `packaging/files` like `make install` does.

use crate::view::{Failed, bind, bind_read_only};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

const LIST: &str = include_str!("../../../packaging/files");
/// Names another program to install as `/usr/sbin/glexec`, to compare it with ours. An absolute path.
const UNDER_TEST: &str = "GLEXEC_UNDER_TEST";
/// What gLExec needs beside our configuration to decide as ours does: the grid-mapfile, through LCMAPS.
const LCMAPS_DB: &str = "\
verify_proxy = \"lcmaps_verify_proxy.mod -certdir /etc/grid-security/certificates --allow-limited-proxy\"
localaccount = \"lcmaps_localaccount.mod -gridmapfile /etc/grid-security/grid-mapfile\"
good = \"lcmaps_dummy_good.mod\"
glexec_get_account:
verify_proxy -> localaccount
localaccount -> good
";
/// Where distributions keep its plug-ins.
const LCMAPS_PLUG_INS: [&str; 2] = ["/usr/lib64/lcmaps", "/usr/lib/lcmaps"];
const LCMAPS_DB_FILE: &str = "/etc/lcmaps/lcmaps-glexec.db";
/// The settings of `/etc/glexec.conf` that go with it; ours has no use for them.
const LCMAPS_KEYS: &str = "lcmaps_db_file = /etc/lcmaps/lcmaps-glexec.db\n\
                           lcmaps_get_account_policy = glexec_get_account\nuse_lcas = no\n";
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
///
/// # Panics
/// When the kernel does not know the running program.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        return PathBuf::from(dir);
    }
    let exe = std::env::current_exe().expect("the kernel knows the running program");
    // Tests run from target/PROFILE/deps, programs from target/PROFILE.
    let dirs = exe.ancestors().skip(1).filter(|d| d.file_name().is_some_and(|n| n != "deps"));
    dirs.take(1).next().expect("a program lies in a directory").to_path_buf()
}

/// Where `packaging/build-image` puts programs.
pub fn image_dir() -> PathBuf {
    bin_dir().with_file_name("image")
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

/// The program in the place of our glexec, if another one is to be tested.
fn under_test() -> Result<Option<PathBuf>, Failed> {
    match std::env::var_os(UNDER_TEST).map(PathBuf::from) {
        Some(other) if !other.is_absolute() || !other.is_file() => {
            Err(format!("{UNDER_TEST}={} is not the absolute path of a program", other.display()).into())
        }
        other => Ok(other),
    }
}

/// What `/etc/glexec.conf` needs for the program under test, beside what ours needs.
pub(crate) fn more_conf() -> &'static str {
    if std::env::var_os(UNDER_TEST).is_some() { LCMAPS_KEYS } else { "" }
}

/// Installs programs, scripts and directories below `root`, those of `image` first if asked for; what is not built is left
/// out and returned.
pub(crate) fn install(root: &Path, image: bool) -> Result<Vec<&'static str>, Failed> {
    let (bin, top, other) = (bin_dir(), top(), under_test()?);
    let of_image = |name: &str| Some(image_dir().join(name)).filter(|program| image && program.exists());
    let mut missing = Vec::new();
    for entry in entries() {
        let place = root.join(&entry.place[1..]);
        let source = match entry.kind {
            "bin" => of_image(entry.source).unwrap_or_else(|| bin.join(entry.source)),
            "file" => top.join(entry.source),
            _ => continue,
        };
        let source = other.clone().filter(|_| entry.place == GLEXEC).unwrap_or(source);
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
        // A machine has the accounts of services only where its test asks for them.
        let Some(user) = crate::accounts::find(user) else { continue };
        let group = crate::accounts::group(group).ok_or_else(|| format!("no group {group}"))?;
        fs::create_dir_all(entry.place)?;
        chown(entry.place, Some(user.uid), Some(group))?;
        fs::set_permissions(entry.place, Permissions::from_mode(entry.mode))?;
    }
    if std::env::var_os(UNDER_TEST).is_some() {
        let plug_ins = LCMAPS_PLUG_INS.iter().find(|dir| Path::new(dir).is_dir());
        let path = plug_ins.map(|dir| format!("path = {dir}\n")).unwrap_or_default();
        fs::create_dir_all("/etc/lcmaps")?;
        fs::write(LCMAPS_DB_FILE, path + LCMAPS_DB)?;
    }
    Ok(())
}

/// Whether the list puts a program at this path.
pub(crate) fn is_ours(program: &str) -> bool {
    entries().any(|e| e.kind == "bin" && e.place == program)
}
