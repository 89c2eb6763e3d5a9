//! What a child may still see of the machine: Landlock, where the kernel has it.

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, NetPort, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// All that is left. Nothing may be written, executed, bound, or signalled, whatever stands here.
#[derive(Debug, Default, Clone, Copy)]
pub struct View<'a> {
    /// Directories and files that may be read, with all that is below them. Those that do not exist are left out.
    pub readable: &'a [PathBuf],
    /// TCP ports that may be connected to.
    pub ports: &'a [u16],
}

/// How much of it the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landlock {
    /// Files, TCP ports, abstract sockets and signals: Linux 6.12 and later.
    All,
    /// Files at least; what the kernel's version of Landlock knows.
    Some,
    /// Nothing: the kernel is older than 5.13, was built or booted without Landlock, or a container hides it.
    None,
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Landlock::All => "files, TCP ports, abstract sockets and signals",
            Landlock::Some => "files, and what else this kernel knows",
            Landlock::None => "none; this kernel offers no Landlock",
        })
    }
}

/// Leaves this view, for the calling thread and those that it starts from now on.
///
/// # Errors
/// One line for people: Landlock is there and refuses. Nothing may be parsed then.
pub fn narrow(view: View<'_>) -> Result<Landlock, String> {
    let status = restrict(view).map_err(|e| format!("landlock: {e}"))?;
    Ok(match (status.landlock, status.ruleset) {
        (LandlockStatus::Available { .. }, RulesetStatus::FullyEnforced) => Landlock::All,
        (LandlockStatus::Available { .. }, RulesetStatus::PartiallyEnforced) => Landlock::Some,
        _ => Landlock::None,
    })
}

fn restrict(view: View<'_>) -> Result<RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .no_new_privs(false)
        .add_rules(path_beneath_rules(view.readable, read))?
        .add_rules(view.ports.iter().map(|p| Ok::<_, RulesetError>(NetPort::new(*p, AccessNet::ConnectTcp))))?
        .restrict_self()
}

/// The directory, and the directories of the files that links in it lead to: CA directories of some distributions are
/// full of links to `/usr/share`. The rule is about directories, so that a file may be replaced at any time.
pub fn roots(dir: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_symlink()) && leads_away(&entry.path()) {
            let target = entry.path().canonicalize().ok();
            found.extend(target.and_then(|t| t.parent().map(Path::to_owned)));
        }
    }
    std::iter::once(dir.to_owned()).chain(found).collect()
}

fn leads_away(link: &Path) -> bool {
    std::fs::read_link(link).is_ok_and(|to| to.components().count() > 1)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
