//! Local accounts, as `passwd(5)` and `group(5)` know them through the name service switch.

use identity::{Account, AccountName, Caller};
use nix::unistd::{Gid, Uid, User, getgrouplist};
use std::ffi::CString;

/// The account with this name.
pub fn by_name(name: &str) -> Result<Option<User>, String> {
    User::from_name(name).map_err(|e| format!("account {name} cannot be looked up: {e}"))
}

/// The account with this uid.
pub fn by_uid(uid: u32) -> Result<Option<User>, String> {
    User::from_uid(Uid::from_raw(uid)).map_err(|e| format!("uid {uid} cannot be looked up: {e}"))
}

/// Primary and supplementary groups.
pub fn groups(user: &User) -> Result<Vec<u32>, String> {
    let failed = |e: String| format!("the groups of {} cannot be looked up: {e}", user.name);
    let name = CString::new(user.name.as_str()).map_err(|e| failed(e.to_string()))?;
    let gids = getgrouplist(&name, user.gid).map_err(|e| failed(e.to_string()))?;
    Ok(gids.into_iter().map(Gid::as_raw).collect())
}

/// The account as a caller of `glexec`.
pub fn caller(user: &User) -> Result<Caller, String> {
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    Ok(Caller { name: AccountName::parse(&user.name).ok(), uid, gid, groups: groups(user)? })
}

/// The account as one that a payload may get.
pub fn account(user: &User) -> Result<Account, String> {
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let name = AccountName::parse(&user.name).map_err(|e| e.to_string())?;
    let groups = groups(user)?.into_iter().filter(|g| *g != gid).collect();
    Ok(Account { name, uid, gid, groups, home: user.dir.clone() })
}

/// Names of all accounts that stand in `/etc/passwd` itself; a directory service is not enumerated.
pub fn local_names() -> std::io::Result<Vec<String>> {
    let text = std::fs::read_to_string("/etc/passwd")?;
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    Ok(text.lines().map(name).filter(|n| !n.is_empty() && !n.starts_with(['#', '+', '-'])).collect())
}
