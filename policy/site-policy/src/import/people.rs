//! `[accounts]`: LCMAPS lets a map file name any account, `glexec` only those that are listed.
//!
//! The list is made from what the map files name today. For pools and services it cannot be known, and the administrator
//! must write the ranges.

use super::note::{Effect, Notes};
use super::plan::Plan;
use crate::accounts;
use identity::AccountName;
use policy::ids::ID_FLOOR;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What `[accounts]` will say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct People {
    /// Uids, as ranges.
    pub allow: Vec<String>,
    pub gids: Vec<String>,
}

/// Looks up the accounts that the map files of the plan name.
pub fn of(plan: &Plan, notes: &mut Notes) -> Result<People, String> {
    let (mut uids, mut gids) = (BTreeSet::new(), BTreeSet::new());
    let mut unknown = Vec::new();
    for (source, _) in &plan.order {
        let file = match *source {
            "grid-mapfile" => &plan.grid_mapfile,
            "voms-mapfile" => &plan.voms_mapfile,
            service => {
                unknown.push(format!("the accounts that {service} names"));
                continue;
            }
        };
        let Some(file) = file else { continue };
        match fs::read_to_string(&file.value) {
            Err(why) => unknown.push(format!("the accounts of {} ({why})", file.value)),
            Ok(text) => {
                for name in named(&text) {
                    if name.starts_with('.') {
                        unknown.push(format!("the pool {name}"));
                    } else {
                        account(&name, Path::new(&file.value), &mut uids, &mut gids, notes)?;
                    }
                }
            }
        }
    }
    unknown.dedup();
    if !unknown.is_empty() {
        let text = format!(
            "[accounts] allow and gids must also list {}: write their uid and gid ranges",
            unknown.join(", ")
        );
        notes.add(None, Effect::Stricter, text);
    }
    Ok(People { allow: ranges(&uids), gids: ranges(&gids) })
}

fn account(
    name: &str,
    file: &Path,
    uids: &mut BTreeSet<u32>,
    gids: &mut BTreeSet<u32>,
    notes: &mut Notes,
) -> Result<(), String> {
    let known = match AccountName::parse(name) {
        Ok(name) => accounts::by_name(name.as_str())?,
        Err(_) => None,
    };
    let Some(user) = known else {
        let text = format!("{} names {name:?}, which is not an account of this host", file.display());
        notes.add(None, Effect::Note, text);
        return Ok(());
    };
    let uid = user.uid;
    if uid < ID_FLOOR {
        let text = format!(
            "{} names {name} with uid {uid}; payloads never get uids below {ID_FLOOR}",
            file.display()
        );
        notes.add(None, Effect::Stricter, text);
        return Ok(());
    }
    uids.insert(uid);
    gids.extend(accounts::groups(&user)?.into_iter().filter(|gid| *gid != 0));
    Ok(())
}

/// Accounts and pools of a map file, each once, sorted. A file that does not parse names nobody.
fn named(text: &str) -> BTreeSet<String> {
    if policy::mapfile::Mapfile::parse(text).is_err() {
        return BTreeSet::new();
    }
    let lines = text.lines().map(str::trim_start).filter(|l| !l.starts_with('#'));
    let accounts = lines.flat_map(|line| {
        let rest = after_key(line);
        rest.split('#').next().unwrap_or_default().split([',', ' ', '\t'])
    });
    accounts.filter(|a| !a.is_empty()).map(str::to_owned).collect()
}

fn after_key(line: &str) -> &str {
    let Some(quoted) = line.strip_prefix('"') else {
        return line.split_once([' ', '\t']).map_or("", |(_, rest)| rest);
    };
    let mut escaped = false;
    let end = quoted.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    end.map_or("", |end| &quoted[end + 1..])
}

/// `[5, 6, 7, 9]` as `5-7`, `9`.
fn ranges(ids: &BTreeSet<u32>) -> Vec<String> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for id in ids {
        match found.last_mut() {
            Some((_, high)) if high.checked_add(1) == Some(*id) => *high = *id,
            _ => found.push((*id, *id)),
        }
    }
    found
        .into_iter()
        .map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_ranges() {
        let ids = BTreeSet::from([20_001, 20_002, 20_003, 30_000, 30_002]);
        assert_eq!(ranges(&ids), ["20001-20003", "30000", "30002"]);
    }

    #[test]
    fn accounts_are_found_behind_awkward_keys() {
        let text = "# \"/CN=x\" no\n\"/CN=a \\\"b\\\" # c\" .cms,alice # not this\n/cms/Role=x bob\tcarl\n\"/CN=ban\"\n";
        assert_eq!(named(text).into_iter().collect::<Vec<_>>(), [".cms", "alice", "bob", "carl"]);
        assert!(named("\"/CN=open x\n").is_empty());
    }
}
