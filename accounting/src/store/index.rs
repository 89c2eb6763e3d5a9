//! The index in SQLite. Everything that it holds can be made again from the day files.

use super::journal::{Head, Place};
use super::row::{Kind, Row, cred_range, id_bytes, id_text, int, role_number, state_number};
use crate::filter::{self, Decision, Filter};
use crate::sum::{Groups, Key, Sums};
use record::{Record, State};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row as SqlRow, params, params_from_iter};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const SCHEMA: &str = include_str!("schema.sql");
/// Of the schema; an index of another version is made again.
const VERSION: i64 = 2;
pub(super) const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// The index.
pub struct Index {
    pub(super) db: Connection,
    pub(super) names: HashMap<(Kind, String), i64>,
}

/// Where a page of records ended: start (nanoseconds since the epoch) and number of its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    start_ns: i64,
    n: i64,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.start_ns, self.n)
    }
}

impl std::str::FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('.').and_then(|(start, n)| Some((start.parse().ok()?, n.parse().ok()?)));
        let (start_ns, n) = parts.ok_or("take the cursor from \"next\" of the page before, as it is")?;
        Ok(Self { start_ns, n })
    }
}

/// Conditions in SQL, and whether they say all that the filter says.
struct Conditions {
    sql: Vec<String>,
    values: Vec<Value>,
    exact: bool,
}

