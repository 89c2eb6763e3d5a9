//! The index when a reduced day file takes the place of a whole one.

use super::index::{DAY_NS, Index};
use super::journal::{Head, Place};
use super::row::Row;
use record::Record;
use rusqlite::params;

/// As `Index::add` would have come to.
const SUMS_OF_A_DAY: &str = "INSERT INTO day_sum
    SELECT ?1, role, state = 3, coalesce(vo, 0), coalesce(dn, 0), coalesce(account, 0), coalesce(pilot, 0),
           sum(state <> 3), sum(state = 3), sum(state = 2), sum(state <> 3 AND exit IS NOT NULL AND exit <> 0),
           sum(wall_us), sum(wall_us * cpus), sum(cpu_us), max(mem_bytes)
    FROM session WHERE end_ns >= ?2 AND end_ns < ?3 GROUP BY 2, 3, 4, 5, 6, 7";

/// Names of persons, accounts and pilots that no record has any more.
const UNNAMED: &str =
    "DELETE FROM name WHERE kind = 2 AND id NOT IN (SELECT dn FROM session WHERE dn IS NOT NULL);
    DELETE FROM name WHERE kind = 4 AND id NOT IN (SELECT fqans FROM session WHERE fqans IS NOT NULL);
    DELETE FROM name WHERE kind = 5 AND id NOT IN (SELECT account FROM session WHERE account IS NOT NULL);
    DELETE FROM name WHERE kind = 6 AND id NOT IN (SELECT pilot FROM session WHERE pilot IS NOT NULL);";

impl Index {
    /// Puts the records of a reduced file in the place of those of the file before, in one transaction; sums of the days on which they
    /// ended are made again, and texts that no row names any more are deleted.
    ///
    /// # Errors
    /// What SQLite says; then nothing is changed.
    pub fn replace(&mut self, old: u32, records: &[(Record, Head, Place)]) -> rusqlite::Result<()> {
        // What is deleted is overwritten.
        self.db.execute_batch("PRAGMA secure_delete = ON; BEGIN IMMEDIATE")?;
        let done = self.replace_all(old, records);
        self.names.clear();
        match done {
            Ok(()) => self.db.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)"),
            Err(error) => {
                self.db.execute_batch("ROLLBACK")?;
                Err(error)
            }
        }
    }

    fn replace_all(&mut self, old: u32, records: &[(Record, Head, Place)]) -> rusqlite::Result<()> {
        let days: Vec<i64> = {
            let sql = "SELECT DISTINCT end_ns / ?2 FROM session WHERE day = ?1";
            let mut ask = self.db.prepare(sql)?;
            let days = ask.query_map(params![old, DAY_NS], |row| row.get(0))?;
            days.collect::<rusqlite::Result<_>>()?
        };
        self.db.execute("DELETE FROM session WHERE day = ?1", [old])?;
        for (record, head, place) in records {
            let row = Row::of(record, head, *place);
            let mut names = [None; 10];
            for (slot, (kind, text)) in names.iter_mut().zip(&row.texts) {
                *slot = text.as_deref().map(|text| self.name(*kind, text)).transpose()?;
            }
            self.insert(&row, &names)?;
        }
        for day in days {
            self.db.execute("DELETE FROM day_sum WHERE day = ?1", [day])?;
            self.db.execute(
                SUMS_OF_A_DAY,
                params![day, day.saturating_mul(DAY_NS), (day + 1).saturating_mul(DAY_NS)],
            )?;
        }
        self.db.execute_batch(UNNAMED)
    }
}
