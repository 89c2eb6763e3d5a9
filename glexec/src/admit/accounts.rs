//! What this host knows about an account: `passwd(5)` and `group(5)` through the name service switch.

use crate::failure::Failure;
use identity::{Account, AccountName, Mapping};
use nix::unistd::{Group, Uid, User, getgrouplist};
use policy::judge::Denial;
use std::ffi::CString;

/// The account that a mapping means. Name and numbers must agree with this host.
pub(crate) fn resolve(mapping: &Mapping) -> Result<Account, Failure> {
    let user = find(mapping)?;
    let mismatch = |what: String| Failure::from(Denial::AccountMismatch(what));
    let name = AccountName::parse(&user.name).map_err(|e| Failure::site(format!("passwd: {e}")))?;
    if mapping.account.as_deref().is_some_and(|wanted| wanted != name.as_str()) {
        return Err(mismatch(format!("uid {} belongs to {name}", user.uid)));
    }
    if mapping.uid.is_some_and(|wanted| wanted != user.uid.as_raw()) {
        return Err(mismatch(format!("{name} has uid {}", user.uid)));
    }
    let by_name = mapping.group.as_deref().map(group_id).transpose()?;
    let gid = mapping.gid.or(by_name).unwrap_or(user.gid.as_raw());
    let named = mapping.group_names.iter().map(|g| group_id(g)).collect::<Result<Vec<_>, _>>()?;
    let mut groups = [mapping.groups.clone(), named].concat();
    if groups.is_empty() {
        groups = member_of(&user)?;
    }
    groups.retain(|g| *g != gid);
    Ok(Account { name, uid: user.uid.as_raw(), gid, groups, home: user.dir })
}

fn find(mapping: &Mapping) -> Result<User, Failure> {
    let failed = |e| Failure::site(format!("passwd look-up: {e}"));
    let (found, wanted) = match (&mapping.account, mapping.uid) {
        (Some(name), _) => {
            let name = AccountName::parse(name).map_err(|e| Denial::NoSuchAccount(e.to_string()))?;
            (User::from_name(name.as_str()).map_err(failed)?, name.to_string())
        }
        (None, Some(uid)) => (User::from_uid(Uid::from_raw(uid)).map_err(failed)?, format!("uid {uid}")),
        (None, None) => return Err(Denial::NotMapped("the mapping names nobody".into()).into()),
    };
    found.ok_or_else(|| Denial::NoSuchAccount(wanted).into())
}

fn group_id(name: &str) -> Result<u32, Failure> {
    let found = Group::from_name(name).map_err(|e| Failure::site(format!("group look-up: {e}")))?;
    let missing = || Denial::NoSuchAccount(format!("group {}", identity::one_line(name)));
    Ok(found.ok_or_else(missing)?.gid.as_raw())
}

fn member_of(user: &User) -> Result<Vec<u32>, Failure> {
    let name = CString::new(user.name.as_str()).map_err(|e| Failure::site(e.to_string()))?;
    let groups = getgrouplist(&name, user.gid).map_err(|e| Failure::site(format!("getgrouplist: {e}")))?;
    Ok(groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
}