impl Index {
    /// Opens an index for reading.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        db.execute_batch("PRAGMA query_only = 1; PRAGMA mmap_size = 268435456;")?;
        Ok(Self { db, names: HashMap::new() })
    }

    /// Opens an index for writing; one that is not there, or of another version, is made.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn create(path: &Path) -> rusqlite::Result<Self> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        // What a power cut takes back here still stands in the day files.
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -262144;",
        )?;
        db.set_prepared_statement_cache_capacity(64);
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != VERSION {
            let change = db.transaction()?;
            for table in ["meta", "name", "session", "day_sum"] {
                change.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
            }
            change.execute_batch(SCHEMA)?;
            change.pragma_update(None, "user_version", VERSION)?;
            change.commit()?;
        }
        Ok(Self { db, names: HashMap::new() })
    }

    /// The last seal that is indexed.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn head(&self) -> rusqlite::Result<Head> {
        let value = |key: &str| {
            self.db
                .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get::<_, Value>(0))
                .optional()
        };
        let number = |found: Option<Value>| match found {
            Some(Value::Integer(n)) => u64::try_from(n).unwrap_or(0),
            _ => 0,
        };
        let (n, day) = (number(value("n")?), number(value("day")?));
        let Some(Value::Text(sha256)) = value("sha256")? else { return Ok(Head::default()) };
        Ok(Head { n, sha256, day: u32::try_from(day).unwrap_or(0) })
    }

    /// Adds sealed records, in one transaction.
    ///
    /// # Errors
    /// What SQLite says; then none is added.
    pub fn add(&mut self, records: &[(&Record, Head, Place)]) -> rusqlite::Result<()> {
        let Some((_, last, _)) = records.last() else { return Ok(()) };
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let added = self.add_all(records).and_then(|()| self.note_head(last));
        match added {
            Ok(()) => self.db.execute_batch("COMMIT"),
            Err(error) => {
                // Names that were just given are taken back, too.
                self.names.clear();
                self.db.execute_batch("ROLLBACK")?;
                Err(error)
            }
        }
    }

    fn add_all(&mut self, records: &[(&Record, Head, Place)]) -> rusqlite::Result<()> {
        let mut days: BTreeMap<[i64; 7], Sums> = BTreeMap::new();
        for (record, head, place) in records {
            let row = Row::of(record, head, *place);
            let mut names = [None; 10];
            for (slot, (kind, text)) in names.iter_mut().zip(&row.texts) {
                *slot = text.as_deref().map(|text| self.name(*kind, text)).transpose()?;
            }
            self.insert(&row, &names)?;
            let denied = i64::from(record.state == State::Denied);
            let [_, dn, vo, _, account, pilot, ..] = names.map(|name| name.unwrap_or(0));
            let day = row.end.div_euclid(DAY_NS);
            days.entry([day, row.role, denied, vo, dn, account, pilot]).or_default().add(&Sums::of(record));
        }
        days.iter().try_for_each(|(key, sums)| self.add_to_day(key, sums))
    }

    pub(super) fn insert(&self, row: &Row, names: &[Option<i64>; 10]) -> rusqlite::Result<()> {
        const SQL: &str = "INSERT INTO session VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,\
                           ?18,?19,?20,?21,?22,?23,?24,?25,?26,?27)";
        let [host, dn, vo, fqans, account, pilot, batch, parent, ce, reason] = names;
        self.db.prepare_cached(SQL)?.execute(params![
            row.n,
            row.id,
            row.tail,
            row.place.day,
            int(row.place.offset),
            int(row.place.length),
            row.state,
            row.role,
            row.start,
            row.end,
            row.uid,
            row.cred,
            row.exit,
            row.wall_us,
            row.cpu_us,
            row.cpus,
            row.mem,
            host,
            dn,
            vo,
            fqans,
            account,
            pilot,
            batch,
            parent,
            ce,
            reason
        ])?;
        Ok(())
    }

    fn add_to_day(&self, key: &[i64; 7], sums: &Sums) -> rusqlite::Result<()> {
        const SQL: &str = "INSERT INTO day_sum VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)
            ON CONFLICT DO UPDATE SET jobs = jobs + ?8, refused = refused + ?9, lost = lost + ?10,
            failed = failed + ?11, wall_us = wall_us + ?12, core_us = core_us + ?13, cpu_us = cpu_us + ?14,
            mem_max = max(mem_max, ?15)";
        let counted = [sums.jobs, sums.denied, sums.lost, sums.failed];
        let used = [sums.wall_us, sums.core_us, sums.cpu_us, sums.mem_max_bytes];
        let values = key.iter().copied().chain(counted.into_iter().chain(used).map(int));
        self.db.prepare_cached(SQL)?.execute(params_from_iter(values))?;
        Ok(())
    }

    fn note_head(&self, head: &Head) -> rusqlite::Result<()> {
        let mut note = self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
        note.execute(params!["n", int(head.n)])?;
        note.execute(params!["day", head.day])?;
        note.execute(params!["sha256", head.sha256])?;
        Ok(())
    }

    /// The number of a text; it gets one when it has none.
    pub(super) fn name(&mut self, kind: Kind, text: &str) -> rusqlite::Result<i64> {
        /// Beyond it those that come up again are read again.
        const MOST: usize = 200_000;
        let key = (kind, text.to_owned());
        if let Some(id) = self.names.get(&key) {
            return Ok(*id);
        }
        let found = self
            .db
            .prepare_cached("SELECT id FROM name WHERE kind = ?1 AND text = ?2")?
            .query_row(params![kind as i64, text], |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => {
                let mut insert = self.db.prepare_cached("INSERT INTO name (kind, text) VALUES (?1, ?2)")?;
                insert.insert(params![kind as i64, text])?
            }
        };
        if self.names.len() >= MOST {
            self.names.clear();
        }
        self.names.insert(key, id);
        Ok(id)
    }

    /// Where a record stands.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn place(&self, id: &str) -> rusqlite::Result<Option<Place>> {
        let mut question = self.db.prepare_cached("SELECT day, offset, length FROM session WHERE id = ?1")?;
        question.query_row([id_bytes(id)], |row| place(row, 0)).optional()
    }

    /// Ids that begin or end with a text, at most a hundred.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn ids(&self, part: &str) -> rusqlite::Result<Vec<String>> {
        let mut ids = Vec::new();
        let mut ask = |sql: &str, values: Vec<Value>| -> rusqlite::Result<()> {
            let mut question = self.db.prepare(&format!("SELECT id FROM session WHERE {sql} LIMIT 100"))?;
            let found = question.query_map(params_from_iter(values), |row| row.get::<_, Vec<u8>>(0))?;
            for id in found {
                ids.push(id_text(&id?));
            }
            Ok(())
        };
        let hex: String = part.chars().filter(|c| *c != '-').collect();
        let blob = |fill: &str| {
            let padded = hex.clone() + &fill.repeat(32_usize.saturating_sub(hex.len()));
            (0..16)
                .map(|i| u8::from_str_radix(padded.get(2 * i..2 * i + 2)?, 16).ok())
                .collect::<Option<Vec<u8>>>()
        };
        if let (Some(low), Some(high)) = (blob("0"), blob("f")) {
            ask("id BETWEEN ?1 AND ?2", vec![Value::Blob(low), Value::Blob(high)])?;
        }
        match super::row::tail(&format!("{:0>8}", part)).filter(|_| part.len() >= 8) {
            Some(tail) => ask("tail = ?1", vec![Value::Integer(tail)])?,
            None if hex.len() == part.len() => {
                ask("lower(hex(id)) LIKE '%' || ?1", vec![Value::Text(hex.clone())])?;
            }
            None => {}
        }
        ask("id = ?1", vec![Value::Blob(part.as_bytes().to_vec())])?;
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| id.starts_with(part) || id.ends_with(part));
        Ok(ids)
    }

    /// Where those records stand that may be meant by a filter, oldest first: all that are, and perhaps some more.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn candidates(&self, filter: &Filter) -> rusqlite::Result<Vec<(String, Place)>> {
        let conditions = self.conditions(filter)?;
        let sql = format!(
            "SELECT id, day, offset, length FROM session WHERE {} ORDER BY start_ns, n",
            conditions.text()
        );
        let mut question = self.db.prepare(&sql)?;
        let found = question.query_map(params_from_iter(conditions.values), |row| {
            Ok((id_text(&row.get::<_, Vec<u8>>(0)?), place(row, 1)?))
        })?;
        found.collect()
    }

    /// The same, page by page: at most `most` behind a place.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn page(
        &self,
        filter: &Filter,
        after: Option<Cursor>,
        most: usize,
    ) -> rusqlite::Result<Vec<(String, Place, Cursor)>> {
        let mut conditions = self.conditions(filter)?;
        if let Some(Cursor { start_ns, n }) = after {
            conditions.push("(start_ns, n) > (?, ?)", [Value::Integer(start_ns), Value::Integer(n)]);
        }
        let sql = format!(
            "SELECT id, day, offset, length, start_ns, n FROM session WHERE {} ORDER BY start_ns, n LIMIT {most}",
            conditions.text()
        );
        let mut question = self.db.prepare(&sql)?;
        let found = question.query_map(params_from_iter(conditions.values), |row| {
            let cursor = Cursor { start_ns: row.get(4)?, n: row.get(5)? };
            Ok((id_text(&row.get::<_, Vec<u8>>(0)?), place(row, 1)?, cursor))
        })?;
        found.collect()
    }

    /// Sums of what ended in the filter's times; `None` when the index cannot tell all that the filter asks for.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn sums(&self, filter: &Filter, keys: &[Key]) -> rusqlite::Result<Option<Groups>> {
        let timeless = Filter { decision: None, ..filter.without_times() };
        let conditions = self.conditions(&timeless)?;
        if !conditions.exact {
            return Ok(None);
        }
        let by_day = filter.fits_days() && keys.iter().all(|key| column(*key, true).is_some());
        let Some(columns) = keys.iter().map(|key| column(*key, by_day)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let mut wanted = conditions;
        let (unit, end) = if by_day { (DAY_NS, "day") } else { (1, "end_ns") };
        let bound = |moment: u64| Value::Integer(int(moment) / unit);
        filter.since.iter().for_each(|since| wanted.push(&format!("{end} >= ?"), [bound(since.0)]));
        filter.until.iter().for_each(|until| wanted.push(&format!("{end} < ?"), [bound(until.0)]));
        let refused = if by_day { "denied = ?" } else { "(state = 3) = ?" };
        let decision = filter.decision.map(|d| Value::Integer(i64::from(d == Decision::Denied)));
        decision.into_iter().for_each(|denied| wanted.push(refused, [denied]));
        let sums = if by_day {
            "sum(jobs), sum(refused), sum(lost), sum(failed), sum(wall_us), sum(core_us), sum(cpu_us), max(mem_max)"
        } else {
            "sum(state <> 3), sum(state = 3), sum(state = 2), sum(state <> 3 AND exit IS NOT NULL AND exit <> 0), \
             sum(wall_us), sum(wall_us * cpus), sum(cpu_us), max(mem_bytes)"
        };
        let table = if by_day { "day_sum" } else { "session" };
        let by: Vec<String> = (1..=columns.len()).map(|n| n.to_string()).collect();
        let group = if by.is_empty() { String::new() } else { format!(" GROUP BY {}", by.join(",")) };
        let listed: String = columns.iter().map(|c| format!("{c}, ")).collect();
        let sql = format!("SELECT {listed}{sums} FROM {table} WHERE {}{group}", wanted.text());
        self.group(&sql, wanted.values, keys).map(Some)
    }

    fn group(&self, sql: &str, values: Vec<Value>, keys: &[Key]) -> rusqlite::Result<Groups> {
        let mut question = self.db.prepare(sql)?;
        let mut rows = question.query(params_from_iter(values))?;
        let mut result = Groups::new();
        while let Some(row) = rows.next()? {
            let number = |index: usize| -> rusqlite::Result<u64> {
                Ok(u64::try_from(row.get::<_, Option<i64>>(keys.len() + index)?.unwrap_or(0)).unwrap_or(0))
            };
            let sums = Sums {
                jobs: number(0)?,
                denied: number(1)?,
                lost: number(2)?,
                failed: number(3)?,
                wall_us: number(4)?,
                core_us: number(5)?,
                cpu_us: number(6)?,
                mem_max_bytes: number(7)?,
            };
            if sums == Sums::default() {
                continue;
            }
            let texts: rusqlite::Result<Vec<String>> = keys
                .iter()
                .enumerate()
                .map(|(index, key)| self.shown(*key, row.get::<_, Option<i64>>(index)?))
                .collect();
            result.entry(texts?).or_default().add(&sums);
        }
        Ok(result)
    }

    /// What a key's number means.
    fn shown(&self, key: Key, value: Option<i64>) -> rusqlite::Result<String> {
        let Some(value) = value else { return Ok(String::new()) };
        let date = |length: usize| {
            let ns = u64::try_from(value.saturating_mul(DAY_NS)).unwrap_or(0);
            record::time::rfc3339(ns)[..length].to_owned()
        };
        Ok(match key {
            Key::Day => date(10),
            Key::Month => date(7),
            Key::Year => date(4),
            Key::Role => filter::ROLES
                .iter()
                .find(|r| role_number(**r) == value)
                .map_or("", |r| filter::role_name(*r))
                .to_owned(),
            Key::Decision => {
                if value == 1 { Decision::Denied.name() } else { Decision::Allowed.name() }.to_owned()
            }
            Key::Exit if value >= 1000 => format!("sig{}", value - 1000),
            Key::Exit => value.to_string(),
            Key::Fqan => self.text(value)?.lines().next().unwrap_or_default().to_owned(),
            _ => self.text(value)?,
        })
    }

    fn text(&self, name: i64) -> rusqlite::Result<String> {
        let mut question = self.db.prepare_cached("SELECT text FROM name WHERE id = ?1")?;
        Ok(question.query_row([name], |row| row.get(0)).optional()?.unwrap_or_default())
    }

    /// The numbers of all texts of a kind that a test likes.
    fn names_like(&self, kind: Kind, like: impl Fn(&str) -> bool) -> rusqlite::Result<Vec<i64>> {
        let mut question = self.db.prepare_cached("SELECT id, text FROM name WHERE kind = ?1")?;
        let mut rows = question.query([kind as i64])?;
        let mut ids = Vec::new();
        while let Some(row) = rows.next()? {
            if row.get_ref(1)?.as_str().is_ok_and(&like) {
                ids.push(row.get(0)?);
            }
        }
        Ok(ids)
    }

    fn conditions(&self, filter: &Filter) -> rusqlite::Result<Conditions> {
        let mut wanted = Conditions { sql: Vec::new(), values: Vec::new(), exact: true };
        let texts = [
            (Kind::Dn, "dn", &filter.dn),
            (Kind::Vo, "vo", &filter.vo),
            (Kind::Account, "account", &filter.account),
            (Kind::Pilot, "pilot", &filter.pilot_dn),
            (Kind::Parent, "parent", &filter.parent),
            (Kind::Ce, "ce", &filter.ce),
        ];
        for (kind, name, text) in texts {
            if let Some(text) = text {
                let found = self
                    .db
                    .prepare_cached("SELECT id FROM name WHERE kind = ?1 AND text = ?2")?
                    .query_row(params![kind as i64, text], |row| row.get::<_, i64>(0))
                    .optional()?;
                wanted.one_of(name, &found.into_iter().collect::<Vec<_>>());
            }
        }
        if let Some(host) = &filter.host {
            wanted.one_of("host", &self.names_like(Kind::Host, |text| filter::same_host(host, text))?);
        }
        if let Some(fqan) = &filter.fqan {
            let like = |text: &str| text.lines().any(|line| filter::is_below(fqan, line));
            wanted.one_of("fqans", &self.names_like(Kind::Fqans, like)?);
        }
        if let Some(batch) = &filter.batch {
            wanted.one_of("batch", &self.names_like(Kind::Batch, |text| batch.names(text))?);
            wanted.exact &= batch.at.is_none();
        }
        if let Some(reason) = &filter.reason {
            wanted.one_of("reason", &self.names_like(Kind::Reason, |text| text.contains(reason.as_str()))?);
        }
        filter.uid.iter().for_each(|uid| wanted.push("uid = ?", [Value::Integer(i64::from(*uid))]));
        if let Some(hex) = &filter.cred_sha256 {
            wanted.exact &= hex.len() <= 16;
            match cred_range(hex) {
                Some((low, high)) => wanted.push("cred BETWEEN ? AND ?", [low, high].map(Value::Integer)),
                None => wanted.push("0", []),
            }
        }
        filter.role.iter().for_each(|role| wanted.push("role = ?", [Value::Integer(role_number(*role))]));
        filter
            .exit
            .iter()
            .for_each(|exit| wanted.push("exit = ?", [Value::Integer(i64::from(exit.number()))]));
        let state = |state| Value::Integer(state_number(state));
        if filter.lost {
            wanted.push("state = ?", [state(State::Lost)]);
        }
        if filter.running {
            wanted.push("state = ?", [state(State::Running)]);
        }
        match filter.decision {
            Some(Decision::Denied) => wanted.push("reason IS NOT NULL", []),
            Some(Decision::Allowed) => wanted.push("state <> ?", [state(State::Denied)]),
            None => {}
        }
        filter.since.iter().for_each(|t| wanted.push("end_ns > ?", [Value::Integer(int(t.0))]));
        filter.until.iter().for_each(|t| wanted.push("start_ns < ?", [Value::Integer(int(t.0))]));
        if let Some(at) = filter.at {
            wanted.push("start_ns <= ?", [Value::Integer(int(at.0))]);
            wanted.push("end_ns > ?", [Value::Integer(int(at.0))]);
        }
        Ok(wanted)
    }
}

