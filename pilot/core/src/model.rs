//! What a decision may know: payloads, pilots, attempts and delegations as they stand in the store.
//!
//! Times are milliseconds since the epoch unless a field says seconds. All of it is plain data that any store can fill.

use pilot_api::{Factor, PayloadState, PilotState, RawSpec};
use uuid::Uuid;

/// The queue's rules that an operator can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How often a payload is tried when pilots or sites fail.
    pub max_attempts: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { max_attempts: 3 }
    }
}

/// What a payload asks of a pilot. Payloads with equal requirements are one row to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirements {
    /// Processor cores.
    pub cores: u32,
    /// Memory in bytes, where it names any.
    pub memory: Option<u64>,
    /// Room for its working directory in bytes, where it names any.
    pub disk: Option<u64>,
    /// Longest run in seconds, where it names any.
    pub walltime: Option<u64>,
}

impl Requirements {
    /// Those of a specification.
    pub fn of(spec: &RawSpec) -> Self {
        Self { cores: spec.cores, memory: spec.memory, disk: spec.disk, walltime: spec.walltime }
    }

    /// Writes them into a specification: what a payload may use now counts, not what it was handed in with.
    pub fn put_into(&self, spec: &mut RawSpec) {
        (spec.cores, spec.memory, spec.disk, spec.walltime) =
            (self.cores, self.memory, self.disk, self.walltime);
    }
}

/// By how much more a payload is tried again once it has reached a limit; nothing: not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retry {
    /// Memory.
    pub memory: Option<Factor>,
    /// Disk.
    pub disk: Option<Factor>,
}

impl Retry {
    /// That of a specification.
    pub fn of(spec: &RawSpec) -> Self {
        Self { memory: spec.retry_memory, disk: spec.retry_disk }
    }
}

/// The most that a pilot which takes work has; `None` where one knows no limit, or none is there to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Largest {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of disk.
    pub disk: Option<u64>,
}

/// A lease in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenLease {
    /// The secret that its holder shows.
    pub id: Uuid,
    /// The attempt.
    pub attempt: Uuid,
    /// Number of the attempt.
    pub number: u32,
    /// The holder.
    pub pilot: Uuid,
    /// Host of the holder.
    pub host: String,
    /// Last renewal; grows with each.
    pub renewed: u64,
    /// The claim that it answered, if the pilot named one.
    pub claim: Option<Uuid>,
    /// An order to cancel that the holder has not acknowledged.
    pub order: Option<Uuid>,
}

/// A payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Id.
    pub id: Uuid,
    /// Place in the queue: smaller is older.
    pub seq: i64,
    /// Subject of its owner.
    pub owner: String,
    /// State.
    pub state: PayloadState,
    /// Attempts so far; also the number of the newest.
    pub attempts: u32,
    /// How many of them ended because the pilot handed the payload back in order.
    pub returns: u32,
    /// Whether its owner wants it ended.
    pub cancel_wanted: bool,
    /// What it asks for.
    pub requirements: Requirements,
    /// What becomes of it when that was not enough.
    pub retry: Retry,
    /// Index within its array.
    pub array_index: Option<u64>,
    /// The store's key of its specification.
    pub spec: i64,
    /// URL that wants to know its end.
    pub notify: Option<String>,
    /// End of its delegated proxy, seconds.
    pub proxy_until: u64,
    /// Hosts that failed it, and until when it goes to others only, while there are any.
    pub avoid: Option<(Vec<String>, u64)>,
    /// The lease in force.
    pub lease: Option<OpenLease>,
}

/// A pilot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pilot {
    /// Id.
    pub id: Uuid,
    /// DN that it authenticated with.
    pub dn: String,
    /// Worker node.
    pub host: String,
    /// State.
    pub state: PilotState,
    /// Whether it is to take no more work.
    pub drain: bool,
    /// Payloads it can run at the same time.
    pub slots: u32,
    /// Its cores.
    pub cores: u32,
    /// Its memory in bytes.
    pub memory: Option<u64>,
    /// Its room for working directories in bytes.
    pub disk: Option<u64>,
    /// Whether its payloads run under their users' own accounts.
    pub switches: bool,
    /// Last sign of life; grows with each.
    pub seen: u64,
    /// Digest of the secret that it showed when it registered, and of its DN; none for a pilot that has shown none.
    pub secret: Option<String>,
    /// Payloads that it has leased.
    pub held: Vec<Payload>,
}

