//! Reads the rows that a decision needs into its [`View`].

use super::{count, error, from_json, nat, parse, to_json};
use crate::{Result, StoreError};
use pilot_api::Factor;
use pilot_core::model::{Attempt, Delegation, Earlier, Group, Largest, OpenLease, Payload, Pilot, Retry};
use pilot_core::{Need, Requirements, View};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};
use uuid::Uuid;

const PAYLOAD: &str = "
    SELECT p.seq, p.id, p.owner, p.state, p.attempts, p.returns, p.cancel_wanted, p.cores, p.memory, p.walltime,
           p.array_index, p.spec, s.notify, d.not_after, p.avoid, p.avoid_until,
           l.id, l.attempt, l.pilot, i.host, l.renewed, l.claim, w.id, p.disk, s.retry_memory, s.retry_disk
    FROM payloads p JOIN specs s ON s.id = p.spec JOIN delegations d ON d.id = p.delegation
    LEFT JOIN leases l ON l.payload = p.id LEFT JOIN pilots i ON i.id = l.pilot LEFT JOIN wishes w ON w.lease = l.id";

fn get<'r, T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>>(
    row: &'r SqliteRow,
    at: usize,
) -> Result<T> {
    row.try_get(at).map_err(error)
}

fn id(row: &SqliteRow, at: usize) -> Result<Uuid> {
    parse(get::<&str>(row, at)?)
}

fn maybe_id(row: &SqliteRow, at: usize) -> Result<Option<Uuid>> {
    get::<Option<&str>>(row, at)?.map(parse).transpose()
}

fn to_payload(row: &SqliteRow) -> Result<Payload> {
    let attempts = count(get(row, 4)?);
    let lease = match maybe_id(row, 16)? {
        None => None,
        Some(lease) => Some(OpenLease {
            id: lease,
            attempt: id(row, 17)?,
            number: attempts,
            pilot: id(row, 18)?,
            host: get(row, 19)?,
            renewed: nat(get(row, 20)?),
            claim: maybe_id(row, 21)?,
            order: maybe_id(row, 22)?,
        }),
    };
    Ok(Payload {
        seq: get(row, 0)?,
        id: id(row, 1)?,
        owner: get(row, 2)?,
        state: parse(get(row, 3)?)?,
        attempts,
        returns: count(get(row, 5)?),
        cancel_wanted: get(row, 6)?,
        requirements: requirements(row, 7, 23)?,
        retry: Retry { memory: factor(row, 24)?, disk: factor(row, 25)? },
        array_index: get::<Option<i64>>(row, 10)?.map(nat),
        spec: get(row, 11)?,
        notify: get(row, 12)?,
        proxy_until: get::<Option<i64>>(row, 13)?.map_or(0, nat),
        avoid: hosts(row, 14)?.zip(get::<Option<i64>>(row, 15)?.map(nat)),
        lease,
    })
}

/// Host names, one on a line; no name has a line end in it.
fn hosts(row: &SqliteRow, at: usize) -> Result<Option<Vec<String>>> {
    Ok(get::<Option<&str>>(row, at)?.map(|text| text.lines().map(str::to_owned).collect()))
}

fn factor(row: &SqliteRow, at: usize) -> Result<Option<Factor>> {
    let text = get::<Option<&str>>(row, at)?;
    text.map(|text| Factor::parse(text).map_err(StoreError::Damaged)).transpose()
}

/// Cores, memory and walltime side by side, and disk where it was added.
fn requirements(row: &SqliteRow, at: usize, disk: usize) -> Result<Requirements> {
    Ok(Requirements {
        cores: count(get(row, at)?),
        memory: get::<Option<i64>>(row, at + 1)?.map(nat),
        walltime: get::<Option<i64>>(row, at + 2)?.map(nat),
        disk: get::<Option<i64>>(row, disk)?.map(nat),
    })
}

async fn payloads(conn: &mut SqliteConnection, condition: &str, bind: String) -> Result<Vec<Payload>> {
    let sql = AssertSqlSafe(format!("{PAYLOAD} WHERE {condition}"));
    let rows = sqlx::query(sql).bind(bind).fetch_all(conn).await.map_err(error)?;
    rows.iter().map(to_payload).collect()
}

