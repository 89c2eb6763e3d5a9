//! The store in one SQLite file: WAL mode, full synchronisation, one writer and several readers.

mod apply;
mod lists;
mod load;
mod lock;
mod purge;

use crate::{Filter, Key, Living, Notice, Result, Runs, Store, StoreError, Transaction};
use pilot_api::{ClaimedRun, Demand, HistoryEntry, Payload, PayloadState, Pilot, StateEvent};
use pilot_core::{Change, Need, View};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

pub use lock::Lock;
pub use purge::Finished;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// An open store.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    /// The only connection that writes. Empty after an error: what state SQLite left it in is anybody's guess.
    writer: Arc<Mutex<Option<SqliteConnection>>>,
    options: SqliteConnectOptions,
    readers: SqlitePool,
    patience: Duration,
}

impl SqliteStore {
    /// Opens or creates the file (mode 0600) and brings its schema up to date.
    ///
    /// `patience` is how long a statement waits for another process's lock.
    ///
    /// # Errors
    /// The text names the file and the reason.
    pub async fn open(file: &Path, patience: Duration) -> std::result::Result<Self, String> {
        let failed = |why: &dyn std::fmt::Display| format!("store {}: {why}", file.display());
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(file)
            .map_err(|e| failed(&e))?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            // Of effect on a new store only; `compact` brings an older one there.
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(patience)
            .statement_cache_capacity(200)
            .optimize_on_close(false, None);
        let mut writer = options.connect().await.map_err(|e| failed(&e))?;
        migrate(&mut writer).await.map_err(|e| failed(&e))?;
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(patience + Duration::from_millis(200))
            .test_before_acquire(false);
        let readers = pool.connect_with(options.clone().pragma("query_only", "ON")).await;
        let readers = readers.map_err(|e| failed(&e))?;
        Ok(Self { writer: Arc::new(Mutex::new(Some(writer))), options, readers, patience })
    }

    async fn reader(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>> {
        self.readers.acquire().await.map_err(error)
    }

    /// Writes a value, so that one knows whether writing works.
    ///
    /// # Errors
    /// What keeps the store from being written.
    pub async fn probe(&self, now: u64) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO health (id, at) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at",
        )
        .bind(int(now))
        .execute(tx.conn())
        .await
        .map_err(error)?;
        tx.commit().await
    }

    /// Copies a whole store into a new file, as it stands at one moment, whether or not a server uses it.
    ///
    /// # Errors
    /// When there is no such store, or the copy exists or cannot be written.
    pub async fn copy(from: &Path, to: &Path, patience: Duration) -> Result<()> {
        let options =
            SqliteConnectOptions::new().filename(from).busy_timeout(patience).optimize_on_close(false, None);
        let mut conn = options.connect().await.map_err(error)?;
        let copy = sqlx::query("VACUUM INTO ?").bind(to.display().to_string()).execute(&mut conn).await;
        copy.map_err(error)?;
        conn.close().await.map_err(error)
    }
}

/// Brings the schema up to date. Stores of before the migrations had a table of their own carry their version in a pragma.
async fn migrate(writer: &mut SqliteConnection) -> std::result::Result<(), String> {
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    let version: i64 =
        sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *writer).await.map_err(|e| e.to_string())?;
    let newer = |version: i64| {
        format!("schema version {version} is newer than {known}: it belongs to a newer pilot queue")
    };
    if version > known {
        return Err(newer(version));
    }
    adopt(writer, version).await.map_err(|e| e.to_string())?;
    match MIGRATIONS.run(&mut *writer).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => Err(newer(version)),
        Err(e) => Err(e.to_string()),
    }
}

