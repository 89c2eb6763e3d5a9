//! What this host knows about accounts: `passwd(5)` and `group(5)` through the name service switch.

use identity::AccountName;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use policy::decide::{self, Stop};
use std::ffi::CString;

pub(crate) fn by_name(name: &AccountName) -> Result<Option<decide::User>, Stop> {
    found(User::from_name(name.as_str()))
}

pub(crate) fn by_uid(uid: u32) -> Result<Option<decide::User>, Stop> {
    found(User::from_uid(Uid::from_raw(uid)))
}

fn found(looked_up: nix::Result<Option<User>>) -> Result<Option<decide::User>, Stop> {
    let user = looked_up.map_err(|e| Stop::Site(format!("passwd look-up: {e}")))?;
    Ok(user.map(|user| decide::User {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        home: user.dir,
    }))
}

pub(crate) fn group_id(name: &str) -> Result<Option<u32>, Stop> {
    let group = Group::from_name(name).map_err(|e| Stop::Site(format!("group look-up: {e}")))?;
    Ok(group.map(|group| group.gid.as_raw()))
}

pub(crate) fn groups_of(user: &decide::User) -> Result<Vec<u32>, Stop> {
    let failed = |e: &dyn std::fmt::Display| Stop::Site(format!("getgrouplist: {e}"));
    let name = CString::new(user.name.as_str()).map_err(|e| failed(&e))?;
    let groups = getgrouplist(&name, Gid::from_raw(user.gid)).map_err(|e| failed(&e))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}
