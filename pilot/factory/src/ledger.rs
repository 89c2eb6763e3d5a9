//! The ledger: every pilot that was ever intended, in one SQLite file, so that a restart neither forgets nor repeats one.
//!
//! An intent is on the disk before the batch system hears of it.

use crate::entry::{Entry, Outcome, State};
use batch::JobId;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long ended pilots and decisions are kept, seconds.
const KEPT: u64 = 30 * 86_400;
/// How far back failures and successes are looked at, seconds.
const HISTORY: u64 = 86_400;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite's reason.
    #[error("ledger {path}: {source}")]
    Store {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file or its lock cannot be opened.
    #[error("ledger {path}: {source}; make its directory, and let this account write there")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another factory goes by it.
    #[error("ledger {0}: another factory uses it; two would submit twice")]
    Taken(PathBuf),
    /// It holds what no factory writes.
    #[error("ledger {path}: pilot {name} makes no sense; restore the file from a backup")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which pilot.
        name: String,
    },
}

/// A line of the decision log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    /// When it was decided first, seconds since the epoch.
    pub since: u64,
    /// When it was decided last.
    pub until: u64,
    /// Site; empty for what concerns none.
    pub site: String,
    /// What and why.
    pub reason: String,
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    store: Connection,
    _lock: Option<File>,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS pilots (
        name    TEXT PRIMARY KEY,
        pilot   TEXT NOT NULL UNIQUE,
        site    TEXT NOT NULL,
        owner   TEXT NOT NULL,
        state   TEXT NOT NULL,
        job     TEXT,
        host    TEXT,
        worked  INTEGER NOT NULL,
        created INTEGER NOT NULL,
        changed INTEGER NOT NULL,
        why     TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS pilots_changed ON pilots (changed);
    CREATE TABLE IF NOT EXISTS decisions (
        id     INTEGER PRIMARY KEY AUTOINCREMENT,
        since  INTEGER NOT NULL,
        until  INTEGER NOT NULL,
        site   TEXT NOT NULL,
        reason TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS decisions_site ON decisions (site, id);
    PRAGMA user_version = 1;";

impl Ledger {
    /// Opens it for the one factory that goes by it; makes it with mode 0600 where there is none.
    ///
    /// # Errors
    /// When it cannot be used, or another factory does.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let file = |source| LedgerError::File { path: path.to_owned(), source };
        let open = |path: &Path| File::options().create(true).append(true).mode(0o600).open(path);
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = open(Path::new(&lock)).map_err(file)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::Taken(path.to_owned())),
            Err(TryLockError::Error(e)) => return Err(file(e)),
        }
        open(path).map_err(file)?;
        let this = Self::connect(path, Some(lock))?;
        let made = this.store.pragma_update(None, "journal_mode", "WAL");
        let made = made.and_then(|()| this.store.pragma_update(None, "synchronous", "FULL"));
        made.and_then(|()| this.store.execute_batch(SCHEMA)).map_err(|e| this.failed(e))?;
        Ok(this)
    }

    /// Opens it to look only, whether a factory runs or not.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn look(path: &Path) -> Result<Self, LedgerError> {
        let there = std::fs::metadata(path);
        there.map_err(|source| LedgerError::File { path: path.to_owned(), source })?;
        Self::connect(path, None)
    }

    fn connect(path: &Path, lock: Option<File>) -> Result<Self, LedgerError> {
        let opened = Connection::open(path).and_then(|store| {
            store.busy_timeout(Duration::from_secs(10))?;
            Ok(store)
        });
        match opened {
            Ok(store) => Ok(Self { path: path.to_owned(), store, _lock: lock }),
            Err(source) => Err(LedgerError::Store { path: path.to_owned(), source }),
        }
    }

    fn failed(&self, source: rusqlite::Error) -> LedgerError {
        LedgerError::Store { path: self.path.clone(), source }
    }

    /// All live pilots, and those that ended in the last day.
    ///
    /// # Errors
    /// When it cannot be read, or holds nonsense.
    pub fn entries(&self, now: u64) -> Result<Vec<Entry>, LedgerError> {
        let sql =
            "SELECT name, pilot, site, owner, state, job, host, worked, created, changed, why FROM pilots
                   WHERE state IN ('intended', 'pending', 'running') OR changed > ? ORDER BY created, name";
        let mut statement = self.store.prepare(sql).map_err(|e| self.failed(e))?;
        let rows =
            statement.query_map([int(now.saturating_sub(HISTORY))], entry).map_err(|e| self.failed(e))?;
        rows.map(|row| {
            let (name, entry) = row.map_err(|e| self.failed(e))?;
            entry.ok_or_else(|| LedgerError::Damaged { path: self.path.clone(), name })
        })
        .collect()
    }

    /// Writes pilots down, new ones and changed ones; on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written: then nothing is.
    pub fn write(&mut self, entries: &[Entry]) -> Result<(), LedgerError> {
        let written = (|| {
            let change = self.store.transaction()?;
            for e in entries {
                change.execute(
                    "INSERT OR REPLACE INTO pilots (name, pilot, site, owner, state, job, host, worked, created, changed, why)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    params![
                        e.name,
                        e.pilot.to_string(),
                        e.site,
                        e.owner,
                        e.state.as_str(),
                        e.job.as_ref().map(JobId::as_str),
                        e.host,
                        e.worked,
                        int(e.created),
                        int(e.changed),
                        e.why
                    ],
                )?;
            }
            change.commit()
        })();
        written.map_err(|e| self.failed(e))
    }

    /// Notes the decisions of a round; one that is still the same only gets a later end. Forgets what is too old.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn decided(&mut self, reasons: &[(String, String)], now: u64) -> Result<(), LedgerError> {
        let written = (|| {
            let change = self.store.transaction()?;
            for (site, reason) in reasons {
                // Of what concerns no site there may be several at a time.
                let sql = "SELECT id FROM decisions WHERE site = ?1 AND reason = ?2
                           AND (?1 = '' OR id = (SELECT max(id) FROM decisions WHERE site = ?1)) ORDER BY id DESC LIMIT 1";
                let same: Option<i64> =
                    change.query_row(sql, params![site, reason], |row| row.get(0)).optional()?;
                match same {
                    Some(id) => change
                        .execute("UPDATE decisions SET until = ? WHERE id = ?", params![int(now), id])?,
                    None => change.execute(
                        "INSERT INTO decisions (since, until, site, reason) VALUES (?1, ?1, ?2, ?3)",
                        params![int(now), site, reason],
                    )?,
                };
            }
            let old = int(now.saturating_sub(KEPT));
            change.execute("DELETE FROM decisions WHERE until < ?", [old])?;
            change.execute(
                "DELETE FROM pilots WHERE changed < ? AND state NOT IN ('intended', 'pending', 'running')",
                [old],
            )?;
            change.commit()
        })();
        written.map_err(|e| self.failed(e))
    }

    /// The latest decisions, newest last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn decisions(&self, most: u32) -> Result<Vec<Decision>, LedgerError> {
        let read = (|| {
            let sql = "SELECT since, until, site, reason FROM decisions ORDER BY until DESC, id DESC LIMIT ?";
            let mut statement = self.store.prepare(sql)?;
            let rows = statement.query_map([most], |row| {
                Ok(Decision {
                    since: nat(row, 0)?,
                    until: nat(row, 1)?,
                    site: row.get(2)?,
                    reason: row.get(3)?,
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })();
        let mut decisions = read.map_err(|e| self.failed(e))?;
        decisions.reverse();
        Ok(decisions)
    }
}

/// The name, and the pilot if the row makes sense.
fn entry(row: &Row<'_>) -> rusqlite::Result<(String, Option<Entry>)> {
    let name: String = row.get(0)?;
    let (pilot, state, job): (String, String, Option<String>) = (row.get(1)?, row.get(4)?, row.get(5)?);
    let job = job.map(|id| JobId::parse(&id).ok());
    let (Ok(pilot), Some(state), false) = (pilot.parse(), State::parse(&state), matches!(job, Some(None)))
    else {
        return Ok((name, None));
    };
    let entry = Entry {
        name: name.clone(),
        pilot,
        site: row.get(2)?,
        owner: row.get(3)?,
        state,
        job: job.flatten(),
        host: row.get(6)?,
        worked: row.get(7)?,
        created: nat(row, 8)?,
        changed: nat(row, 9)?,
        why: row.get(10)?,
    };
    Ok((name, Some(entry)))
}

fn nat(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0))
}

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// How many live pilots are in each state, for people.
pub fn counts(entries: &[Entry], site: &str) -> (usize, usize, usize) {
    let of =
        |wanted: &[State]| entries.iter().filter(|e| e.site == site && wanted.contains(&e.state)).count();
    let over = [Outcome::Worked, Outcome::Idle, Outcome::Fruitless].map(State::Ended);
    (of(&[State::Intended, State::Pending]), of(&[State::Running]), of(&over))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pilot(name: &str, state: State) -> Entry {
        Entry {
            name: name.into(),
            pilot: uuid::Uuid::now_v7(),
            site: "a".into(),
            owner: "/CN=A".into(),
            state,
            job: JobId::parse("7.server").ok(),
            host: Some("wn1".into()),
            worked: true,
            created: 1_000_000,
            changed: 1_000_000,
            why: "R".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_by_the_next_factory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.db");
        let all = [pilot("pp-1", State::Intended), pilot("pp-2", State::Ended(Outcome::Worked))];
        let mut first = Ledger::open(&path).unwrap();
        first.write(&all).unwrap();
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Taken(_))));
        assert_eq!(Ledger::look(&path).unwrap().entries(1_000_001).unwrap(), all);
        drop(first);
        let mut second = Ledger::open(&path).unwrap();
        let later = Entry { state: State::Running, ..all[0].clone() };
        second.write(std::slice::from_ref(&later)).unwrap();
        // A day later only what lives is looked at.
        assert_eq!(second.entries(1_000_000 + 2 * HISTORY).unwrap(), [later]);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        second.store.execute("UPDATE pilots SET state = 'odd'", []).unwrap();
        assert!(second.entries(0).unwrap_err().to_string().contains("pp-"));
    }

    #[test]
    fn a_decision_that_stays_the_same_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&dir.path().join("l.db")).unwrap();
        let a = |reason: &str| ("a".to_owned(), reason.to_owned());
        ledger.decided(&[a("one")], 10).unwrap();
        ledger.decided(&[a("one"), (String::new(), "none fits".into())], 20).unwrap();
        ledger.decided(&[a("two")], 30).unwrap();
        ledger.decided(&[a("one")], 40).unwrap();
        let lines: Vec<_> =
            ledger.decisions(9).unwrap().into_iter().map(|d| (d.since, d.until, d.reason)).collect();
        let line = |since, until, reason: &str| (since, until, reason.to_owned());
        let want = [line(10, 20, "one"), line(20, 20, "none fits"), line(30, 30, "two"), line(40, 40, "one")];
        assert_eq!(lines, want);
        ledger.decided(&[], 40 + KEPT + 1).unwrap();
        assert!(ledger.decisions(9).unwrap().is_empty());
    }
}
