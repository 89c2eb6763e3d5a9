//! Queries for lists: payloads, pilots, history, what waits, and what upkeep has to watch. They change nothing.

use super::{count, error, from_json, int, nat, parse, to_json};
use crate::{Filter, Key, Living, Notice, Result, Runs};
use pilot_api::{
    Attempt, ClaimedRun, Demand, HistoryEntry, Outcome, Payload, PayloadState, Pilot, RawSpec, Report,
    StateEvent,
};
use sqlx::{AssertSqlSafe, SqliteConnection};
use std::collections::HashMap;
use uuid::Uuid;

type Row = (
    String,
    String,
    String,
    Option<String>,
    String,
    Option<i64>,
    i64,
    Option<String>,
    Option<i64>,
    Option<i64>,
);
const PAYLOADS: &str =
    "SELECT p.id, p.owner, p.state, p.reason, s.json, p.array_index, p.submitted, p.submission, p.memory, p.disk
                        FROM payloads p JOIN specs s ON s.id = p.spec";

type AttemptRow = (
    String,
    i64,
    String,
    i64,
    Option<String>,
    Option<i64>,
    Option<String>,
    String,
    Option<bool>,
    Option<bool>,
);
/// The last two columns: whether the attempt's pilot switches, and whether those of all attempts of the payload do.
const ATTEMPTS: &str = "SELECT a.id, a.number, a.pilot, a.leased, a.outcome, a.ended, a.report, a.payload,
        i.registration ->> '$.switches_identity', NULL
    FROM attempts a LEFT JOIN pilots i ON i.id = a.pilot";

fn to_payload(row: Row, switched: Option<bool>, attempts: Vec<Attempt>) -> Result<Payload> {
    let (id, owner, state, reason, spec, index, submitted, array, memory, disk) = row;
    let mut spec: RawSpec = from_json(&spec)?;
    // What it may use now, which may be more than it was handed in with.
    (spec.memory, spec.disk) = (memory.map(nat), disk.map(nat));
    Ok(Payload {
        id: parse(&id)?,
        owner,
        state: parse(&state)?,
        reason,
        spec,
        array_index: index.map(nat),
        array: array.as_deref().map(parse).transpose()?,
        submitted: nat(submitted),
        switched,
        attempts,
    })
}

fn to_attempt(row: AttemptRow) -> Result<Attempt> {
    let (id, number, pilot, leased, outcome, ended, report, _, switched, _) = row;
    Ok(Attempt {
        id: parse(&id)?,
        number: count(number),
        pilot: parse(&pilot)?,
        switched,
        leased: nat(leased),
        outcome: outcome.as_deref().map(parse::<Outcome>).transpose()?,
        ended: ended.map(nat),
        report: report.as_deref().map(from_json).transpose()?,
    })
}

pub async fn payload(conn: &mut SqliteConnection, id: Uuid) -> Result<Option<Payload>> {
    let sql = AssertSqlSafe(format!("{PAYLOADS} WHERE p.id = ?"));
    let row = sqlx::query_as::<_, Row>(sql).bind(id.to_string()).fetch_optional(&mut *conn).await;
    let Some(row) = row.map_err(error)? else { return Ok(None) };
    let sql = AssertSqlSafe(format!("{ATTEMPTS} WHERE a.payload = ? ORDER BY a.number"));
    let rows = sqlx::query_as::<_, AttemptRow>(sql).bind(id.to_string()).fetch_all(conn).await;
    let attempts = rows.map_err(error)?.into_iter().map(to_attempt).collect::<Result<Vec<_>>>()?;
    to_payload(row, pilot_api::all_switched(&attempts), attempts).map(Some)
}

/// Columns as in [`PAYLOADS`] and [`ATTEMPTS`], as [`Payload::listed`] cuts them: the large values are not even read.
const LISTED: &str =
    "SELECT p.id, p.owner, p.state, p.reason, s.brief, p.array_index, p.submitted, p.submission, p.memory, p.disk
                      FROM payloads p JOIN specs s ON s.id = p.spec WHERE p.owner = ?1";
