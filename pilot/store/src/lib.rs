//! The queue's memory behind one trait, in the words of [`pilot_core`].
//!
//! For: loading what a decision needs, storing what it changes in one transaction, and listing what users ask to see.
//! Must never: decide. No condition in SQL that is a rule of the queue, no HTTP, no clock. Called by: the queue.
//!
//! | module | what |
//! |---|---|
//! | [`sqlite`] | one file, durable |
//! | [`memory`] | the same in memory: for tests, and to hold both to one suite |
#![forbid(unsafe_code)]

pub mod memory;
pub mod sqlite;

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

use pilot_api::{ClaimedRun, Demand, HistoryEntry, Payload, PayloadState, Pilot, StateEvent};
use pilot_core::{Change, Need, View};
use std::future::Future;
use uuid::Uuid;

/// Why a store cannot do what it was asked. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else keeps it: try again.
    #[error("the store is busy: {0}")]
    Busy(String),
    /// What it holds makes no sense: an operator has to look.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// It cannot be written or read now, such as on a full disk: try again when that is mended.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// What a store answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Which payloads to list, oldest first, the newest ones where there are more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whose.
    pub owner: String,
    /// In these states; all when empty.
    pub states: Vec<PayloadState>,
    /// Elements of this array only.
    pub array: Option<Uuid>,
    /// Whose id, or whose array's id, begins like this: lower case, with dashes.
    pub begins: Option<String>,
    /// Most payloads.
    pub limit: u32,
    /// Only payloads older than this one.
    pub before: Option<Uuid>,
}

/// Which ended attempts to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Ended then or later, seconds.
    pub since: u64,
    /// Ended before, seconds.
    pub until: u64,
    /// Only those whose ids are greater.
    pub after: Option<Uuid>,
    /// Most attempts.
    pub limit: u32,
}

/// Changes that a URL has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The payload.
    pub payload: Uuid,
    /// Its owner.
    pub owner: String,
    /// Where to.
    pub url: String,
    /// Attempts made so far.
    pub tries: u32,
    /// What happened up to this sequence number was told.
    pub told: i64,
}

/// A delegation with its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Private key, PEM.
    pub key: String,
    /// Chain, PEM; `None` until its owner has signed.
    pub chain: Option<String>,
    /// End of the proxy's validity, seconds.
    pub not_after: u64,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// What has to be watched after a start: id and last renewal or sign of life, milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Living {
    /// Leases in force.
    pub leases: Vec<(Uuid, u64)>,
    /// Pilots that are neither gone nor lost.
    pub pilots: Vec<(Uuid, u64)>,
}

/// A store. Loading outside a transaction sees one state, but nothing keeps it from changing afterwards.
pub trait Store: Send + Sync + 'static {
    /// A change under way.
    type Transaction: Transaction;

    /// Starts a change; only one is under way at any time, in whatever process.
    fn begin(&self) -> impl Future<Output = Result<Self::Transaction>> + Send;
    /// Adds to `view` what is needed, to look only.
    fn load(&self, view: &mut View, need: &Need) -> impl Future<Output = Result<()>> + Send;
    /// One payload with its attempts, whoever owns it.
    fn payload(&self, id: Uuid) -> impl Future<Output = Result<Option<Payload>>> + Send;
    /// Payloads as in a list: see [`Payload::listed`].
    fn payloads(&self, filter: &Filter) -> impl Future<Output = Result<Vec<Payload>>> + Send;
    /// How many payloads a user has in each state.
    fn counts(&self, owner: &str) -> impl Future<Output = Result<Vec<(PayloadState, u64)>>> + Send;
    /// The history of a payload.
    fn history(&self, payload: Uuid) -> impl Future<Output = Result<Vec<HistoryEntry>>> + Send;
    /// Pilots heard of since a time in milliseconds, newest sign of life first, 1000 at most.
    fn pilots(&self, since: u64) -> impl Future<Output = Result<Vec<Pilot>>> + Send;
    /// What waits, by user and requirements; the largest first, 10,000 at most.
    fn demand(&self) -> impl Future<Output = Result<Vec<Demand>>> + Send;
    /// What pilots told of ended attempts of all users, in the order of their ids.
    fn runs(&self, asked: &Runs) -> impl Future<Output = Result<Vec<ClaimedRun>>> + Send;
    /// What has to be watched.
    fn living(&self) -> impl Future<Output = Result<Living>> + Send;
    /// Changes of a user's payloads with sequence numbers above `after`, in their order, and the number up to which these are
    /// all: that of the newest change, or `after + window`.
    fn events(
        &self,
        owner: &str,
        after: i64,
        window: i64,
    ) -> impl Future<Output = Result<(Vec<StateEvent>, i64)>> + Send;
    /// Sequence number of the newest change of all.
    fn newest(&self) -> impl Future<Output = Result<i64>> + Send;
    /// Up to 100 notices of which something is untold, 10 of each owner at most: the least tried first.
    fn notices(&self) -> impl Future<Output = Result<Vec<Notice>>> + Send;
    /// A delegation's key, if it is this user's.
    fn key(&self, delegation: Uuid, owner: &str) -> impl Future<Output = Result<Option<Key>>> + Send;
    /// The key of a payload's delegation.
    fn key_of_payload(&self, payload: Uuid) -> impl Future<Output = Result<Option<Key>>> + Send;
    /// Whether this user has uploaded a blob.
    fn has_blob(&self, sha256: &str, owner: &str) -> impl Future<Output = Result<bool>> + Send;
    /// Bytes of all blobs that this user has uploaded, but one.
    fn stored(&self, owner: &str, but: &str) -> impl Future<Output = Result<u64>> + Send;
    /// Whether a payload that pilots of this DN have leased needs a blob.
    fn blob_leased(&self, sha256: &str, dn: &str) -> impl Future<Output = Result<bool>> + Send;
    /// Closes it; what was committed is kept.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// A change under way; dropped without [`Transaction::commit`] it leaves no trace.
pub trait Transaction: Send {
    /// Adds to `view` what is needed, as it stands with all that was applied so far.
    fn load(&mut self, view: &mut View, need: &Need) -> impl Future<Output = Result<()>> + Send;
    /// Stores changes, in order. After an error the transaction can only be dropped.
    fn apply(&mut self, changes: &[Change]) -> impl Future<Output = Result<()>> + Send;
    /// Makes everything durable.
    fn commit(self) -> impl Future<Output = Result<()>> + Send;
}
