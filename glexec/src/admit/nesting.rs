//! Signs that the caller is itself a payload. They are independent of each other: one is enough.
//!
//! `no_new_privs` is found in `start` (it takes the privilege before anything here could run) and the caller's uid
//! is compared with `[accounts] allow` in `policy::judge::admit`; the other three are gathered here.

use crate::session::cgroup;
use crate::session::namespace;
use crate::session::recording;
use crate::session::store::{self, Found, SessionState};
use crate::sys::{ids, process};
use identity::Caller;
use nix::unistd::{Pid, getppid};
use policy::judge::NestedSign;
use record::Opened;
use std::fs;

/// Deeper trees of processes do not occur; the limit stops a walk through a tree that changes under our feet.
const MAX_DEPTH: usize = 1000;

/// What can be seen of a process from outside.
pub(crate) struct Shown<'a> {
    /// Its real uid.
    pub(crate) uid: u32,
    /// Text of `/proc/<pid>/cgroup`.
    pub(crate) cgroup: &'a [u8],
    /// Its parent, the parent's parent and so on.
    pub(crate) ancestors: &'a [Pid],
}

/// The signs that this process shows, given all sessions of the host.
pub(crate) fn signs(caller: &Caller, sessions: &[Found]) -> Vec<NestedSign> {
    let mut signs = Vec::new();
    if caller.uid != 0 && process::no_new_privs() {
        signs.push(NestedSign::NoNewPrivs);
    }
    let cgroup = fs::read("/proc/self/cgroup").unwrap_or_default();
    // Without a session there is no supervisor to look for.
    let ancestors = if sessions.is_empty() { Vec::new() } else { ancestors(Some(getppid())) };
    let shown = Shown { uid: caller.uid, cgroup: &cgroup, ancestors: &ancestors };
    signs.extend(outer_signs(&shown, sessions.iter().map(|found| &found.state)));
    // Nobody but a supervisor's children gets into the namespace that it made, where they cannot see it as an ancestor.
    let own = namespace::own();
    let within = own.is_some() && sessions.iter().any(|found| found.state.pid_namespace == own);
    if within && !signs.contains(&NestedSign::SupervisorAncestor) {
        signs.push(NestedSign::SupervisorAncestor);
    }
    signs
}

/// The signs that can be seen from outside, decided on what was gathered.
pub(crate) fn outer_signs<'a>(
    shown: &Shown<'_>,
    sessions: impl Iterator<Item = &'a SessionState> + Clone,
) -> Vec<NestedSign> {
    let mut signs = Vec::new();
    if sessions.clone().any(|state| state.uid == shown.uid) {
        signs.push(NestedSign::SessionAccount);
    }
    if cgroup::is_in_leaf(shown.cgroup) {
        signs.push(NestedSign::SessionCgroup);
    }
    let mut supervised = sessions.filter(|s| shown.ancestors.iter().any(|a| a.as_raw() == s.supervisor));
    if supervised.any(SessionState::is_still_named) {
        signs.push(NestedSign::SupervisorAncestor);
    }
    signs
}

/// Whose payload calls: the record of the session that the leaf, an ancestor or else the account tells.
pub(crate) fn origin(caller_uid: u32) -> Option<Opened> {
    // Sessions are locked while they are looked at, and the payload could stop us.
    let _unstoppable = ids::OutOfReach::enter();
    let cgroup = fs::read("/proc/self/cgroup").unwrap_or_default();
    let (leaf, ancestors) = (cgroup::leaf_id(&cgroup), ancestors(Some(getppid())));
    let sessions: Vec<SessionState> = store::all().into_iter().map(|found| found.state).collect();
    let by_leaf = |state: &&SessionState| leaf == Some(state.id.as_str());
    let by_ancestor = |state: &&SessionState| ancestors.iter().any(|pid| pid.as_raw() == state.supervisor);
    let by_account = |state: &&SessionState| state.uid == caller_uid;
    let found = sessions.iter().find(by_leaf).or_else(|| sessions.iter().find(by_ancestor));
    recording::opened_of(found.or_else(|| sessions.iter().find(by_account))?)
}

/// A process and those above it.
pub(crate) fn ancestors(first: Option<Pid>) -> Vec<Pid> {
    std::iter::successors(first, |pid| parent_of(*pid)).take(MAX_DEPTH).collect()
}

/// The parent; `None` for the first process and for those that are gone.
pub(crate) fn parent_of(pid: Pid) -> Option<Pid> {
    parse_parent(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The fourth field of `/proc/<pid>/stat`; the second one is in parentheses and may hold anything.
fn parse_parent(stat: &[u8]) -> Option<Pid> {
    let parent = std::str::from_utf8(process::stat_field(stat, 1)?).ok()?.parse().ok()?;
    (parent > 0).then(|| Pid::from_raw(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_lie_about_its_parent_by_its_name() {
        assert_eq!(parse_parent(b"77 (x) S 1 (evil) R 42 5 6"), Some(Pid::from_raw(42)));
        assert_eq!(parse_parent(b"77 (sh) S 12 5 6"), Some(Pid::from_raw(12)));
        assert_eq!(parse_parent(b"1 (init) S 0 1 1"), None);
        assert_eq!(
            parse_parent(b"77 (\xff\xfe) S 42 5 6"),
            Some(Pid::from_raw(42)),
            "a name need not be text"
        );
        assert_eq!(parse_parent(b""), None);
    }
}