/// Notes the first schema as installed where it was installed before such notes were kept.
async fn adopt(writer: &mut SqliteConnection, version: i64) -> sqlx::Result<()> {
    let kept = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    let kept: i64 = sqlx::query_scalar(kept).fetch_one(&mut *writer).await?;
    if version == 0 || kept > 0 {
        return Ok(());
    }
    let mut tx = writer.begin().await?;
    sqlx::query(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
         installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL,
         execution_time BIGINT NOT NULL)",
    )
    .execute(&mut *tx)
    .await?;
    for old in MIGRATIONS.iter().filter(|m| m.version <= version) {
        let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                      VALUES (?, ?, TRUE, ?, 0)";
        sqlx::query(insert)
            .bind(old.version)
            .bind(old.description.to_string())
            .bind(old.checksum.to_vec())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// A change under way. Whatever goes wrong closes the connection; the next change opens another.
#[derive(Debug)]
pub struct SqliteTransaction {
    home: OwnedMutexGuard<Option<SqliteConnection>>,
    conn: Option<SqliteConnection>,
}

impl SqliteTransaction {
    /// The connection; it is there until the commit.
    fn conn(&mut self) -> &mut SqliteConnection {
        match &mut self.conn {
            Some(conn) => conn,
            None => unreachable!("the connection is taken by the commit, which consumes the transaction"),
        }
    }
}

impl Transaction for SqliteTransaction {
    async fn load(&mut self, view: &mut View, need: &Need) -> Result<()> {
        load::load(self.conn(), view, need).await
    }

    async fn apply(&mut self, changes: &[Change]) -> Result<()> {
        apply::apply(self.conn(), changes).await
    }

    async fn commit(mut self) -> Result<()> {
        sqlx::query("COMMIT").execute(self.conn()).await.map_err(error)?;
        *self.home = self.conn.take();
        Ok(())
    }
}

impl Store for SqliteStore {
    type Transaction = SqliteTransaction;

    async fn begin(&self) -> Result<SqliteTransaction> {
        // A request waits as long for the writer as the writer may wait for the file, and a little more.
        let wait = self.patience + Duration::from_millis(200);
        let taken = tokio::time::timeout(wait, self.writer.clone().lock_owned()).await;
        let mut home = taken.map_err(|_| StoreError::Busy("another change takes too long".into()))?;
        let mut conn = match home.take() {
            Some(conn) => conn,
            None => self.options.connect().await.map_err(error)?,
        };
        match sqlx::query("BEGIN IMMEDIATE").execute(&mut conn).await {
            Ok(_) => Ok(SqliteTransaction { home, conn: Some(conn) }),
            Err(e) => {
                let e = error(e);
                // Nothing has begun, so nothing is left behind in it.
                if matches!(e, StoreError::Busy(_)) {
                    *home = Some(conn);
                }
                Err(e)
            }
        }
    }

    async fn load(&self, view: &mut View, need: &Need) -> Result<()> {
        load::load(&mut *self.reader().await?, view, need).await
    }

    async fn payload(&self, id: Uuid) -> Result<Option<Payload>> {
        lists::payload(&mut *self.reader().await?, id).await
    }

    async fn payloads(&self, filter: &Filter) -> Result<Vec<Payload>> {
        lists::payloads(&mut *self.reader().await?, filter).await
    }

    async fn counts(&self, owner: &str) -> Result<Vec<(PayloadState, u64)>> {
        lists::counts(&mut *self.reader().await?, owner).await
    }

    async fn history(&self, payload: Uuid) -> Result<Vec<HistoryEntry>> {
        lists::history(&mut *self.reader().await?, payload).await
    }

    async fn pilots(&self, since: u64) -> Result<Vec<Pilot>> {
        lists::pilots(&mut *self.reader().await?, since).await
    }

    async fn demand(&self) -> Result<Vec<Demand>> {
        lists::demand(&mut *self.reader().await?).await
    }

    async fn runs(&self, asked: &Runs) -> Result<Vec<ClaimedRun>> {
        lists::runs(&mut *self.reader().await?, asked).await
    }

    async fn living(&self) -> Result<Living> {
        lists::living(&mut *self.reader().await?).await
    }

    async fn events(&self, owner: &str, after: i64, window: i64) -> Result<(Vec<StateEvent>, i64)> {
        lists::events(&mut *self.reader().await?, owner, after, window).await
    }

    async fn newest(&self) -> Result<i64> {
        lists::newest(&mut *self.reader().await?).await
    }

    async fn notices(&self) -> Result<Vec<Notice>> {
        lists::notices(&mut *self.reader().await?).await
    }

    async fn key(&self, delegation: Uuid, owner: &str) -> Result<Option<Key>> {
        lists::key(&mut *self.reader().await?, delegation, owner).await
    }

    async fn key_of_payload(&self, payload: Uuid) -> Result<Option<Key>> {
        lists::key_of_payload(&mut *self.reader().await?, payload).await
    }

    async fn has_blob(&self, sha256: &str, owner: &str) -> Result<bool> {
        lists::has_blob(&mut *self.reader().await?, sha256, owner).await
    }

    async fn stored(&self, owner: &str, but: &str) -> Result<u64> {
        lists::stored(&mut *self.reader().await?, owner, but).await
    }

    async fn blob_leased(&self, sha256: &str, dn: &str) -> Result<bool> {
        lists::blob_leased(&mut *self.reader().await?, sha256, dn).await
    }

    async fn close(&self) {
        self.readers.close().await;
        if let Some(conn) = self.writer.lock().await.take() {
            // What was committed is safe in any case; closing only writes the log back.
            conn.close().await.ok();
        }
    }
}

/// Sorts SQLite's errors by what their reader can do about them (primary result codes, <https://sqlite.org/rescode.html>).
fn error(error: sqlx::Error) -> StoreError {
    let text = error.to_string();
    match &error {
        sqlx::Error::PoolTimedOut => StoreError::Busy(text),
        sqlx::Error::Database(e) => match e.code().and_then(|c| c.parse::<u32>().ok()).map(|c| c & 0xff) {
            // BUSY, LOCKED
            Some(5 | 6) => StoreError::Busy(text),
            // PERM, ABORT, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, NOLFS
            Some(3 | 4 | 7..=10 | 13..=15 | 22) => StoreError::Unavailable(text),
            // CORRUPT, NOTADB, SCHEMA, CONSTRAINT, MISMATCH and whatever else contradicts what we believe it holds
            Some(_) | None => StoreError::Damaged(text),
        },
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. } => StoreError::Damaged(text),
        _ => StoreError::Unavailable(text),
    }
}

/// SQLite's integers are signed; larger numbers are refused at the door, so nothing is cut here.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Back from the store; never negative there.
fn nat(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Back from the store, a count.
fn count(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// Reads a word or an id that the queue itself has written.
fn parse<T: FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| StoreError::Damaged(format!("value {text:?} makes no sense")))
}

/// Reads JSON that the queue itself has written.
fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| StoreError::Damaged(format!("JSON: {e}")))
}

/// Writes JSON.
fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Damaged(format!("JSON: {e}")))
}
