//! The sessions that live, and their supervisors: an end of one that nobody expected is noticed at once.

use super::inspect;
use crate::session::store::{self, SessionState};
use crate::sys::process;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// An orphan that could not be closed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// A live session.
struct Tracked {
    state: SessionState,
    /// Readable when the supervisor has ended; `None` once that was seen.
    supervisor: Option<OwnedFd>,
}

/// All sessions that were there at the last inspection.
#[derive(Default)]
pub(super) struct Sessions {
    unfinished: bool,
    tracked: HashMap<String, Tracked>,
    asked: HashMap<String, Instant>,
}

impl Sessions {
    /// Inspects all sessions; returns those whose supervisor is gone and whose closing was not asked for lately.
    ///
    /// `base` plus the supervisor's process id is what `epoll` reports for it.
    pub(super) fn refresh(&mut self, epoll: &Epoll, base: u64, now: Instant) -> Vec<SessionState> {
        // Counted before: what comes in between announces itself again.
        let count = inspect::session_count();
        let Ok(found) = store::listed() else {
            // A session that cannot be read now has not ended.
            self.unfinished = true;
            return Vec::new();
        };
        self.unfinished = found.len() < count;
        let (orphaned, live): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.orphaned.is_some());
        // The locks of the orphaned ones go here: whoever closes the sessions has to take them.
        let orphaned: Vec<SessionState> = orphaned.into_iter().map(|found| found.state).collect();
        let live: Vec<SessionState> = live.into_iter().map(|found| found.state).collect();
        self.tracked.retain(|id, _| live.iter().any(|state| state.id == *id));
        for state in live {
            self.tracked.entry(state.id.clone()).or_insert_with(|| track(state, epoll, base));
        }
        self.due(orphaned, now)
    }

    fn due(&mut self, orphaned: Vec<SessionState>, now: Instant) -> Vec<SessionState> {
        self.asked.retain(|id, _| orphaned.iter().any(|state| state.id == *id));
        let mut due = orphaned;
        due.retain(|state| self.asked.get(&state.id).is_none_or(|then| now.duration_since(*then) >= AGAIN));
        self.asked.extend(due.iter().map(|state| (state.id.clone(), now)));
        due
    }

    /// Whether one was in the making at the last inspection.
    pub(super) fn has_unfinished(&self) -> bool {
        self.unfinished
    }

    /// The supervisor with this process id has ended: it is not reported again.
    pub(super) fn supervisor_ended(&mut self, pid: i32) {
        let of_it = self.tracked.values_mut().filter(|tracked| tracked.state.supervisor == pid);
        of_it.for_each(|tracked| tracked.supervisor = None);
    }

    /// Supervisors and ids of the sessions that have no cgroup leaf.
    pub(super) fn leafless(&self) -> impl Iterator<Item = (i32, &str)> {
        let states = self.tracked.values().map(|tracked| &tracked.state);
        states.filter(|state| state.leaf.is_none()).map(|state| (state.supervisor, state.id.as_str()))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.tracked.is_empty()
    }

    /// Whether a session is alive.
    pub(super) fn has(&self, id: &str) -> bool {
        self.tracked.contains_key(id)
    }
}

fn track(state: SessionState, epoll: &Epoll, base: u64) -> Tracked {
    let watched = process::pidfd(Pid::from_raw(state.supervisor)).and_then(|pidfd| {
        let token = base + u64::from(state.supervisor.unsigned_abs());
        epoll.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        Ok(pidfd)
    });
    // Without it the regular inspection finds out.
    Tracked { state, supervisor: watched.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphan(id: &str) -> SessionState {
        SessionState {
            id: id.into(),
            caller_uid: 1,
            uid: 2,
            gid: 2,
            supervisor: 3,
            leaf: None,
            spool: "/spool".into(),
            work_dir: None,
            proxy: None,
            identity: String::new(),
            born: None,
            pid_namespace: None,
            ports: None,
        }
    }

    #[test]
    fn an_orphan_is_asked_once_and_again_after_a_while() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let mut due = |ids: &[&str], now| {
            let orphans = ids.iter().map(|id| orphan(id)).collect();
            sessions.due(orphans, now).into_iter().map(|state| state.id).collect::<Vec<_>>()
        };
        assert_eq!(due(&["a"], now), ["a"]);
        assert_eq!(due(&["a", "b"], now), ["b"]);
        assert_eq!(due(&["a"], now + AGAIN), ["a"]);
        assert!(due(&[], now + AGAIN).is_empty());
        assert_eq!(due(&["b"], now + AGAIN), ["b"]);
    }
}
