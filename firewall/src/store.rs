//! What was opened, and by whom: it outlives the service.

use crate::openings::Opening;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The openings of a job, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The job.
    pub job: String,
    /// Its owner, as the batch system had it when the first opening was made.
    pub owner: String,
    /// In the order in which they were made.
    pub openings: Vec<Opening>,
}

/// A line of the audit trail.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The job.
    pub job: &'a str,
    /// Who wanted it: a login, or `gridfw` itself.
    pub who: &'a str,
    /// `open`, `close` or `end`.
    pub what: &'a str,
    /// Why.
    pub why: &'a str,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(String);

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

/// Keeps openings. A change and its line in the audit trail are kept together or not at all.
pub trait Store: Send + Sync {
    /// Everything that is open.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&self) -> Result<Vec<Held>, StoreError>;
    /// Adds openings to a job.
    ///
    /// # Errors
    /// When nothing was kept.
    fn add(&self, owner: &str, openings: &[Opening], entry: Entry<'_>) -> Result<(), StoreError>;
    /// Takes these openings of a job away.
    ///
    /// # Errors
    /// When they are still there.
    fn remove(&self, openings: &[Opening], entry: Entry<'_>) -> Result<(), StoreError>;
    /// Lines of the audit trail, the newest first, of one job or of all.
    ///
    /// # Errors
    /// When it cannot be read.
    fn trail(&self, job: Option<&str>, most: usize) -> Result<Vec<Value>, StoreError>;
}

/// A store in a file.
#[derive(Debug)]
pub struct Sqlite(Mutex<Connection>);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS opening (id INTEGER PRIMARY KEY, job TEXT NOT NULL, owner TEXT NOT NULL, at TEXT NOT NULL,
        opening TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS opening_job ON opening (job);
    CREATE TABLE IF NOT EXISTS trail (id INTEGER PRIMARY KEY, at TEXT NOT NULL, job TEXT NOT NULL, who TEXT NOT NULL,
        what TEXT NOT NULL, why TEXT NOT NULL, openings TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS trail_job ON trail (job);";

impl Sqlite {
    /// Opens the file, and makes it when there is none.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed =
            |e: rusqlite::Error| StoreError(format!("{}: {e}; let this account write there", path.display()));
        let connection = Connection::open(path).map_err(failed)?;
        // A power cut may not forget an opening that a firewall has, nor an audit line.
        let pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=10000;";
        connection.execute_batch(pragmas).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        Ok(Self(Mutex::new(connection)))
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn note(connection: &Connection, entry: Entry<'_>, openings: &[Value]) -> rusqlite::Result<()> {
    let Entry { job, who, what, why } = entry;
    let openings = Value::from(openings.to_vec()).to_string();
    connection
        .prepare_cached("INSERT INTO trail (at, job, who, what, why, openings) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![now(), job, who, what, why, openings])?;
    Ok(())
}

impl Store for Sqlite {
    fn load(&self) -> Result<Vec<Held>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT job, owner, opening FROM opening ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
        let mut all: Vec<Held> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for row in rows {
            let (job, owner, text): (String, String, String) = row?;
            let damaged = |e: String| {
                StoreError(format!(
                    "an opening of job {job} is damaged: {e}; {}",
                    crate::openings::cut(&text)
                ))
            };
            let value: Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
            let opening = Opening::from_json(&value).map_err(|e| damaged(e.to_string()))?;
            let place = *places.entry(job.clone()).or_insert_with(|| {
                all.push(Held { job, owner, openings: Vec::new() });
                all.len() - 1
            });
            all[place].openings.push(opening);
        }
        Ok(all)
    }

    fn add(&self, owner: &str, openings: &[Opening], entry: Entry<'_>) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let shown: Vec<Value> = openings.iter().map(Opening::to_json).collect();
        for opening in &shown {
            transaction
                .prepare_cached("INSERT INTO opening (job, owner, at, opening) VALUES (?, ?, ?, ?)")?
                .execute(params![entry.job, owner, now(), opening.to_string()])?;
        }
        note(&transaction, entry, &shown)?;
        Ok(transaction.commit()?)
    }

    fn remove(&self, openings: &[Opening], entry: Entry<'_>) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let shown: Vec<Value> = openings.iter().map(Opening::to_json).collect();
        for opening in &shown {
            transaction
                .prepare_cached("DELETE FROM opening WHERE job = ? AND opening = ?")?
                .execute(params![entry.job, opening.to_string()])?;
        }
        note(&transaction, entry, &shown)?;
        Ok(transaction.commit()?)
    }

    fn trail(&self, job: Option<&str>, most: usize) -> Result<Vec<Value>, StoreError> {
        let connection = self.connection();
        let text = "SELECT at, job, who, what, why, openings FROM trail WHERE ?1 IS NULL OR job = ?1 ORDER BY id DESC LIMIT ?2";
        let mut statement = connection.prepare(text)?;
        let rows = statement.query_map(params![job, i64::try_from(most).unwrap_or(i64::MAX)], |row| {
            let openings: String = row.get(5)?;
            let openings: Value = serde_json::from_str(&openings).unwrap_or(Value::Null);
            let text = |n| row.get::<_, String>(n);
            Ok(json!({"at": text(0)?, "job": text(1)?, "who": text(2)?, "what": text(3)?, "why": text(4)?, "openings": openings}))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gridfw.db");
        let opening = |port: u16| Opening::from_json(&json!({"addr": "2001:db8::1", "port": port})).unwrap();
        let entry = |job, what| Entry { job, who: "alice", what, why: "asked" };
        let store = Sqlite::open(&path).unwrap();
        store.add("alice", &[opening(22), opening(23)], entry("7", "open")).unwrap();
        store.add("bob", &[opening(24)], entry("8", "open")).unwrap();
        store.add("alice", &[opening(25)], entry("7", "open")).unwrap();
        drop(store);
        let store = Sqlite::open(&path).unwrap();
        let all = store.load().unwrap();
        assert_eq!(
            all.iter().map(|h| (&*h.job, &*h.owner, h.openings.len())).collect::<Vec<_>>(),
            [("7", "alice", 3), ("8", "bob", 1)]
        );
        store.remove(&[opening(23)], entry("7", "close")).unwrap();
        assert_eq!(store.load().unwrap()[0].openings, [opening(22), opening(25)]);
        store.remove(&[opening(22), opening(25)], entry("7", "close")).unwrap();
        assert_eq!(store.load().unwrap().len(), 1);
        let trail = store.trail(Some("7"), 10).unwrap();
        assert_eq!(trail.len(), 4);
        assert_eq!(
            (&trail[0]["what"], &trail[0]["who"], trail[3]["openings"].as_array().unwrap().len()),
            (&json!("close"), &json!("alice"), 2)
        );
        assert_eq!(store.trail(None, 2).unwrap().len(), 2);
    }

    #[test]
    fn a_damaged_opening_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&dir.path().join("x")).unwrap();
        store
            .connection()
            .execute("INSERT INTO opening (job, owner, at, opening) VALUES ('7', 'a', '', '{}')", [])
            .unwrap();
        assert!(store.load().unwrap_err().to_string().contains("job 7 is damaged"));
        assert!(Sqlite::open(Path::new("/proc/none/x")).is_err());
    }
}
