//! Who has which record already: for each destination and record whether it was taken, so that it goes there once.
//!
//! The ledger is no copy of anything: without it records would be sent again. So it stands in a file of its own, and is synced
//! before a message goes out and after it was taken.

use crate::store::journal::Head;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS sent (
    dest TEXT NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL, message TEXT,
    tries INTEGER NOT NULL DEFAULT 0, error TEXT, changed_ns INTEGER NOT NULL,
    PRIMARY KEY (dest, id)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sent_message ON sent (dest, message) WHERE message IS NOT NULL;
    CREATE TABLE IF NOT EXISTS forwarded (
    dest TEXT PRIMARY KEY, n INTEGER NOT NULL, sha256 TEXT NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID;";

/// How far a record has come on its way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In a message that may have gone out.
    Sending,
    /// It could not be sent; it will be tried again.
    Pending,
    /// The destination has it.
    Acked,
    /// The destination will never take it as it is.
    Rejected,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Pending => "pending",
            Self::Acked => "acked",
            Self::Rejected => "rejected",
        }
    }
}

/// The ledger of a store.
pub struct Ledger(Connection);

impl Ledger {
    /// Opens or makes it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
        db.execute_batch(SCHEMA)?;
        Ok(Self(db))
    }

    /// Whether a record still has to go to a destination: neither taken nor refused for good, nor in a message.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn is_due(&self, dest: &str, id: &str) -> rusqlite::Result<bool> {
        let mut question = self.0.prepare_cached("SELECT state FROM sent WHERE dest = ?1 AND id = ?2")?;
        let state: Option<String> = question.query_row([dest, id], |row| row.get(0)).optional()?;
        Ok(state.is_none_or(|state| state == State::Pending.name()))
    }

    /// Messages that may have gone out, with the records in each.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn sending(&self, dest: &str) -> rusqlite::Result<Vec<(String, Vec<String>)>> {
        let sql = "SELECT message, id FROM sent WHERE dest = ?1 AND state = 'sending' ORDER BY message, id";
        let mut question = self.0.prepare(sql)?;
        let rows =
            question.query_map([dest], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let mut messages: Vec<(String, Vec<String>)> = Vec::new();
        for row in rows {
            let (message, id) = row?;
            match messages.last_mut().filter(|(last, _)| *last == message) {
                Some((_, ids)) => ids.push(id),
                None => messages.push((message, vec![id])),
            }
        }
        Ok(messages)
    }

    /// Notes what became of records, all or none.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn note(
        &mut self,
        dest: &str,
        ids: &[String],
        state: State,
        message: Option<&str>,
        error: Option<&str>,
        now_unix_ns: u64,
    ) -> rusqlite::Result<()> {
        const SQL: &str = "INSERT INTO sent VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6) ON CONFLICT DO UPDATE SET
            state = ?3, message = coalesce(?4, message), tries = tries + 1, error = ?5, changed_ns = ?6";
        let now = i64::try_from(now_unix_ns).unwrap_or(i64::MAX);
        let change = self.0.transaction()?;
        for id in ids {
            change.prepare_cached(SQL)?.execute(params![dest, id, state.name(), message, error, now])?;
        }
        change.commit()
    }

    /// Up to which seal of the store a site's server has answered for every record; the beginning when it never has.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forwarded(&self, dest: &str) -> rusqlite::Result<Head> {
        let mut question = self.0.prepare_cached("SELECT n, sha256, day FROM forwarded WHERE dest = ?1")?;
        let head = |row: &rusqlite::Row<'_>| {
            let n = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
            Ok(Head { n, sha256: row.get(1)?, day: row.get(2)? })
        };
        Ok(question.query_row([dest], head).optional()?.unwrap_or_default())
    }

    /// Notes that seal.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn note_forwarded(&mut self, dest: &str, head: &Head) -> rusqlite::Result<()> {
        let n = i64::try_from(head.n).unwrap_or(i64::MAX);
        let mut note = self.0.prepare_cached("INSERT OR REPLACE INTO forwarded VALUES (?1, ?2, ?3, ?4)")?;
        note.execute(params![dest, n, head.sha256, head.day]).map(|_| ())
    }

    /// How many records of a destination are in a state.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn count(&self, dest: &str, state: State) -> rusqlite::Result<u64> {
        let sql = "SELECT count(*) FROM sent WHERE dest = ?1 AND state = ?2";
        let count: i64 = self.0.query_row(sql, [dest, state.name()], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}