const LISTED_ATTEMPTS: &str = "SELECT a.id, a.number, a.pilot, a.leased, a.outcome, a.ended,
        CASE WHEN a.report IS NOT NULL THEN json_object('exit_code', a.report ->> '$.exit_code', 'host', a.report ->> '$.host',
            'reason', substr(a.report ->> '$.reason', 1, 200), 'account', a.report ->> '$.account') END, a.payload,
        i.registration ->> '$.switches_identity',
        CASE WHEN p.attempts = 1 THEN i.registration ->> '$.switches_identity' ELSE
            (SELECT min(j.registration ->> '$.switches_identity') FROM attempts b JOIN pilots j ON j.id = b.pilot
             WHERE b.payload = p.id) END
    FROM payloads p JOIN attempts a ON a.payload = p.id AND a.number = p.attempts LEFT JOIN pilots i ON i.id = a.pilot
    WHERE p.id IN (SELECT value FROM json_each(?))";

/// Conditions on the columns that indexes begin with; words of the interface and numbers of parameters, nothing of a user's.
fn conditions(filter: &Filter) -> String {
    let mut sql = String::new();
    if !filter.states.is_empty() {
        let states: Vec<_> = filter.states.iter().map(|state| format!("'{state}'")).collect();
        sql.push_str(&format!(" AND p.state IN ({})", states.join(", ")));
    }
    for (wanted, condition) in [
        (filter.array.is_some(), " AND p.submission = ?2"),
        (filter.before.is_some(), " AND p.seq < (SELECT seq FROM payloads WHERE id = ?3)"),
        (
            filter.begins.is_some(),
            " AND (p.id >= ?4 AND p.id < ?4 || 'g' OR p.submission >= ?4 AND p.submission < ?4 || 'g')",
        ),
    ] {
        sql.push_str(if wanted { condition } else { "" });
    }
    sql
}

pub async fn payloads(conn: &mut SqliteConnection, filter: &Filter) -> Result<Vec<Payload>> {
    let sql = AssertSqlSafe(format!("{LISTED}{} ORDER BY p.seq DESC LIMIT ?5", conditions(filter)));
    let rows = sqlx::query_as::<_, Row>(sql)
        .bind(filter.owner.as_str())
        .bind(filter.array.map(|id| id.to_string()))
        .bind(filter.before.map(|id| id.to_string()))
        .bind(filter.begins.as_deref())
        .bind(i64::from(filter.limit))
        .fetch_all(&mut *conn)
        .await
        .map_err(error)?;
    let ids: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    let attempts =
        sqlx::query_as::<_, AttemptRow>(LISTED_ATTEMPTS).bind(to_json(&ids)?).fetch_all(conn).await;
    let mut of: HashMap<String, (Option<bool>, Attempt)> = HashMap::new();
    for row in attempts.map_err(error)? {
        of.insert(row.7.clone(), (row.9, to_attempt(row)?));
    }
    rows.into_iter()
        .rev()
        .map(|row| {
            let (switched, newest) = of.remove(&row.0).unzip();
            to_payload(row, switched.flatten(), newest.into_iter().collect())
        })
        .collect()
}

pub async fn counts(conn: &mut SqliteConnection, owner: &str) -> Result<Vec<(PayloadState, u64)>> {
    let sql = "SELECT state, count(*) FROM payloads WHERE owner = ? GROUP BY state ORDER BY state";
    let rows = sqlx::query_as::<_, (String, i64)>(sql).bind(owner).fetch_all(conn).await.map_err(error)?;
    rows.into_iter().map(|(state, n)| Ok((parse(&state)?, nat(n)))).collect()
}

pub async fn history(conn: &mut SqliteConnection, payload: Uuid) -> Result<Vec<HistoryEntry>> {
    let rows = sqlx::query_as::<_, (i64, i64, String, String, String)>(
        "SELECT seq, at, actor, state, cause FROM events WHERE payload = ? ORDER BY seq",
    )
    .bind(payload.to_string())
    .fetch_all(conn)
    .await
    .map_err(error)?;
    let entry = |(seq, at, actor, state, cause): (i64, i64, String, String, String)| {
        Ok(HistoryEntry { seq, at: nat(at), actor, state: parse(&state)?, cause })
    };
    rows.into_iter().map(entry).collect()
}

pub async fn newest(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM events").fetch_one(conn).await.map_err(error)
}