/// An attempt, open or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Id.
    pub id: Uuid,
    /// The lease under which it runs or ran.
    pub lease: Uuid,
    /// The pilot's id.
    pub pilot: Uuid,
    /// DN of the pilot.
    pub dn: String,
    /// The pilot's secret, as in [`Pilot::secret`].
    pub secret: Option<String>,
    /// Whether the pilot has reported its end.
    pub reported: bool,
    /// Its payload, while its lease is in force.
    pub payload: Option<Payload>,
}

/// A delegation as far as decisions need it; keys stay in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// Whose it is.
    pub owner: String,
    /// The request to sign, PEM; empty for those made by an older queue.
    pub csr: String,
    /// The signed chain; `None` until its owner has signed.
    pub chain: Option<String>,
    /// End of the proxy, seconds.
    pub not_after: u64,
}

/// Waiting payloads with equal requirements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The store's key.
    pub key: i64,
    /// What they ask for.
    pub requirements: Requirements,
}

/// What was submitted under an id before.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    /// By whom.
    pub owner: String,
    /// What.
    pub spec: RawSpec,
    /// First and last index.
    pub array: Option<(u64, u64)>,
    /// The payloads, in order.
    pub ids: Vec<Uuid>,
}

/// What a store has found for a [`Need`]. What was not asked for, or does not exist, is empty.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The operator's rules.
    pub terms: Terms,
    /// The payload asked for.
    pub payload: Option<Payload>,
    /// The pilot asked for.
    pub pilot: Option<Pilot>,
    /// Those of the leases asked about that the pilot has ended itself by a result.
    pub delivered: Vec<Uuid>,
    /// The attempts asked for.
    pub attempts: Vec<Attempt>,
    /// Requirements that some waiting payload has.
    pub groups: Vec<Group>,
    /// The most that any pilot has, if asked for.
    pub largest: Largest,
    /// The oldest waiting payloads of the groups asked for.
    pub waiting: Vec<Payload>,
    /// What was submitted before under the id asked for.
    pub earlier: Option<Earlier>,
    /// The delegation asked for.
    pub delegation: Option<Delegation>,
    /// Hash and length of those blobs asked for that the user has uploaded.
    pub blobs: Vec<(String, u64)>,
    /// Specifications by key.
    pub specs: Vec<(i64, RawSpec)>,
}

/// What to load before a decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Need {
    /// A payload with its lease.
    Payload(Uuid),
    /// The payload of a lease in force.
    Lease(Uuid),
    /// A pilot with what it holds, and which of these leases it has delivered.
    Pilot {
        /// Its id.
        id: Uuid,
        /// Leases that it names.
        named: Vec<Uuid>,
    },
    /// Attempts with their payloads.
    Attempts(Vec<Uuid>),
    /// All groups of waiting payloads.
    Groups,
    /// The oldest waiting payloads of some groups.
    Waiting {
        /// Keys of the groups.
        groups: Vec<i64>,
        /// Most per group.
        limit: u32,
        /// The claiming pilot's host.
        host: String,
        /// Leave out those that this host has failed and that avoid it at this time, if a live pilot takes work on a host that
        /// has not failed them.
        now: u64,
    },
    /// A submission under this id, its delegation, and which of these blobs its owner has uploaded.
    Submission {
        /// The id.
        id: Uuid,
        /// The submitting user.
        owner: String,
        /// The delegation.
        delegation: Uuid,
        /// Hashes.
        blobs: Vec<String>,
    },
    /// A delegation.
    Delegation(Uuid),
    /// The most that a pilot which takes work has.
    Largest,
    /// Specifications by their keys.
    Specs(Vec<i64>),
}