/// Adds what is needed to the view.
pub async fn load(conn: &mut SqliteConnection, view: &mut View, need: &Need) -> Result<()> {
    match need {
        Need::Payload(id) => view.payload = payloads(conn, "p.id = ?", id.to_string()).await?.pop(),
        Need::Lease(id) => view.payload = payloads(conn, "l.id = ?", id.to_string()).await?.pop(),
        Need::Pilot { id, named } => {
            view.pilot = pilot(conn, *id).await?;
            let held = view.pilot.as_ref().map_or(&[][..], |p| &p.held);
            let open = |l: &&Uuid| held.iter().any(|p| p.lease.as_ref().is_some_and(|o| o.id == **l));
            let gone: Vec<Uuid> = named.iter().filter(|l| !open(l)).copied().collect();
            view.delivered = if gone.is_empty() { Vec::new() } else { delivered(conn, *id, &gone).await? };
        }
        Need::Attempts(ids) => view.attempts = attempts(conn, ids).await?,
        Need::Groups => groups(conn, view).await?,
        Need::Waiting { groups, limit, host, now } => {
            view.waiting.clear();
            for group in groups {
                view.waiting.extend(waiting(conn, *group, *limit, host, *now).await?);
            }
        }
        Need::Submission { id, owner, delegation: named, blobs } => {
            view.earlier = earlier(conn, *id).await?;
            view.delegation = delegation(conn, *named).await?;
            view.blobs = if blobs.is_empty() { Vec::new() } else { owned(conn, owner, blobs).await? };
        }
        Need::Delegation(id) => view.delegation = delegation(conn, *id).await?,
        Need::Largest => view.largest = largest(conn).await?,
        Need::Specs(keys) => view.specs = specs(conn, keys).await?,
    }
    Ok(())
}

async fn pilot(conn: &mut SqliteConnection, id: Uuid) -> Result<Option<Pilot>> {
    let sql = "SELECT dn, host, state, drain, slots, cores, memory, seen, secret,
               coalesce(registration ->> '$.switches_identity', 1), disk FROM pilots WHERE id = ?";
    let row = sqlx::query(sql).bind(id.to_string()).fetch_optional(&mut *conn).await.map_err(error)?;
    let Some(row) = row else { return Ok(None) };
    let mut held = payloads(conn, "l.pilot = ?", id.to_string()).await?;
    held.sort_by_key(|p| p.seq);
    Ok(Some(Pilot {
        id,
        dn: get(&row, 0)?,
        host: get(&row, 1)?,
        state: parse(get(&row, 2)?)?,
        drain: get(&row, 3)?,
        slots: count(get(&row, 4)?),
        cores: count(get(&row, 5)?),
        memory: get::<Option<i64>>(&row, 6)?.map(nat),
        seen: nat(get(&row, 7)?),
        secret: get(&row, 8)?,
        switches: get(&row, 9)?,
        disk: get::<Option<i64>>(&row, 10)?.map(nat),
        held,
    }))
}

async fn delivered(conn: &mut SqliteConnection, pilot: Uuid, leases: &[Uuid]) -> Result<Vec<Uuid>> {
    let sql = "SELECT lease FROM attempts WHERE lease IN (SELECT value FROM json_each(?)) AND pilot = ?
               AND report IS NOT NULL";
    let rows = sqlx::query(sql).bind(to_json(&leases)?).bind(pilot.to_string()).fetch_all(conn).await;
    rows.map_err(error)?.iter().map(|row| id(row, 0)).collect()
}

async fn attempts(conn: &mut SqliteConnection, ids: &[Uuid]) -> Result<Vec<Attempt>> {
    let json = to_json(&ids)?;
    let sql = "SELECT a.id, a.lease, a.pilot, p.dn, a.report IS NOT NULL, p.secret FROM attempts a JOIN pilots p ON p.id = a.pilot
               WHERE a.id IN (SELECT value FROM json_each(?))";
    let rows = sqlx::query(sql).bind(&json).fetch_all(&mut *conn).await.map_err(error)?;
    let mut held = payloads(conn, "l.attempt IN (SELECT value FROM json_each(?))", json).await?;
    let mut payload_of = |attempt: Uuid| {
        let at = held.iter().position(|p| p.lease.as_ref().is_some_and(|l| l.attempt == attempt))?;
        Some(held.swap_remove(at))
    };
    rows.iter()
        .map(|row| {
            let attempt = id(row, 0)?;
            Ok(Attempt {
                id: attempt,
                lease: id(row, 1)?,
                pilot: id(row, 2)?,
                dn: get(row, 3)?,
                secret: get(row, 5)?,
                reported: get(row, 4)?,
                payload: payload_of(attempt),
            })
        })
        .collect()
}

async fn groups(conn: &mut SqliteConnection, view: &mut View) -> Result<()> {
    let sql = "SELECT s.id, s.cores, s.memory, s.walltime, s.disk FROM signatures s
               WHERE EXISTS (SELECT 1 FROM payloads p WHERE p.signature = s.id AND p.state = 'waiting')";
    let rows = sqlx::query(sql).fetch_all(&mut *conn).await.map_err(error)?;
    let group = |row: &SqliteRow| Ok(Group { key: get(row, 0)?, requirements: requirements(row, 1, 4)? });
    view.groups = rows.iter().map(group).collect::<Result<_>>()?;
    Ok(())
}