/// The newest number is read first: there is one writer, so that nothing below it appears later.
pub async fn events(
    conn: &mut SqliteConnection,
    owner: &str,
    after: i64,
    window: i64,
) -> Result<(Vec<StateEvent>, i64)> {
    let until = newest(conn).await?.min(after.saturating_add(window)).max(after);
    let rows = sqlx::query_as::<_, (String, i64, i64, String, String, String)>(
        "SELECT e.payload, e.seq, e.at, e.actor, e.state, e.cause FROM events e JOIN payloads p ON p.id = e.payload
         WHERE e.seq > ? AND e.seq <= ? AND p.owner = ? ORDER BY e.seq",
    )
    .bind(after)
    .bind(until)
    .bind(owner)
    .fetch_all(conn)
    .await
    .map_err(error)?;
    let event = |(payload, seq, at, actor, state, cause): (String, i64, i64, String, String, String)| {
        let entry = HistoryEntry { seq, at: nat(at), actor, state: parse(&state)?, cause };
        Ok(StateEvent { payload: parse(&payload)?, entry })
    };
    Ok((rows.into_iter().map(event).collect::<Result<_>>()?, until))
}

pub async fn pilots(conn: &mut SqliteConnection, since: u64) -> Result<Vec<Pilot>> {
    let rows = sqlx::query_as::<_, (String, String, String, String, i64, i64, i64, Option<String>)>(
        "SELECT p.id, p.dn, p.registration, p.state, p.seen,
                (SELECT count(*) FROM leases l WHERE l.pilot = p.id),
                (SELECT count(*) FROM attempts a WHERE a.pilot = p.id), p.reason
         FROM pilots p WHERE p.seen > ? ORDER BY p.seen DESC, p.id DESC LIMIT 1000",
    )
    .bind(int(since))
    .fetch_all(conn)
    .await
    .map_err(error)?;
    let pilot = |(id, dn, registration, state, seen, running, attempts, reason): (
        String,
        String,
        String,
        String,
        i64,
        i64,
        i64,
        Option<String>,
    )| {
        Ok(Pilot {
            id: parse(&id)?,
            dn,
            registration: from_json(&registration)?,
            state: parse(&state)?,
            reason,
            seen: nat(seen) / 1000,
            running: count(running),
            attempts: count(attempts),
        })
    };
    rows.into_iter().map(pilot).collect()
}

pub async fn runs(conn: &mut SqliteConnection, asked: &Runs) -> Result<Vec<ClaimedRun>> {
    let rows = sqlx::query_as::<_, (String, String, String, String, String, bool, i64, String)>(
        "SELECT a.payload, a.id, a.pilot, p.owner, i.dn, coalesce(i.registration ->> '$.switches_identity', 1), a.ended, a.report
         FROM attempts a JOIN payloads p ON p.id = a.payload JOIN pilots i ON i.id = a.pilot
         WHERE a.id > ? AND a.ended >= ? AND a.ended < ? AND a.report ->> '$.wall_ms' IS NOT NULL
         ORDER BY a.id LIMIT ?",
    )
    .bind(asked.after.map(|id| id.to_string()).unwrap_or_default())
    .bind(int(asked.since))
    .bind(int(asked.until))
    .bind(i64::from(asked.limit))
    .fetch_all(conn)
    .await
    .map_err(error)?;
    let run = |(payload, attempt, pilot, owner, pilot_dn, switched, ended, report): (
        String,
        String,
        String,
        String,
        String,
        bool,
        i64,
        String,
    )| {
        let report: Report = from_json(&report)?;
        Ok(ClaimedRun {
            payload: parse(&payload)?,
            attempt: parse(&attempt)?,
            pilot: parse(&pilot)?,
            owner,
            pilot_dn,
            host: report.host,
            switched,
            session: report.session,
            ended: nat(ended),
            wall_s: report.wall_ms.unwrap_or(0) as f64 / 1000.0,
            cpu_s: report.cpu_ms.unwrap_or(0) as f64 / 1000.0,
        })
    };
    rows.into_iter().map(run).collect()
}

pub async fn demand(conn: &mut SqliteConnection) -> Result<Vec<Demand>> {
    let rows = sqlx::query_as::<_, (String, i64, Option<i64>, Option<i64>, i64)>(
        "SELECT p.owner, s.cores, s.memory, s.walltime, count(*) FROM payloads p JOIN signatures s ON s.id = p.signature
         WHERE p.state = 'waiting' GROUP BY p.owner, s.id ORDER BY count(*) DESC, p.owner, s.id LIMIT 10000",
    )
    .fetch_all(conn)
    .await
    .map_err(error)?;
    let demand =
        |(owner, cores, memory, walltime, waiting): (String, i64, Option<i64>, Option<i64>, i64)| Demand {
            owner,
            cores: count(cores),
            memory: memory.map(nat),
            walltime: walltime.map(nat),
            waiting: nat(waiting),
        };
    Ok(rows.into_iter().map(demand).collect())
}

