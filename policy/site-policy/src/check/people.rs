//! Callers, the accounts that payloads get, and the account `glexec`.

use super::Site;
use crate::accounts;
use crate::child::CHILD_ACCOUNT;
use crate::finding::{About, Finding};
use identity::AccountName;
use policy::callers::CallerPattern;
use policy::decide::User;
use policy::ids::ID_FLOOR;

/// Adds what is wrong with the people of the site.
pub(super) fn check(site: &Site<'_>, found: &mut Vec<Finding>) -> Result<(), String> {
    let local = local_accounts()?;
    callers(site, &local, found)?;
    payload_accounts(site, &local, found)?;
    child_account(site, found);
    Ok(())
}

/// The accounts of `/etc/passwd`. Those of a directory service are not enumerated, only looked up by name.
fn local_accounts() -> Result<Vec<User>, String> {
    let names = accounts::local_names().map_err(|e| format!("/etc/passwd: {e}"))?;
    let users = names.iter().map(|name| accounts::by_name(name)).collect::<Result<Vec<_>, _>>()?;
    Ok(users.into_iter().flatten().collect())
}

fn patterns<'a>(site: &'a Site<'_>) -> impl Iterator<Item = &'a CallerPattern> {
    site.policy.callers.iter().chain(&site.conf.user_white_list)
}

fn callers(site: &Site<'_>, local: &[User], found: &mut Vec<Finding>) -> Result<(), String> {
    let mut about = About::new(site.policy_file, found);
    if patterns(site).next().is_none() {
        let remedy = "list the pilot accounts in [callers] allow, or in user_white_list of glexec.conf";
        about.error("nobody may call glexec", remedy);
    }
    for pattern in patterns(site) {
        match pattern {
            CallerPattern::Anybody => {
                let remedy = "list the pilot accounts instead";
                about.warning("'*' lets every account of the host call glexec", remedy);
            }
            CallerPattern::Account(name) => match accounts::by_name(name.as_str())? {
                None => {
                    let what = format!("caller {name} is not an account of this host");
                    about.warning(what, "create it, or remove it from the list");
                }
                Some(user) if user.name != name.as_str() => {
                    let what = format!(
                        "caller {name} is called {} by passwd, which is the name that counts",
                        user.name
                    );
                    about.warning(what, format!("list {} instead", user.name));
                }
                Some(user) => caller_is_apart(site, &user, &mut about)?,
            },
            CallerPattern::Pool(base) => {
                let members =
                    local.iter().filter(|u| AccountName::parse(&u.name).is_ok_and(|n| pattern.matches(&n)));
                let members: Vec<_> = members.collect();
                if members.is_empty() {
                    let what = format!("caller pool .{base} has no member in /etc/passwd");
                    about.warning(what, "no action if the accounts come from a directory service");
                }
                for user in members {
                    caller_is_apart(site, user, &mut about)?;
                }
            }
        }
    }
    Ok(())
}

/// A caller is no payload, and its own groups are not handed on to payloads.
fn caller_is_apart(site: &Site<'_>, user: &User, about: &mut About<'_>) -> Result<(), String> {
    let (name, uid) = (&user.name, user.uid);
    if site.policy.accounts.uids.contains(uid) {
        let what = format!("caller {name} has uid {uid}, which [accounts] allow gives to payloads");
        about
            .error(what, "every call of it would be refused as nested; take its uid out of [accounts] allow");
    }
    let kept = |gid: &u32| *gid != 0 && site.policy.accounts.keep_gids.contains(*gid);
    if let Some(gid) = accounts::groups(user)?.into_iter().find(kept) {
        let what =
            format!("caller {name} is in group {gid}, which [accounts] keep_gids hands on to payloads");
        about.warning(what, "list only gids that the batch system adds to jobs and no group has");
    }
    Ok(())
}

