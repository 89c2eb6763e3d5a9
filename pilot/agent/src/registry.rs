//! The leases that the agent holds, shared between the tasks that claim, renew and work.
//!
//! A lease waits for its turn, holds a slot while its payload is prepared and runs, and is then on its way to the queue. What
//! was taken ahead waits; the oldest begins as soon as it fits.

use super::ahead::Pace;
use super::health::{Experience, Health};
use super::lease::StopReason;
use pilot_api::{Lease, LeaseUpdate, PayloadState};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

/// All leases held.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<BTreeMap<Uuid, Entry>>,
    health: Mutex<(Health, Option<Instant>)>,
    last_end: Mutex<Option<Instant>>,
    pace: Mutex<Pace>,
    /// Something changed that the queue should hear of.
    pub news: Notify,
    /// A slot is free again, or a lease is gone.
    pub ended: Notify,
    /// Those who wait for their turn shall look again.
    turns: Notify,
}

#[derive(Debug)]
struct Entry {
    /// Leases begin in the order in which they came.
    number: u64,
    state: PayloadState,
    /// Whether the queue has not been told the state yet.
    untold: bool,
    place: Place,
    cores: u32,
    memory: u64,
    stops: mpsc::UnboundedSender<StopReason>,
}

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    /// It was told to go back before it had begun.
    Recalled,
    /// It holds a slot since then.
    Begun(Instant),
    /// Its payload is over; the result is on its way.
    Over,
}

/// What the leases take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Leases.
    pub leases: u32,
    /// Of these, those that wait for their turn.
    pub waiting: u32,
    /// Of these, those that hold a slot.
    pub slots: u32,
    /// Cores, those of leases that wait counted in.
    pub cores: u32,
    /// Memory asked for, in bytes; likewise.
    pub memory: u64,
}