impl Conditions {
    fn push<const N: usize>(&mut self, sql: &str, values: [Value; N]) {
        self.sql.push(sql.to_owned());
        self.values.extend(values);
    }

    fn one_of(&mut self, column: &str, ids: &[i64]) {
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        self.sql.push(format!("{column} IN ({})", ids.join(",")));
    }

    fn text(&self) -> String {
        if self.sql.is_empty() { "1".to_owned() } else { self.sql.join(" AND ") }
    }
}

/// The column of a key; `None` where the table has none.
fn column(key: Key, by_day: bool) -> Option<&'static str> {
    Some(match (key, by_day) {
        (Key::Day, true) => "day",
        (Key::Day, false) => "end_ns / 86400000000000",
        (Key::Month | Key::Year, true) => "day",
        (Key::Month | Key::Year, false) => "end_ns / 86400000000000",
        (Key::Role, _) => "role",
        (Key::Decision, true) => "denied",
        (Key::Decision, false) => "state = 3",
        (Key::Vo, _) => "vo",
        (Key::User, _) => "dn",
        (Key::Account, _) => "account",
        (Key::PilotDn, _) => "pilot",
        (_, true) => return None,
        (Key::Fqan, false) => "fqans",
        (Key::Host, false) => "host",
        (Key::Batch, false) => "batch",
        (Key::Ce, false) => "ce",
        (Key::Exit, false) => "exit",
        (Key::Reason, false) => "reason",
    })
}

fn place(row: &SqlRow<'_>, from: usize) -> rusqlite::Result<Place> {
    let number =
        |index: usize| -> rusqlite::Result<u64> { Ok(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0)) };
    let day = u32::try_from(number(from)?).unwrap_or(0);
    Ok(Place { day, offset: number(from + 1)?, length: number(from + 2)? })
}
