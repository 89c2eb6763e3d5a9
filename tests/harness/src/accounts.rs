//! Accounts of a machine: lines in its private `/etc/passwd`, `/etc/group` and `/etc/shadow`.

use crate::view::Failed;
use std::fs;

const FILES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/shadow"];

/// A local account as `/etc/passwd` and `/etc/group` describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, without the primary one.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Looks an account up, also one that the test added by other means such as `useradd`.
pub(crate) fn find(name: &str) -> Option<Account> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<_> = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
    let groups =
        groups().into_iter().filter(|(_, id, members)| *id != gid && members.iter().any(|m| m == name));
    let groups = groups.map(|(_, id, _)| id).collect();
    Some(Account { name: name.to_owned(), uid, gid, groups, home: (*fields.get(5)?).to_owned() })
}

/// Id of a group.
pub(crate) fn group(name: &str) -> Option<u32> {
    groups().into_iter().find(|(n, _, _)| n == name).map(|(_, id, _)| id)
}

fn groups() -> Vec<(String, u32, Vec<String>)> {
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    let one = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let members = fields.get(3)?.split(',').map(str::to_owned).collect();
        Some((fields[0].to_owned(), fields.get(2)?.parse().ok()?, members))
    };
    text.lines().filter_map(one).collect()
}

/// Adds an account with a group of the same name and number; an account of the host with this name is hidden.
/// Its home is made, mode 0700, unless it is `/`.
pub(crate) fn add(name: &str, uid: u32, home: &str) -> Result<(), Failed> {
    let shell = if home == "/" { "/usr/sbin/nologin" } else { "/bin/sh" };
    line("/etc/passwd", name, &format!("{name}:x:{uid}:{uid}::{home}:{shell}"))?;
    line("/etc/group", name, &format!("{name}:x:{uid}:"))?;
    line("/etc/shadow", name, &format!("{name}:*:19000:0:99999:7:::"))?;
    if home != "/" {
        fs::create_dir_all(home)?;
        own(home, uid, uid, 0o700)?;
    }
    Ok(())
}

/// Adds a group with members.
pub(crate) fn add_group(name: &str, gid: u32, members: &[String]) -> Result<(), Failed> {
    line("/etc/group", name, &format!("{name}:x:{gid}:{}", members.join(",")))
}

/// Sets owner, group and mode of a file.
pub(crate) fn own(path: &str, uid: u32, gid: u32, mode: u32) -> Result<(), Failed> {
    use std::os::unix::fs::PermissionsExt;
    std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Removes an account and its group, if they are there.
pub(crate) fn remove(name: &str) -> Result<(), Failed> {
    FILES.iter().try_for_each(|file| rewrite(file, name, ""))
}

fn line(file: &str, name: &str, line: &str) -> Result<(), Failed> {
    rewrite(file, name, &format!("{line}\n"))
}

/// Replaces the line that begins with this name.
fn rewrite(file: &str, name: &str, line: &str) -> Result<(), Failed> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let key = format!("{name}:");
    let kept: String = text.lines().filter(|l| !l.starts_with(&key)).map(|l| format!("{l}\n")).collect();
    // Written in place: the mode and group of /etc/shadow stay as they are.
    fs::write(file, kept + line).map_err(|e| format!("{file}: {e}").into())
}