fn payload_accounts(site: &Site<'_>, local: &[User], found: &mut Vec<Finding>) -> Result<(), String> {
    let allowed = &site.policy.accounts;
    let mut about = About::new(site.policy_file, found);
    if allowed.uids.is_empty() && allowed.names.is_empty() {
        let remedy = "list uid ranges or names in [accounts] allow, and their groups in [accounts] gids";
        about.error("no account may be given to a payload", remedy);
        return Ok(());
    }
    if (0..ID_FLOOR).any(|uid| allowed.uids.contains(uid)) {
        let what = format!("[accounts] allow lists uids below {ID_FLOOR}, which payloads never get");
        about.warning(what, format!("start the range at {ID_FLOOR} or above"));
    }
    if allowed.gids.contains(0) || allowed.keep_gids.contains(0) {
        about.warning("[accounts] lists gid 0, which payloads never get", "remove it");
    }
    for name in &allowed.names {
        match accounts::by_name(name.as_str())? {
            None => about.error(
                format!("[accounts] allow names {name}, which is not an account of this host"),
                "create it, or remove it",
            ),
            Some(user) => payload_account(site, &user, &mut about)?,
        }
    }
    let in_range = |user: &&User| user.uid >= ID_FLOOR && allowed.uids.contains(user.uid);
    let ranged: Vec<&User> = local.iter().filter(in_range).collect();
    if ranged.is_empty() && allowed.names.is_empty() {
        let what = "no account of /etc/passwd has a uid in [accounts] allow";
        about.warning(what, "no action if the accounts come from a directory service");
    }
    groups(site, &ranged, &mut about)
}

/// An account that the administrator named.
fn payload_account(site: &Site<'_>, user: &User, about: &mut About<'_>) -> Result<(), String> {
    let (name, uid) = (&user.name, user.uid);
    if uid < ID_FLOOR {
        let what =
            format!("[accounts] allow names {name} with uid {uid}; payloads never get uids below {ID_FLOOR}");
        about.error(what, "name another account");
    }
    let named = |p: &&CallerPattern| **p != CallerPattern::Anybody;
    if patterns(site).filter(named).any(|p| AccountName::parse(name).is_ok_and(|n| p.matches(&n))) {
        let what = format!("{name} is both a caller and a payload account");
        about.error(what, "a caller is never given to a payload; use two accounts");
    }
    groups(site, &[user], about)
}

/// One finding for all accounts with a group that is not listed: pools have hundreds of them.
fn groups(site: &Site<'_>, users: &[&User], about: &mut About<'_>) -> Result<(), String> {
    let mut bad = Vec::new();
    for user in users {
        let gids = accounts::groups(user)?;
        let unlisted = gids.into_iter().find(|gid| *gid == 0 || !site.policy.accounts.gids.contains(*gid));
        bad.extend(unlisted.map(|gid| (user.name.as_str(), gid)));
    }
    if let [(name, gid), ..] = bad.as_slice() {
        let others = match bad.len() {
            1 => String::new(),
            many => format!(" (likewise {} other accounts)", many - 1),
        };
        let what =
            format!("{name} is in group {gid}, not listed in [accounts] gids{others}: mapping to it fails");
        about.warning(what, "add the group to [accounts] gids, or take the account out of the group");
    }
    Ok(())
}

fn child_account(site: &Site<'_>, found: &mut Vec<Finding>) {
    let mut about = About::new(std::path::Path::new("/etc/passwd"), found);
    let user = accounts::by_name(CHILD_ACCOUNT).ok().flatten();
    let remedy = "useradd --system --user-group --home-dir / --shell /usr/sbin/nologin glexec";
    let Some(user) = user else {
        about.error("account glexec does not exist; without it every call ends with 202", remedy);
        return;
    };
    if user.uid == 0 || user.gid == 0 {
        about.error("account glexec has the rights of root", "give it a uid and gid of its own");
    }
    if site.policy.accounts.uids.contains(user.uid) {
        let what = format!("account glexec has uid {}, which [accounts] allow gives to payloads", user.uid);
        about.error(what, "a payload could interfere with verification; give glexec a system uid");
    }
}
