//! The leases that the agent holds, shared between the tasks that claim, renew and work.

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
    /// Something changed that the queue should hear of.
    pub news: Notify,
    /// A lease has ended: there is room.
    pub ended: Notify,
}

#[derive(Debug)]
struct Entry {
    state: PayloadState,
    cores: u32,
    memory: u64,
    stops: mpsc::UnboundedSender<StopReason>,
}

/// What the leases take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Leases.
    pub leases: u32,
    /// Cores.
    pub cores: u32,
    /// Memory asked for, in bytes.
    pub memory: u64,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Entry>> {
        // The map is consistent after every single operation.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lease; its reasons to stop arrive at the receiver.
    pub fn add(&self, lease: &Lease) -> mpsc::UnboundedReceiver<StopReason> {
        let (stops, receiver) = mpsc::unbounded_channel();
        let memory = lease.spec.memory.unwrap_or(0);
        let entry = Entry { state: PayloadState::Matched, cores: lease.spec.cores.max(1), memory, stops };
        self.lock().insert(lease.lease, entry);
        receiver
    }

    /// Notes the state of a lease.
    pub fn set_state(&self, lease: Uuid, state: PayloadState) {
        if let Some(entry) = self.lock().get_mut(&lease) {
            entry.state = state;
        }
        self.news.notify_one();
    }

    /// The lease is over.
    pub fn remove(&self, lease: Uuid) {
        self.lock().remove(&lease);
        *self.last_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.ended.notify_one();
    }

    /// Notes how an attempt went for the node.
    pub fn note(&self, experience: Experience<'_>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.0.note(experience);
        health.1 = Some(Instant::now());
    }

    /// How many payloads in a row the node has failed, and how long to take none because of that.
    pub fn failures(&self) -> (u32, Duration) {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        (health.0.in_a_row(), health.0.pause())
    }

    /// How long ago the last experience was made.
    pub fn since_failure(&self) -> Duration {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.1.map_or(Duration::MAX, |when| when.elapsed())
    }

    /// When the last lease ended; `None` if none has.
    pub fn idle_since(&self) -> Option<Instant> {
        *self.last_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a reason to stop on; one about an unknown lease is about one that is over.
    pub fn stop(&self, lease: Uuid, reason: StopReason) {
        if let Some(entry) = self.lock().get(&lease) {
            entry.stops.send(reason).ok();
        }
    }

    /// Passes a reason to stop to every lease.
    pub fn stop_all(&self, reason: StopReason) {
        for entry in self.lock().values() {
            // The receiver is gone when the lease is just ending.
            entry.stops.send(reason).ok();
        }
    }

    /// For the heartbeat.
    pub fn updates(&self) -> Vec<LeaseUpdate> {
        self.lock().iter().map(|(lease, entry)| LeaseUpdate { lease: *lease, state: entry.state }).collect()
    }

    /// What is taken.
    pub fn used(&self) -> Used {
        self.lock().values().fold(Used::default(), |sum, entry| Used {
            leases: sum.leases + 1,
            cores: sum.cores.saturating_add(entry.cores),
            memory: sum.memory.saturating_add(entry.memory),
        })
    }
}
