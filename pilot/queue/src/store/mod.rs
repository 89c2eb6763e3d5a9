//! The queue's memory: one SQLite file in WAL mode with full synchronisation, one writer and several readers.
//!
//! | module | tables |
//! |---|---|
//! | [`payloads`] | payloads, specs, events, notices: submit, look up, carry out a [`Step`](pilot_core::rules::Step) |
//! | [`leases`] | attempts, leases, wishes: claim, renew, end, expire |
//! | [`pilots`] | pilots |
//! | [`delegations`] | delegations, blobs |
//!
//! Every change goes through a [`Tx`]; what must happen only after its commit is collected in the [`Outbox`].

pub mod delegations;
pub mod leases;
pub mod payloads;
pub mod pilots;

use crate::problem;
use crate::problem::Refusal;
use pilot_api::PayloadState;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use uuid::Uuid;

/// Scripts that lead from one `PRAGMA user_version` to the next.
const MIGRATIONS: &[&str] = &[include_str!("001.sql")];

/// An open store.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens or creates the file (mode 0600) and brings its schema up to date.
    ///
    /// `patience` is how long a statement waits for another process's lock. Errors name the file and the reason.
    pub async fn open(file: &Path, patience: Duration) -> anyhow::Result<Self> {
        use anyhow::Context;
        let place = || format!("store {}", file.display());
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(file)
            .with_context(place)?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(patience)
            .optimize_on_close(false, None);
        // A request waits as long for the writer as the writer may wait for the file, and a little more.
        let pool = |n| {
            let wait = patience + Duration::from_millis(200);
            SqlitePoolOptions::new().max_connections(n).acquire_timeout(wait).test_before_acquire(false)
        };
        let writer = pool(1).connect_with(options.clone()).await.with_context(place)?;
        migrate(&writer).await.with_context(place)?;
        let readers = pool(4).connect_with(options.pragma("query_only", "ON")).await.with_context(place)?;
        Ok(Self { writer, readers })
    }

    /// Starts a change. Only one is under way at any time.
    pub async fn begin(&self) -> Result<Tx, Refusal> {
        let inner = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx { inner, outbox: Outbox::default() })
    }

    /// A connection that cannot write.
    pub async fn read(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>, Refusal> {
        Ok(self.readers.acquire().await?)
    }

    /// Writes everything back and closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn migrate(writer: &SqlitePool) -> anyhow::Result<()> {
    let version = sqlx::query_scalar::<_, i64>("PRAGMA user_version").fetch_one(writer).await?;
    let done = usize::try_from(version)?;
    if done > MIGRATIONS.len() {
        let known = MIGRATIONS.len();
        anyhow::bail!("schema version {version} is newer than {known}: it belongs to a newer pilot queue");
    }
    for (number, script) in MIGRATIONS.iter().enumerate().skip(done) {
        let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(script).execute(&mut *tx).await?;
        sqlx::raw_sql(&format!("PRAGMA user_version = {}", number + 1)).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// A change under way; dropped without [`Tx::commit`] it leaves no trace.
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Sqlite>,
    /// What to do after the commit.
    pub outbox: Outbox,
}

impl Tx {
    /// The connection to run statements on.
    pub fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }

    /// Makes the change durable and hands out what is to be done now.
    pub async fn commit(self) -> Result<Outbox, Refusal> {
        self.inner.commit().await?;
        Ok(self.outbox)
    }
}

/// What happened in a change, for those who wait and for the log.
#[derive(Debug, Default)]
#[must_use]
pub struct Outbox {
    /// There is work to claim.
    pub work: bool,
    /// Some payload is final and wants its URL told.
    pub notices: bool,
    /// Payloads that changed.
    pub payloads: Vec<Uuid>,
    /// Pilots for which there is news.
    pub pilots: Vec<Uuid>,
    /// Leases that were given.
    pub opened: Vec<Uuid>,
    /// Leases that are over.
    pub closed: Vec<Uuid>,
    /// Lines for the log.
    pub lines: Vec<Line>,
}

/// A change of a payload, as logged.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Line {
    pub payload: Uuid,
    pub attempt: Option<Uuid>,
    pub actor: String,
    pub state: PayloadState,
    pub cause: String,
}

/// SQLite's integers are signed; larger numbers are refused at the door, so nothing is cut here.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Back from the store; never negative there.
pub(crate) fn nat(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Back from the store, a count.
pub(crate) fn count(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// Reads a word or an id that the queue itself has written.
pub(crate) fn parse<T: FromStr>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| problem::internal("the store", &format!("damaged value {text:?}")))
}

/// Reads JSON that the queue itself has written.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|e| problem::internal("the store", &e))
}

/// Writes JSON.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(|e| problem::internal("JSON", &e))
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
