//! Which processes belong to sessions without a cgroup leaf, by birth: also those whose parents have ended.
//!
//! Where there is a leaf the kernel keeps this list itself, and nothing here is used.

use std::collections::HashMap;

/// Members of sessions, by process id.
#[derive(Debug, Default)]
pub(super) struct SessionMembers {
    member_of: HashMap<i32, String>,
}

/// A process and its parent, as `/proc` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParentOf {
    /// Its id.
    pub(super) pid: i32,
    /// Its parent's.
    pub(super) parent: i32,
}

impl SessionMembers {
    /// The supervisor of a session: everything that it gives birth to belongs to the session.
    pub(super) fn found(&mut self, supervisor: i32, session: &str) {
        self.member_of.entry(supervisor).or_insert_with(|| session.to_owned());
    }

    /// A birth; returns the session when the parent belongs to one.
    pub(super) fn born(&mut self, parent: i32, child: i32) -> Option<&str> {
        // Its number may have been somebody else's, whose end we missed.
        self.member_of.remove(&child);
        let session = self.member_of.get(&parent)?.clone();
        self.member_of.insert(child, session);
        self.member_of.get(&child).map(String::as_str)
    }

    /// An end.
    pub(super) fn ended(&mut self, pid: i32) {
        self.member_of.remove(&pid);
    }

    /// Whose member a process is.
    pub(super) fn session_of(&self, pid: i32) -> Option<&str> {
        self.member_of.get(&pid).map(String::as_str)
    }

    /// All processes of a session.
    pub(super) fn members(&self, session: &str) -> Vec<i32> {
        self.member_of.iter().filter(|(_, s)| *s == session).map(|(pid, _)| *pid).collect()
    }

    /// Forgets sessions that are over.
    pub(super) fn keep(&mut self, still: impl Fn(&str) -> bool) {
        self.member_of.retain(|_, session| still(session));
    }

    /// After events were lost: who is gone is forgotten, and children of members join.
    pub(super) fn catch_up(&mut self, living: &[ParentOf]) {
        let parents: HashMap<i32, i32> = living.iter().map(|process| (process.pid, process.parent)).collect();
        self.member_of.retain(|pid, _| parents.contains_key(pid));
        loop {
            let joined: Vec<(i32, String)> = living
                .iter()
                .filter(|process| !self.member_of.contains_key(&process.pid))
                .filter_map(|process| Some((process.pid, self.member_of.get(&process.parent)?.clone())))
                .collect();
            if joined.is_empty() {
                return;
            }
            self.member_of.extend(joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(mut pids: Vec<i32>) -> Vec<i32> {
        pids.sort_unstable();
        pids
    }

    #[test]
    fn who_forks_twice_stays_in_the_family() {
        let mut members = SessionMembers::default();
        members.found(10, "a");
        assert_eq!(members.born(10, 11), Some("a"));
        members.born(11, 12);
        members.ended(11);
        assert_eq!(members.born(12, 13), Some("a"));
        assert_eq!(members.born(99, 14), None);
        assert_eq!(sorted(members.members("a")), [10, 12, 13]);
        assert_eq!(members.session_of(13), Some("a"));
    }

    #[test]
    fn a_number_used_anew_is_a_new_process() {
        let mut members = SessionMembers::default();
        members.found(10, "a");
        members.born(10, 11);
        assert_eq!(members.born(99, 11), None);
        assert_eq!(members.members("a"), [10]);
    }

    #[test]
    fn after_lost_events_the_living_are_taken_as_they_are() {
        let mut members = SessionMembers::default();
        members.found(10, "a");
        members.born(10, 11);
        members.born(10, 12);
        let process = |pid, parent| ParentOf { pid, parent };
        // 13 and 14 were born unseen; 12 has ended unseen; 20 is a stranger.
        members.catch_up(&[process(14, 13), process(13, 11), process(11, 1), process(20, 1), process(10, 5)]);
        assert_eq!(sorted(members.members("a")), [10, 11, 13, 14]);
        members.keep(|session| session != "a");
        assert_eq!(members.session_of(10), None);
    }
}