pub async fn living(conn: &mut SqliteConnection) -> Result<Living> {
    let pairs = |rows: Vec<(String, i64)>| {
        rows.into_iter().map(|(id, at)| Ok((parse(&id)?, nat(at)))).collect::<Result<Vec<_>>>()
    };
    let leases =
        sqlx::query_as("SELECT id, renewed FROM leases").fetch_all(&mut *conn).await.map_err(error)?;
    let sql = "SELECT id, seen FROM pilots WHERE state NOT IN ('done', 'failed', 'lost')";
    let pilots = sqlx::query_as(sql).fetch_all(conn).await.map_err(error)?;
    Ok(Living { leases: pairs(leases)?, pilots: pairs(pilots)? })
}

pub async fn notices(conn: &mut SqliteConnection) -> Result<Vec<Notice>> {
    let rows = sqlx::query_as::<_, (String, String, String, i64, i64)>(
        "SELECT payload, owner, url, tries, told FROM
             (SELECT n.payload, p.owner, n.url, n.tries, n.told, n.rowid AS row,
                     row_number() OVER (PARTITION BY p.owner ORDER BY n.tries, n.rowid) AS place
              FROM notices n JOIN payloads p ON p.id = n.payload
              WHERE EXISTS (SELECT 1 FROM events e WHERE e.payload = n.payload AND e.seq > n.told))
         WHERE place <= 10 ORDER BY place, row LIMIT 100",
    )
    .fetch_all(conn)
    .await
    .map_err(error)?;
    let notice = |(payload, owner, url, tries, told): (String, String, String, i64, i64)| {
        Ok(Notice { payload: parse(&payload)?, owner, url, tries: count(tries), told })
    };
    rows.into_iter().map(notice).collect()
}

fn to_key((key, chain, not_after): (String, Option<String>, Option<i64>)) -> Key {
    Key { key, chain, not_after: not_after.map_or(0, nat) }
}

pub async fn key(conn: &mut SqliteConnection, id: Uuid, owner: &str) -> Result<Option<Key>> {
    let sql = "SELECT key, chain, not_after FROM delegations WHERE id = ? AND owner = ?";
    let row = sqlx::query_as(sql).bind(id.to_string()).bind(owner).fetch_optional(conn).await;
    Ok(row.map_err(error)?.map(to_key))
}

pub async fn key_of_payload(conn: &mut SqliteConnection, payload: Uuid) -> Result<Option<Key>> {
    let sql = "SELECT d.key, d.chain, d.not_after FROM delegations d JOIN payloads p ON p.delegation = d.id
               WHERE p.id = ?";
    let row = sqlx::query_as(sql).bind(payload.to_string()).fetch_optional(conn).await;
    Ok(row.map_err(error)?.map(to_key))
}

pub async fn has_blob(conn: &mut SqliteConnection, sha256: &str, owner: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM blob_owners WHERE sha256 = ? AND owner = ?)";
    sqlx::query_scalar(sql).bind(sha256).bind(owner).fetch_one(conn).await.map_err(error)
}

pub async fn stored(conn: &mut SqliteConnection, owner: &str, but: &str) -> Result<u64> {
    let sql = "SELECT coalesce(sum(b.size), 0) FROM blob_owners o JOIN blobs b ON b.sha256 = o.sha256
               WHERE o.owner = ? AND o.sha256 <> ?";
    let sum: i64 = sqlx::query_scalar(sql).bind(owner).bind(but).fetch_one(conn).await.map_err(error)?;
    Ok(nat(sum))
}

pub async fn blob_leased(conn: &mut SqliteConnection, sha256: &str, dn: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM leases l JOIN pilots i ON i.id = l.pilot JOIN payloads p ON p.id = l.payload
               JOIN spec_blobs b ON b.spec = p.spec WHERE i.dn = ? AND b.sha256 = ?)";
    sqlx::query_scalar(sql).bind(dn).bind(sha256).fetch_one(conn).await.map_err(error)
}
