//! One pilot in the ledger, and what a look at batch system and queue changes about it: pure.

use batch::{JobId, JobStatus};
use uuid::Uuid;

/// How a pilot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had at least one payload.
    Worked,
    /// It had none, and none waited for it in the end.
    Idle,
    /// It had none although some waited that it could have run.
    Fruitless,
}

/// How far a pilot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Written down before the batch system hears of it. Whether it did is not known yet.
    Intended,
    /// In the batch system's queue.
    Pending,
    /// On a node.
    Running,
    /// Over.
    Ended(Outcome),
}

impl State {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Intended, "intended"),
        (Self::Pending, "pending"),
        (Self::Running, "running"),
        (Self::Ended(Outcome::Worked), "worked"),
        (Self::Ended(Outcome::Idle), "idle"),
        (Self::Ended(Outcome::Fruitless), "fruitless"),
    ];

    /// Its word in the ledger.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("", |(_, word)| word)
    }

    /// Back from the ledger.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(state, _)| *state)
    }
}

/// One pilot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the job, made before the submission: how a job whose submission was not seen to its end is found again.
    pub name: String,
    /// The id under which it registers at the queue.
    pub pilot: Uuid,
    /// Where.
    pub site: String,
    /// Whose payloads brought it about.
    pub owner: String,
    /// State.
    pub state: State,
    /// The batch system's id.
    pub job: Option<JobId>,
    /// Its node.
    pub host: Option<String>,
    /// Whether it has had a payload.
    pub worked: bool,
    /// When it was intended.
    pub created: u64,
    /// Last change of state.
    pub changed: u64,
    /// The batch system's word, or ours.
    pub why: String,
}

impl Entry {
    /// Whether it counts against the caps.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Ended(_))
    }
}

/// What the queue knows of a pilot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its node.
    pub host: String,
    /// Whether it has had a payload.
    pub worked: bool,
    /// Why it could not run any, as it said itself.
    pub failed: Option<String>,
}

/// What else settling depends on.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Seconds after which a job that no listing shows was never submitted, or is over.
    pub unknown_after: u64,
    /// Whether a payload waits that a pilot of this site could run.
    pub wanted: bool,
    /// Now.
    pub now: u64,
}

/// The entry after a look at a complete listing of its site and at the queue.
pub fn settle(entry: &Entry, listing: &[JobStatus], seen: Option<&Seen>, terms: Terms) -> Entry {
    let mut after = entry.clone();
    after.worked |= seen.is_some_and(|seen| seen.worked);
    // The batch system's name of a node comes first: it is the one that it can be told to avoid.
    after.host = after.host.or_else(|| seen.map(|seen| seen.host.clone()));
    let by_id = listing.iter().find(|job| Some(&job.id) == entry.job.as_ref());
    match by_id.or_else(|| listing.iter().find(|job| job.name == entry.name)) {
        Some(job) => {
            after.job = Some(job.id.clone());
            after.host = job.host.clone().or(after.host);
            after.why.clone_from(&job.why);
            after.state = match job.state {
                batch::State::Pending | batch::State::Held => State::Pending,
                batch::State::Running => State::Running,
                batch::State::Ended => State::Ended(outcome(&after, terms)),
            };
        }
        // A job may not be listed yet in the moment after its submission, or while the system is slow.
        None if terms.now < entry.changed.saturating_add(terms.unknown_after)
            && entry.state != State::Running => {}
        None if entry.job.is_none() => {
            after.state = State::Ended(if after.worked { Outcome::Worked } else { Outcome::Idle });
            after.why = "never reached the batch system".into();
        }
        None => {
            after.state = State::Ended(outcome(&after, terms));
            after.why = "left the batch system".into();
        }
    }
    let failed = seen.and_then(|seen| seen.failed.as_ref()).filter(|_| !after.is_live());
    if let Some(why) = failed {
        // Its own word says more than the batch system's: such a node fails the next one, too, whatever this one has run.
        (after.state, after.why) = (State::Ended(Outcome::Fruitless), why.clone());
    }
    if after.state != entry.state {
        after.changed = terms.now;
    }
    after
}

