//! A model of a session's life, explored to the last state: who may end at each point, and who notices.
//!
//! The model has the steps of front, supervisor and payload in their order. At each point the caller may kill the front, the
//! payload may start a daemon or end, root may kill the supervisor, and another call may come by. The test walks every order
//! of these and looks at every state that can be reached.

use std::collections::BTreeSet;

/// How far the supervisor has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The front's process, still root and out of reach, before it makes anything.
    Begun,
    /// The session's directory is there, and its lock is held.
    Stored,
    /// The leaf and the supervisor's post are there.
    Walled,
    /// Front and supervisor have parted.
    Split,
    /// The record is open and synced.
    Recorded,
    /// The payload was started.
    Running,
    /// The payload's first process has ended, or was killed.
    Ending,
    /// The leaf is empty.
    Emptied,
    /// The record is closed.
    Closed,
    /// The leaf is removed.
    Unwalled,
    /// The session's directory is removed.
    Done,
}

const STEPS: [Step; 11] = [
    Step::Begun,
    Step::Stored,
    Step::Walled,
    Step::Split,
    Step::Recorded,
    Step::Running,
    Step::Ending,
    Step::Emptied,
    Step::Closed,
    Step::Unwalled,
    Step::Done,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    step: Step,
    /// The process of root at work: before the split the visible one, then the supervisor.
    root: bool,
    front: bool,
    first: bool,
    daemon: bool,
    stored: bool,
    leaf: bool,
    open: bool,
    /// The lock is held as long as this is a process of root that goes on by itself.
    locked: bool,
}

impl World {
    const BEGIN: Self = Self {
        step: Step::Begun,
        root: true,
        front: true,
        first: false,
        daemon: false,
        stored: false,
        leaf: false,
        open: false,
        locked: false,
    };

    fn lives(self) -> bool {
        self.first || self.daemon
    }

    fn is_clean(self) -> bool {
        !self.lives() && !self.stored && !self.leaf && !self.open && !self.locked
    }

    /// The supervisor's next step, when it can take one without waiting for anybody but its own kill.
    fn works(self) -> Option<Self> {
        if !self.root {
            return None;
        }
        let next = *STEPS.get(STEPS.iter().position(|s| *s == self.step)? + 1)?;
        let mut to = Self { step: next, ..self };
        match next {
            Step::Begun | Step::Split => {}
            Step::Stored => (to.stored, to.locked) = (true, true),
            Step::Walled => to.leaf = true,
            Step::Recorded => to.open = true,
            Step::Running => to.first = true,
            // It waits for the payload's end; the end of the front lets it kill.
            Step::Ending if self.first && self.front => return None,
            Step::Ending => to.first = false,
            Step::Emptied => to.daemon = false,
            Step::Closed => to.open = false,
            Step::Unwalled => to.leaf = false,
            Step::Done => (to.stored, to.locked, to.root) = (false, false, false),
        }
        Some(to)
    }

    /// What others may do at this point.
    fn others(self) -> Vec<Self> {
        let parted = self.step >= Step::Split;
        let mut next = Vec::new();
        if self.first {
            next.push(Self { first: false, ..self });
            next.push(Self { daemon: true, ..self });
        }
        if self.daemon {
            next.push(Self { daemon: false, ..self });
        }
        // Before the split the visible process is root and out of the caller's reach.
        if self.front && parted {
            next.push(Self { front: false, ..self });
        }
        if self.root {
            // Root's kill: the first process dies with its parent, the lock goes with its holder.
            let front = self.front && parted;
            next.push(Self { root: false, first: false, locked: false, front, ..self });
        }
        next
    }

    /// The next call, or the monitor: whoever can take the lock of what is on record closes it.
    fn is_called_by(self) -> Self {
        if !self.stored || self.locked {
            return self;
        }
        Self { first: false, daemon: false, open: false, leaf: false, stored: false, ..self }
    }
}

fn reachable() -> BTreeSet<World> {
    let mut seen = BTreeSet::from([World::BEGIN]);
    let mut next = vec![World::BEGIN];
    while let Some(world) = next.pop() {
        let more = world.others().into_iter().chain(world.works()).chain([world.is_called_by()]);
        next.extend(more.filter(|found| seen.insert(*found)));
    }
    seen
}

#[test]
fn in_no_state_does_a_payload_live_that_nobody_will_end() {
    let all = reachable();
    assert!(all.len() > 60, "the model is not explored: {}", all.len());
    for world in &all {
        assert!(!world.lives() || world.stored, "a process lives, and nothing names it: {world:?}");
        assert!(!world.locked || world.root, "a lock is held by nobody who can finish: {world:?}");
        assert!(!world.open || world.stored, "a record is open, and nothing names it: {world:?}");
        assert!(!world.leaf || world.stored, "a leaf is there, and nothing names it: {world:?}");
        assert!(
            world.step < Step::Running || world.root || !world.first,
            "a payload without parent: {world:?}"
        );
    }
}

/// From every state the way to a clean host is open as soon as the payload ends or the front does, without any luck.
#[test]
fn from_every_state_everything_ends() {
    for world in reachable() {
        let ended = |now: World| World { front: now.front && now.step < Step::Split, ..now };
        let mut now = ended(world);
        let mut seen = BTreeSet::new();
        while let Some(next) = now.works() {
            assert!(seen.insert(now), "it goes in circles: {now:?}");
            now = ended(next);
        }
        let now = now.is_called_by();
        assert!(now.is_clean(), "{world:?} ends as {now:?}");
    }
}
