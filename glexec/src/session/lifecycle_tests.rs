//! A model of a session's life, explored to the last state: who may end at each point, and who notices.
//!
//! The model has the steps of front, supervisor and payload in their order. At each point the caller may stop or kill the
//! front, before or after it has said that it has no rights; the caller may end; the payload may start a daemon or end; root
//! may kill the supervisor; another call may come by and close what it finds as a reaper, which root may kill as well. The
//! test walks every order of these and looks at every state that can be reached.

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
    front: Front,
    /// The front has said that it has no rights.
    told: bool,
    /// Who called `glexec` with the wish that its end ends the payload.
    caller: bool,
    first: bool,
    daemon: bool,
    stored: bool,
    leaf: bool,
    open: bool,
    /// The lock is held as long as this is a process of root that goes on by itself.
    locked: bool,
    /// A process of root that closes a session whose supervisor is gone.
    reaper: bool,
}

/// What has become of the process that the caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Front {
    Works,
    Stopped,
    Gone,
}

impl World {
    const BEGIN: Self = Self {
        step: Step::Begun,
        root: true,
        front: Front::Works,
        told: false,
        caller: true,
        first: false,
        daemon: false,
        stored: false,
        leaf: false,
        open: false,
        locked: false,
        reaper: false,
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
        let mut next = *STEPS.get(STEPS.iter().position(|s| *s == self.step)? + 1)?;
        if next == Step::Running && !self.told {
            if self.front == Front::Works {
                return None;
            }
            // The wait for the front's word has an end, and then there is no payload.
            next = Step::Emptied;
        }
        let mut to = Self { step: next, ..self };
        match next {
            Step::Begun | Step::Split => {}
            Step::Stored => (to.stored, to.locked) = (true, true),
            Step::Walled => to.leaf = true,
            Step::Recorded => to.open = true,
            Step::Running => to.first = true,
            // It waits for the payload's end; the end of the front lets it kill.
            Step::Ending if self.first && self.front != Front::Gone && self.caller => return None,
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
        if parted {
            next.extend(match self.front {
                Front::Works => vec![
                    Self { told: true, ..self },
                    Self { front: Front::Stopped, ..self },
                    Self { front: Front::Gone, ..self },
                ],
                Front::Stopped => {
                    vec![Self { front: Front::Works, ..self }, Self { front: Front::Gone, ..self }]
                }
                Front::Gone => vec![],
            });
        }
        next.push(Self { caller: false, ..self });
        if self.root {
            // Root's kill: the first process dies with its parent, the lock goes with its holder.
            let front = if parted { self.front } else { Front::Gone };
            next.push(Self { root: false, first: false, locked: false, front, ..self });
        }
        if self.reaper {
            next.push(Self { reaper: false, locked: false, ..self });
        }
        next
    }

    /// The next call, or the monitor: whoever can take the lock of what is on record becomes its reaper.
    fn is_called_by(self) -> Self {
        if !self.stored || self.locked {
            return self;
        }
        Self { reaper: true, locked: true, ..self }
    }

    /// The reaper's next step, in the order of the supervisor's.
    fn is_reaped(self) -> Option<Self> {
        if !self.reaper {
            return None;
        }
        Some(if self.lives() {
            Self { first: false, daemon: false, ..self }
        } else if self.open {
            Self { open: false, ..self }
        } else if self.leaf {
            Self { leaf: false, ..self }
        } else {
            Self { stored: false, locked: false, reaper: false, ..self }
        })
    }
}

fn reachable() -> BTreeSet<World> {
    let mut seen = BTreeSet::from([World::BEGIN]);
    let mut next = vec![World::BEGIN];
    while let Some(world) = next.pop() {
        let more = world
            .others()
            .into_iter()
            .chain(world.works())
            .chain(world.is_reaped())
            .chain([world.is_called_by()]);
        next.extend(more.filter(|found| seen.insert(*found)));
    }
    seen
}

#[test]
fn in_no_state_does_a_payload_live_that_nobody_will_end() {
    let all = reachable();
    assert!(all.len() > 500, "the model is not explored: {}", all.len());
    for world in &all {
        assert!(!world.lives() || world.stored, "a process lives, and nothing names it: {world:?}");
        assert!(
            !world.locked || world.root || world.reaper,
            "a lock is held by nobody who can finish: {world:?}"
        );
        assert!(!world.open || world.stored, "a record is open, and nothing names it: {world:?}");
        assert!(!world.leaf || world.stored, "a leaf is there, and nothing names it: {world:?}");
        assert!(
            world.step < Step::Running || world.root || !world.first,
            "a payload without parent: {world:?}"
        );
    }
}

/// From every state the way to a clean host is open as soon as the payload, the front or the caller ends, without any luck.
#[test]
fn from_every_state_everything_ends() {
    let by_itself = |now: World| World { first: false, daemon: false, told: true, ..now };
    let by_front =
        |now: World| World { front: if now.step < Step::Split { now.front } else { Front::Gone }, ..now };
    // A front that is stopped for ever keeps nothing but its caller waiting.
    let by_caller = |now: World| World { caller: false, told: now.told || now.front == Front::Works, ..now };
    let ways: [fn(World) -> World; 3] = [by_itself, by_front, by_caller];
    for world in reachable() {
        for ended in ways {
            let mut now = ended(world);
            let mut seen = BTreeSet::new();
            while let Some(next) = now.works() {
                assert!(seen.insert(now), "it goes in circles: {now:?}");
                now = ended(next);
            }
            now = now.is_called_by();
            while let Some(next) = now.is_reaped() {
                now = next;
            }
            assert!(now.is_clean(), "{world:?} ends as {now:?}");
        }
    }
}

/// Whoever stops the front before it has said its word has no payload, and whoever stops it later changes nothing.
#[test]
fn without_the_front_s_word_there_is_no_payload() {
    for world in reachable() {
        assert!(!world.first || world.told, "a payload before the front's word: {world:?}");
        let stopped = World { front: Front::Stopped, ..world };
        if world.told && world.front == Front::Works {
            assert_eq!(stopped.works().map(|to| to.step), world.works().map(|to| to.step), "{world:?}");
        }
    }
}