fn outcome(entry: &Entry, terms: Terms) -> Outcome {
    match (entry.worked, terms.wanted) {
        (true, _) => Outcome::Worked,
        (false, false) => Outcome::Idle,
        (false, true) => Outcome::Fruitless,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn entry(state: State, job: Option<&str>) -> Entry {
        Entry {
            name: "pp-1".into(),
            pilot: Uuid::nil(),
            site: "a".into(),
            owner: "/CN=A".into(),
            state,
            job: job.map(|id| JobId::parse(id).unwrap()),
            host: None,
            worked: false,
            created: 100,
            changed: 100,
            why: String::new(),
        }
    }

    fn listed(id: &str, name: &str, state: batch::State) -> JobStatus {
        let host = Some("wn1".to_owned());
        JobStatus { id: JobId::parse(id).unwrap(), name: name.into(), state, host, why: "word".into() }
    }

    fn at(now: u64, wanted: bool) -> Terms {
        Terms { unknown_after: 120, wanted, now }
    }

    #[test]
    fn a_submission_whose_end_was_not_seen_is_found_by_its_name() {
        let lost = entry(State::Intended, None);
        let found = settle(&lost, &[listed("7", "pp-1", batch::State::Pending)], None, at(101, true));
        assert_eq!((found.state, found.job.unwrap().as_str()), (State::Pending, "7"));
        // Not listed: it still counts for a while, then it was never submitted, which is nobody's failure.
        assert_eq!(settle(&lost, &[], None, at(219, true)).state, State::Intended);
        let never = settle(&lost, &[], None, at(220, true));
        assert_eq!(never.state, State::Ended(Outcome::Idle));
        let other = [listed("7", "pp-2", batch::State::Running)];
        assert_eq!(settle(&lost, &other, None, at(110, true)).state, State::Intended);
    }

    #[test]
    fn the_end_is_judged_by_work_and_by_what_waits() {
        let running = entry(State::Running, Some("7"));
        let gone = |seen: Option<&Seen>, wanted| settle(&running, &[], seen, at(101, wanted)).state;
        let idle = Seen { host: "wn2".into(), worked: false, failed: None };
        let busy = Seen { worked: true, ..idle.clone() };
        assert_eq!(gone(Some(&busy), true), State::Ended(Outcome::Worked));
        assert_eq!(gone(Some(&idle), true), State::Ended(Outcome::Fruitless));
        assert_eq!(gone(None, true), State::Ended(Outcome::Fruitless));
        assert_eq!(gone(Some(&idle), false), State::Ended(Outcome::Idle));
        let unfit = Seen { failed: Some("this node cannot run payloads: full".into()), ..idle.clone() };
        assert_eq!(gone(Some(&unfit), false), State::Ended(Outcome::Fruitless));
        assert!(settle(&running, &[], Some(&unfit), at(101, false)).why.contains("full"));
        assert_eq!(gone(Some(&Seen { worked: true, ..unfit }), true), State::Ended(Outcome::Fruitless));
        let listed_end = [listed("7", "pp-1", batch::State::Ended)];
        assert_eq!(settle(&running, &listed_end, None, at(101, true)).why, "word");
    }

    #[test]
    fn the_node_is_the_batch_systems_word_or_the_queues() {
        let pending = entry(State::Pending, Some("7"));
        let started = settle(&pending, &[listed("7", "x", batch::State::Running)], None, at(105, true));
        assert_eq!(
            (started.state, started.host.as_deref(), started.changed),
            (State::Running, Some("wn1"), 105)
        );
        let seen = Seen { host: "wn1.example.org".into(), worked: true, failed: None };
        let known = settle(&started, &[listed("7", "x", batch::State::Running)], Some(&seen), at(109, true));
        assert_eq!((known.host.as_deref(), known.worked, known.changed), (Some("wn1"), true, 105));
        let bare = JobStatus { host: None, ..listed("7", "x", batch::State::Running) };
        assert_eq!(
            settle(&pending, &[bare], Some(&seen), at(109, true)).host.as_deref(),
            Some("wn1.example.org")
        );
        // A queue of jobs that hides one for a moment ends nothing that has not started.
        assert_eq!(settle(&pending, &[], None, at(110, true)).state, State::Pending);
    }

    #[test]
    fn states_have_their_words() {
        assert!(State::ALL.iter().all(|(state, word)| State::parse(word) == Some(*state)));
        assert_eq!(State::parse("odd"), None);
    }
}
