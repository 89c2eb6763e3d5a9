//! The leases that the agent holds, shared between the tasks that claim, renew and work.

use super::lease::Wish;
use pilot_api::{Lease, LeaseUpdate, PayloadState};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

/// All leases held.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<BTreeMap<Uuid, Entry>>,
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
    wishes: mpsc::UnboundedSender<Wish>,
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

    /// Adds a lease; its wishes arrive at the receiver.
    pub fn add(&self, lease: &Lease) -> mpsc::UnboundedReceiver<Wish> {
        let (wishes, receiver) = mpsc::unbounded_channel();
        let memory = lease.spec.memory.unwrap_or(0);
        let entry = Entry { state: PayloadState::Matched, cores: lease.spec.cores.max(1), memory, wishes };
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
        self.ended.notify_one();
    }

    /// Passes a wish on; one about an unknown lease is about one that is over.
    pub fn wish(&self, lease: Uuid, wish: Wish) {
        if let Some(entry) = self.lock().get(&lease) {
            entry.wishes.send(wish).ok();
        }
    }

    /// Passes a wish to every lease.
    pub fn wish_all(&self, wish: Wish) {
        for entry in self.lock().values() {
            // The receiver is gone when the lease is just ending.
            entry.wishes.send(wish).ok();
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