/// What the whole pilot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// Payloads at the same time.
    pub slots: u32,
    /// Cores.
    pub cores: u32,
    /// Bytes; `None` when no limit is known.
    pub memory: Option<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here is consistent after every single operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Adds a lease; its reasons to stop arrive at the receiver.
    pub fn add(&self, lease: &Lease) -> mpsc::UnboundedReceiver<StopReason> {
        let (stops, receiver) = mpsc::unbounded_channel();
        let memory = lease.spec.memory.unwrap_or(0);
        let mut entries = lock(&self.entries);
        let number = entries.values().map(|entry| entry.number).max().map_or(0, |last| last + 1);
        let (state, place) = (PayloadState::Matched, Place::Waiting);
        let cores = lease.spec.cores.max(1);
        entries.insert(lease.lease, Entry { number, state, untold: false, place, cores, memory, stops });
        receiver
    }

    /// Waits until it is this lease's turn: the older ones have begun, and it fits beside what runs.
    pub async fn turn(&self, lease: Uuid, whole: Whole) {
        loop {
            let mut again = std::pin::pin!(self.turns.notified());
            // Enabled before the look, so that no end in between is missed.
            again.as_mut().enable();
            if self.begin(lease, whole) {
                return self.turns.notify_waiters();
            }
            again.await;
        }
    }

    fn begin(&self, lease: Uuid, whole: Whole) -> bool {
        let mut entries = lock(&self.entries);
        let waits = |entry: &&Entry| entry.place == Place::Waiting;
        let first = entries.values().filter(waits).map(|entry| entry.number).min();
        let begun = entries.values().filter(|entry| matches!(entry.place, Place::Begun(_)));
        let begun = begun.fold(Used::default(), plus);
        let Some(entry) = entries.get_mut(&lease) else { return false };
        let with = plus(begun, entry);
        let fits = begun.leases == 0
            || with.leases <= whole.slots
                && with.cores <= whole.cores
                && whole.memory.is_none_or(|memory| with.memory <= memory);
        if entry.place == Place::Waiting && first == Some(entry.number) && fits {
            entry.place = Place::Begun(Instant::now());
            return true;
        }
        false
    }

    /// Whether it has had its turn.
    pub fn has_begun(&self, lease: Uuid) -> bool {
        lock(&self.entries).get(&lease).is_some_and(|entry| matches!(entry.place, Place::Begun(_)))
    }

    /// The payload is over: its slot is free, though the queue has not heard of it yet.
    pub fn free_slot(&self, lease: Uuid) {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get_mut(&lease) {
            if let Place::Begun(since) = entry.place {
                lock(&self.pace).note(since.elapsed());
            }
            entry.place = Place::Over;
        }
        drop(entries);
        self.turns.notify_waiters();
        self.ended.notify_one();
    }

    /// Tells every lease that has not begun to go back, so that other pilots can take it.
    pub fn recall_waiting(&self) {
        let mut entries = lock(&self.entries);
        entries.values_mut().for_each(recall);
    }

    /// Tells one lease to go back, unless it has begun.
    pub fn recall(&self, lease: Uuid) {
        if let Some(entry) = lock(&self.entries).get_mut(&lease) {
            recall(entry);
        }
    }

    /// How many leases to hold beyond the slots.
    pub fn ahead(&self, slots: u32, heartbeat: Duration, most: u32) -> u32 {
        lock(&self.pace).ahead(slots, heartbeat, most)
    }

    /// Notes the state of a lease.
    pub fn set_state(&self, lease: Uuid, state: PayloadState) {
        if let Some(entry) = lock(&self.entries).get_mut(&lease) {
            (entry.state, entry.untold) = (state, true);
        }
        self.news.notify_one();
    }

    /// The lease is over.
    pub fn remove(&self, lease: Uuid) {
        lock(&self.entries).remove(&lease);
        *lock(&self.last_end) = Some(Instant::now());
        self.turns.notify_waiters();
        self.ended.notify_one();
    }

    /// Notes how an attempt went for the node. After a failure of the node, others get what waits here.
    pub fn note(&self, experience: Experience<'_>) {
        let mut health = lock(&self.health);
        health.0.note(experience);
        health.1 = Some(Instant::now());
        let failing = health.0.in_a_row() > 0;
        drop(health);
        if failing {
            self.recall_waiting();
        }
    }

    /// How many payloads in a row the node has failed, and how long to take none because of that.
    pub fn failures(&self) -> (u32, Duration) {
        let health = lock(&self.health);
        (health.0.in_a_row(), health.0.pause())
    }

    /// How long ago the last experience was made.
    pub fn since_failure(&self) -> Duration {
        lock(&self.health).1.map_or(Duration::MAX, |when| when.elapsed())
    }

    /// When the last lease ended; `None` if none has.
    pub fn idle_since(&self) -> Option<Instant> {
        *lock(&self.last_end)
    }

    /// Passes a reason to stop on; one about an unknown lease is about one that is over.
    pub fn stop(&self, lease: Uuid, reason: StopReason) {
        if let Some(entry) = lock(&self.entries).get(&lease) {
            entry.stops.send(reason).ok();
        }
    }

    /// Passes a reason to stop to every lease.
    pub fn stop_all(&self, reason: StopReason) {
        for entry in lock(&self.entries).values() {
            // The receiver is gone when the lease is just ending.
            entry.stops.send(reason).ok();
        }
    }

    /// For the heartbeat.
    pub fn updates(&self) -> Vec<LeaseUpdate> {
        let entries = lock(&self.entries);
        entries.iter().map(|(lease, entry)| LeaseUpdate { lease: *lease, state: entry.state }).collect()
    }

    /// The queue has heard these.
    pub fn told(&self, updates: &[LeaseUpdate]) {
        let mut entries = lock(&self.entries);
        for told in updates {
            if let Some(entry) = entries.get_mut(&told.lease).filter(|entry| entry.state == told.state) {
                entry.untold = false;
            }
        }
    }

    /// Whether the queue does not know the state of some lease yet that it has to hear of: not of one that is over, whose
    /// result says more.
    pub fn has_news(&self) -> bool {
        lock(&self.entries).values().any(|entry| entry.untold && entry.place != Place::Over)
    }

    /// What is taken.
    pub fn used(&self) -> Used {
        lock(&self.entries).values().fold(Used::default(), plus)
    }
}

fn recall(entry: &mut Entry) {
    if entry.place == Place::Waiting {
        entry.place = Place::Recalled;
        entry.stops.send(StopReason::Drain).ok();
    }
}

