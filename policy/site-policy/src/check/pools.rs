//! The directory of leases: who may change it, its accounts, and leases that nobody can use.

use super::mapfiles::doubt;
use super::{Site, trusted};
use crate::finding::{About, Finding, Severity};
use identity::AccountName;
use mapdir::Directory;
use policy::pool::lease::{Holding, holding};
use policy::pool::{Entry, LeaseName, MapDir, Pool};
use policy::trusted::Rule;
use std::fs::File;
use std::io;
use std::path::Path;

/// The accounts that can be leased.
#[derive(Default)]
pub(super) struct Pools(Vec<String>);

impl Pools {
    /// Adds what is wrong with the directory; `None` where the site leases nothing.
    pub(super) fn check(site: &Site<'_>, found: &mut Vec<Finding>) -> Option<Self> {
        let path = site.policy.mapping.gridmapdir.as_deref()?;
        let if_missing = "create it, with an empty file for each account of a pool; until then calls that need one end with 202";
        if !trusted(path, Rule::DIRECTORY, if_missing, found) {
            return Some(Self::default());
        }
        let names = File::open(path).and_then(|open| {
            let directory = Directory::new(open);
            let names = directory.names()?;
            each(site, path, &directory, &names, found)?;
            Ok(names)
        });
        let names = names.inspect_err(|e| {
            About::new(path, found).error(format!("cannot be read: {e}"), "run this as root")
        });
        Some(Self(names.unwrap_or_default()))
    }

    pub(super) fn has_any(&self, pool: &Pool) -> bool {
        self.0.iter().any(|name| pool.has(name))
    }
}

fn each(
    site: &Site<'_>,
    path: &Path,
    directory: &Directory,
    names: &[String],
    found: &mut Vec<Finding>,
) -> io::Result<()> {
    for name in names.iter().filter(|name| !name.starts_with('.')) {
        let Some(entry) = directory.look(name)? else { continue };
        let fault = match LeaseName::found(name) {
            Some(lease) => lease_fault(directory, &lease),
            None => account_fault(site, name, entry),
        };
        if let Some((severity, what, remedy)) = fault {
            About::new(&path.join(name), found).add(None, severity, what, remedy);
        }
    }
    Ok(())
}

type Fault = (Severity, String, &'static str);

fn account_fault(site: &Site<'_>, name: &str, entry: Entry) -> Option<Fault> {
    let warning = |what: String, remedy| Some((Severity::Warning, what, remedy));
    if !entry.regular {
        return warning(
            "is no regular file, so it is no account".into(),
            "replace it by an empty file, or remove it",
        );
    }
    if entry.links > 2 {
        let what = format!("has {} names: two leases share one account", entry.links);
        return Some((
            Severity::Error,
            what,
            "remove the lease that is wrong; ls -i shows which belong together",
        ));
    }
    let Ok(account) = AccountName::parse(name) else {
        return warning(
            "is no name of an account: it is never leased".into(),
            "remove it, or correct its name",
        );
    };
    let (what, _) = doubt(site, &account)?;
    warning(format!("is never leased: {what}"), "mend that, or remove the file")
}

fn lease_fault(directory: &Directory, lease: &LeaseName) -> Option<Fault> {
    match holding(directory, lease) {
        Ok(Holding::Account(_) | Holding::Nothing) => None,
        Ok(Holding::Orphan(_)) => Some((
            Severity::Warning,
            "is a lease of no account, whose file is gone; the next call of its user replaces it".into(),
            "remove it if the user does not come back",
        )),
        Ok(Holding::Moving) => Some((
            Severity::Warning,
            "shares its account with another lease".into(),
            "look again; if it stays so, remove the lease that is wrong",
        )),
        Err(e) => Some((Severity::Error, format!("is a lease that cannot be used: {e}"), "remove it")),
    }
}
