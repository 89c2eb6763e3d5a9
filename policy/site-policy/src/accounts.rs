//! Local accounts, as `passwd(5)` and `group(5)` know them through the name service switch.

use identity::{AccountName, Caller};
use nix::unistd::{Gid, Group, Uid, User as Entry, getgrouplist};
use policy::decide::User;
use std::ffi::CString;

/// The account with this name.
pub fn by_name(name: &str) -> Result<Option<User>, String> {
    let found = Entry::from_name(name).map_err(|e| format!("account {name} cannot be looked up: {e}"))?;
    Ok(found.map(user))
}

/// The account with this uid.
pub fn by_uid(uid: u32) -> Result<Option<User>, String> {
    let found =
        Entry::from_uid(Uid::from_raw(uid)).map_err(|e| format!("uid {uid} cannot be looked up: {e}"))?;
    Ok(found.map(user))
}

fn user(entry: Entry) -> User {
    User { name: entry.name, uid: entry.uid.as_raw(), gid: entry.gid.as_raw(), home: entry.dir }
}

/// The gid of a group.
pub fn group_id(name: &str) -> Result<Option<u32>, String> {
    let found = Group::from_name(name).map_err(|e| format!("group {name} cannot be looked up: {e}"))?;
    Ok(found.map(|group| group.gid.as_raw()))
}

/// Primary and supplementary groups.
pub fn groups(user: &User) -> Result<Vec<u32>, String> {
    let failed = |e: String| format!("the groups of {} cannot be looked up: {e}", user.name);
    let name = CString::new(user.name.as_str()).map_err(|e| failed(e.to_string()))?;
    let gids = getgrouplist(&name, Gid::from_raw(user.gid)).map_err(|e| failed(e.to_string()))?;
    Ok(gids.into_iter().map(Gid::as_raw).collect())
}

/// The account as a caller of `glexec`.
pub fn caller(user: &User) -> Result<Caller, String> {
    let (uid, gid) = (user.uid, user.gid);
    Ok(Caller { name: AccountName::parse(&user.name).ok(), uid, gid, groups: groups(user)? })
}

/// Names of all accounts that stand in `/etc/passwd` itself; a directory service is not enumerated.
pub fn local_names() -> std::io::Result<Vec<String>> {
    let text = String::from_utf8_lossy(&std::fs::read("/etc/passwd")?).into_owned();
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    Ok(text.lines().map(name).filter(|n| !n.is_empty() && !n.starts_with(['#', '+', '-'])).collect())
}