fn plus(sum: Used, entry: &Entry) -> Used {
    Used {
        leases: sum.leases + 1,
        waiting: sum.waiting + u32::from(entry.place == Place::Waiting),
        slots: sum.slots + u32::from(matches!(entry.place, Place::Begun(_))),
        cores: sum.cores.saturating_add(entry.cores),
        memory: sum.memory.saturating_add(entry.memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Whole = Whole { slots: 2, cores: 4, memory: Some(100) };

    fn lease(n: u128, cores: u32, memory: u64) -> Lease {
        let json = serde_json::json!({"command": ["x"], "cores": cores, "memory": memory});
        Lease {
            lease: Uuid::from_u128(n),
            attempt: Uuid::nil(),
            number: 1,
            payload: Uuid::nil(),
            owner: "/CN=u".into(),
            spec: serde_json::from_value(json).unwrap(),
            array_index: None,
            chain: None,
        }
    }

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[test]
    fn the_oldest_begins_first_and_only_what_fits() {
        let registry = Registry::default();
        // Ids say nothing about the order.
        let _stops: Vec<_> =
            [lease(9, 1, 10), lease(5, 3, 10), lease(7, 1, 80)].iter().map(|l| registry.add(l)).collect();
        assert!(!registry.begin(id(5), WHOLE), "an older one waits");
        assert!(registry.begin(id(9), WHOLE) && registry.begin(id(5), WHOLE));
        assert!(!registry.begin(id(5), WHOLE), "nothing begins twice");
        assert!(!registry.begin(id(7), WHOLE), "no slot");
        registry.free_slot(id(5));
        assert!(registry.begin(id(7), WHOLE), "a result on its way takes no slot");
        let used = registry.used();
        assert_eq!((used.leases, used.waiting, used.slots), (3, 0, 2));
    }

    #[test]
    fn cores_and_memory_hold_back_what_does_not_fit_yet() {
        let registry = Registry::default();
        let _stops: Vec<_> =
            [lease(1, 3, 0), lease(2, 2, 0), lease(3, 1, 100)].iter().map(|l| registry.add(l)).collect();
        assert!(registry.begin(id(1), WHOLE));
        assert!(!registry.begin(id(2), WHOLE) && !registry.begin(id(3), WHOLE));
        registry.remove(id(1));
        assert!(registry.begin(id(2), WHOLE) && registry.begin(id(3), WHOLE));
        let large = Registry::default();
        let _stop = large.add(&lease(4, 64, 1000));
        assert!(large.begin(id(4), WHOLE), "what the queue gives to an empty pilot is run");
    }

    #[test]
    fn what_has_not_begun_can_be_called_back_and_then_never_begins() {
        let registry = Registry::default();
        let (mut one, mut two) = (registry.add(&lease(1, 1, 0)), registry.add(&lease(2, 1, 0)));
        assert!(registry.begin(id(1), WHOLE));
        registry.recall_waiting();
        assert!(one.try_recv().is_err(), "what runs goes on");
        assert_eq!(two.try_recv().unwrap(), StopReason::Drain);
        assert!(!registry.begin(id(2), WHOLE));
        registry.recall(id(2));
        assert!(two.try_recv().is_err(), "told once");
    }

    #[test]
    fn a_failure_of_the_node_sends_back_what_waits() {
        let registry = Registry::default();
        let mut stops = registry.add(&lease(1, 1, 0));
        registry.note(Experience::Good);
        assert!(stops.try_recv().is_err());
        registry.note(Experience::Bad);
        assert_eq!(stops.try_recv().unwrap(), StopReason::Drain);
    }

    #[test]
    fn a_state_is_news_until_it_was_told_or_the_payload_is_over() {
        let registry = Registry::default();
        let _stop = registry.add(&lease(1, 1, 0));
        assert!(!registry.has_news());
        registry.set_state(id(1), PayloadState::Running);
        let updates = registry.updates();
        assert!(registry.has_news(), "the call may fail");
        registry.told(&updates);
        assert!(!registry.has_news());
        registry.set_state(id(1), PayloadState::Completing);
        registry.told(&updates);
        assert!(registry.has_news(), "an older state was told");
        registry.free_slot(id(1));
        assert!(!registry.has_news());
    }
}