/// The greatest of what is known, unless some pilot knows no limit.
async fn largest(conn: &mut SqliteConnection) -> Result<Largest> {
    let sql = "SELECT CASE WHEN count(*) = count(memory) THEN max(memory) END, CASE WHEN count(*) = count(disk) THEN max(disk) END
               FROM pilots WHERE drain = 0 AND state IN ('starting', 'validating', 'ready', 'busy')";
    let row = sqlx::query(sql).fetch_one(conn).await.map_err(error)?;
    let most = |at| Ok::<_, StoreError>(get::<Option<i64>>(&row, at)?.map(nat));
    Ok(Largest { memory: most(0)?, disk: most(1)? })
}

async fn waiting(
    conn: &mut SqliteConnection,
    group: i64,
    limit: u32,
    host: &str,
    now: u64,
) -> Result<Vec<Payload>> {
    let sql = AssertSqlSafe(format!(
        "{PAYLOAD} WHERE p.signature = ?1 AND p.state = 'waiting'
         AND (p.avoid IS NULL OR p.avoid_until <= ?3 OR {named} OR NOT EXISTS
              (SELECT 1 FROM pilots o WHERE o.drain = 0 AND o.state IN ('starting', 'validating', 'ready', 'busy') AND {others}))
         ORDER BY p.seq LIMIT ?4",
        named = unnamed("?2"),
        others = unnamed("o.host"),
    ));
    let query = sqlx::query(sql).bind(group).bind(host).bind(super::int(now)).bind(i64::from(limit));
    query.fetch_all(conn).await.map_err(error)?.iter().map(to_payload).collect()
}

/// The condition that a host is none of those that a payload avoids.
fn unnamed(host: &str) -> String {
    format!("instr(char(10) || p.avoid || char(10), char(10) || {host} || char(10)) = 0")
}

async fn earlier(conn: &mut SqliteConnection, submission: Uuid) -> Result<Option<Earlier>> {
    let sql = "SELECT p.id, p.owner, s.json, p.array_index FROM payloads p JOIN specs s ON s.id = p.spec
               WHERE p.id = ?1 AND p.submission IS NULL OR p.submission = ?1 ORDER BY p.seq";
    let rows = sqlx::query(sql).bind(submission.to_string()).fetch_all(conn).await.map_err(error)?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(None) };
    let index = |row| Ok::<_, crate::StoreError>(get::<Option<i64>>(row, 3)?.map(nat));
    Ok(Some(Earlier {
        owner: get(first, 1)?,
        spec: from_json(get(first, 2)?)?,
        array: index(first)?.zip(index(last)?),
        ids: rows.iter().map(|row| id(row, 0)).collect::<Result<_>>()?,
    }))
}

async fn delegation(conn: &mut SqliteConnection, id: Uuid) -> Result<Option<Delegation>> {
    let sql = "SELECT owner, csr, chain, not_after FROM delegations WHERE id = ?";
    let row = sqlx::query(sql).bind(id.to_string()).fetch_optional(conn).await.map_err(error)?;
    let delegation = |row: SqliteRow| {
        Ok(Delegation {
            owner: get(&row, 0)?,
            csr: get(&row, 1)?,
            chain: get(&row, 2)?,
            not_after: get::<Option<i64>>(&row, 3)?.map_or(0, nat),
        })
    };
    row.map(delegation).transpose()
}

async fn owned(conn: &mut SqliteConnection, owner: &str, hashes: &[String]) -> Result<Vec<(String, u64)>> {
    let sql = "SELECT b.sha256, b.size FROM blobs b JOIN blob_owners o ON o.sha256 = b.sha256
               WHERE b.sha256 IN (SELECT value FROM json_each(?)) AND o.owner = ?";
    let rows = sqlx::query(sql).bind(to_json(&hashes)?).bind(owner).fetch_all(conn).await.map_err(error)?;
    rows.iter().map(|row| Ok((get(row, 0)?, nat(get(row, 1)?)))).collect()
}

async fn specs(conn: &mut SqliteConnection, keys: &[i64]) -> Result<Vec<(i64, pilot_api::RawSpec)>> {
    let sql = "SELECT id, json FROM specs WHERE id IN (SELECT value FROM json_each(?))";
    let rows = sqlx::query(sql).bind(to_json(&keys)?).fetch_all(conn).await.map_err(error)?;
    rows.iter().map(|row| Ok((get(row, 0)?, from_json(get(row, 1)?)?))).collect()
}
