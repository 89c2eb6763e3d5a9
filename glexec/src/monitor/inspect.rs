//! What `/proc` and the sessions tell about a process, and what follows from it.

use crate::admit::nesting::{self, Shown};
use crate::run::child_processes::first_number;
use crate::session::cgroup;
use crate::session::store::{self, RUN_DIR, SessionState};
use nix::unistd::Pid;
use policy::judge::NestedSign;
use std::fs;
use std::path::Path;

/// A process, as far as it could be inspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inspected {
    /// Its id.
    pub(super) pid: i32,
    /// Real uid.
    pub(super) uid: u32,
    /// Real gid.
    pub(super) gid: u32,
    /// By which it is recognised as a payload; empty when it is none.
    pub(super) signs: Vec<NestedSign>,
    /// The session that it belongs to, as far as that can be told.
    pub(super) session: Option<String>,
}

impl Inspected {
    /// Whether it is a payload.
    pub(super) fn is_payload(&self) -> bool {
        !self.signs.is_empty()
    }
}

/// The sessions whose supervisor lives. Those without one are closed as orphans, and their numbers may be others' now.
pub(super) fn live_sessions() -> Vec<SessionState> {
    let live = store::all().into_iter().filter(|found| found.orphaned.is_none());
    live.map(|found| found.state).collect()
}

/// How many sessions there are, those in the making included.
pub(super) fn session_count() -> usize {
    fs::read_dir(Path::new(RUN_DIR).join("sessions")).map_or(0, Iterator::count)
}

/// Inspects a process; `None` when it is gone.
pub(super) fn at(pid: i32) -> Option<Inspected> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let cgroup = fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let ancestors = nesting::ancestors(nesting::parent_of(Pid::from_raw(pid)));
    Some(judge(pid, &status, &cgroup, &ancestors, &live_sessions()))
}

/// Decides on what was read.
fn judge(pid: i32, status: &[u8], cgroup: &[u8], ancestors: &[Pid], sessions: &[SessionState]) -> Inspected {
    let (uid, gid) = (
        first_number(status, b"Uid:").unwrap_or(u32::MAX),
        first_number(status, b"Gid:").unwrap_or(u32::MAX),
    );
    let mut signs = nesting::outer_signs(&Shown { uid, cgroup, ancestors }, sessions.iter());
    if !signs.is_empty() && uid != 0 && first_number(status, b"NoNewPrivs:") == Some(1) {
        signs.insert(0, NestedSign::NoNewPrivs);
    }
    let session = cgroup::leaf_id(cgroup).map(str::to_owned).or_else(|| session_of(uid, ancestors, sessions));
    let session = session.filter(|_| !signs.is_empty());
    Inspected { pid, uid, gid, signs, session }
}

/// Below which supervisor it is; else whose account it has, when only one session has it.
fn session_of(uid: u32, ancestors: &[Pid], sessions: &[SessionState]) -> Option<String> {
    let above = |state: &&SessionState| ancestors.iter().any(|pid| pid.as_raw() == state.supervisor);
    let mut of_account = sessions.iter().filter(|state| state.uid == uid);
    let only = of_account.next().filter(|_| of_account.next().is_none());
    sessions.iter().find(above).or(only).map(|state| state.id.clone())
}

/// All processes of the host.
pub(super) fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The real uid of a process; `None` when it is gone.
pub(super) fn uid_of(pid: i32) -> Option<u32> {
    first_number(&fs::read(format!("/proc/{pid}/status")).ok()?, b"Uid:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01890000-0000-7000-8000-000000000000";

    fn session(id: &str, uid: u32, supervisor: i32) -> SessionState {
        let (caller_uid, gid) = (1000, uid);
        let (born, leaf, spool, work_dir, proxy, pid_namespace) =
            (None, None, "/spool".into(), None, None, None);
        let identity = String::new();
        SessionState {
            id: id.into(),
            caller_uid,
            uid,
            gid,
            supervisor,
            born,
            leaf,
            spool,
            work_dir,
            proxy,
            identity,
            pid_namespace,
            ports: None,
        }
    }

    fn status(uid: u32) -> Vec<u8> {
        format!("Name:\tx\nUid:\t{uid}\t0\t0\t0\nGid:\t{uid}\t0\t0\t0\nNoNewPrivs:\t1\n").into_bytes()
    }

    fn pids(numbers: &[i32]) -> Vec<Pid> {
        numbers.iter().copied().map(Pid::from_raw).collect()
    }

    #[test]
    fn a_stranger_is_no_payload() {
        let found = judge(9, &status(1000), b"0::/job\n", &pids(&[5, 1]), &[session("a", 20_001, 77)]);
        assert!(!found.is_payload());
        assert_eq!((found.uid, found.session), (1000, None));
    }

    #[test]
    fn each_sign_is_enough_and_names_its_session() {
        let sessions = [session("a", 20_001, 77), session("b", 20_002, 78), session("c", 20_002, 79)];
        let leaf = format!("0::/job/glexec-{ID}/sub\n");
        let found = judge(9, &status(1000), leaf.as_bytes(), &pids(&[1]), &sessions);
        assert_eq!(found.signs, [NestedSign::NoNewPrivs, NestedSign::SessionCgroup]);
        assert_eq!(found.session.as_deref(), Some(ID));
        let found = judge(9, &status(20_001), b"", &pids(&[1]), &sessions);
        assert_eq!(found.signs, [NestedSign::NoNewPrivs, NestedSign::SessionAccount]);
        assert_eq!(found.session.as_deref(), Some("a"));
        let found = judge(9, &status(1000), b"", &pids(&[79, 1]), &sessions);
        assert_eq!(found.signs, [NestedSign::NoNewPrivs, NestedSign::SupervisorAncestor]);
        assert_eq!(found.session.as_deref(), Some("c"));
    }

    #[test]
    fn an_account_of_two_sessions_names_neither() {
        let sessions = [session("b", 20_002, 78), session("c", 20_002, 79)];
        let found = judge(9, &status(20_002), b"", &pids(&[1]), &sessions);
        assert!(found.is_payload());
        assert_eq!(found.session, None);
    }

    #[test]
    fn a_process_in_a_leaf_is_a_payload_even_when_nothing_else_can_be_read() {
        let found = judge(9, b"", format!("0::/glexec-{ID}\n").as_bytes(), &[], &[]);
        assert_eq!((found.is_payload(), found.uid), (true, u32::MAX));
    }
}
