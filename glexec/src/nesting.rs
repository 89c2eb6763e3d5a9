//! Signs that the caller is itself a payload. They are independent of each other: one is enough.
//!
//! `no_new_privs` is found in `start` (it takes the privilege before anything here could run) and the caller's uid
//! is compared with `[accounts] allow` in `policy::judge::admit`; the other three are gathered here.

use crate::session::Found;
use crate::{cgroup, sys::process};
use nix::unistd::{Pid, getppid};
use policy::identity::Caller;
use policy::judge::NestedSign;
use std::fs;

/// Deeper trees of processes do not occur; the limit stops a walk through a tree that changes under our feet.
const MAX_DEPTH: usize = 1000;

/// The signs that this process shows, given all sessions of the host.
pub(crate) fn signs(caller: &Caller, sessions: &[Found]) -> Vec<NestedSign> {
    let mut signs = Vec::new();
    if caller.uid != 0 && process::no_new_privs() {
        signs.push(NestedSign::NoNewPrivs);
    }
    if sessions.iter().any(|s| s.state.uid == caller.uid) {
        signs.push(NestedSign::SessionAccount);
    }
    if fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| cgroup::is_in_leaf(&text)) {
        signs.push(NestedSign::SessionCgroup);
    }
    let supervisors: Vec<i32> = sessions.iter().map(|s| s.state.supervisor).collect();
    if !supervisors.is_empty() && ancestors().any(|pid| supervisors.contains(&pid.as_raw())) {
        signs.push(NestedSign::SupervisorAncestor);
    }
    signs
}

fn ancestors() -> impl Iterator<Item = Pid> {
    std::iter::successors(Some(getppid()), |pid| parent_of(*pid)).take(MAX_DEPTH)
}

fn parent_of(pid: Pid) -> Option<Pid> {
    parse_parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The fourth field of `/proc/<pid>/stat`; the second one is in parentheses and may hold anything.
fn parse_parent(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let parent = rest.split(' ').nth(1)?.parse().ok()?;
    (parent > 0).then(|| Pid::from_raw(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_lie_about_its_parent_by_its_name() {
        assert_eq!(parse_parent("77 (x) S 1 (evil) R 42 5 6"), Some(Pid::from_raw(42)));
        assert_eq!(parse_parent("77 (sh) S 12 5 6"), Some(Pid::from_raw(12)));
        assert_eq!(parse_parent("1 (init) S 0 1 1"), None);
        assert_eq!(parse_parent(""), None);
    }
}
