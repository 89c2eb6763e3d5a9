//! Writes the changes of a decision into rows. Changes of one kind share a statement, so a whole claim or array costs one.

use super::{error, int, to_json};
use crate::Result;
use pilot_api::PayloadState;
use pilot_core::change::{Ended, History, NewDelegation, NewPayloads, NewPilot, Opened};
use pilot_core::event::Tried;
use pilot_core::{Change, Requirements};
use serde_json::{Value, json};
use sqlx::SqliteConnection;
use uuid::Uuid;

/// Changes of the kinds that come in numbers, as JSON rows.
#[derive(Default)]
struct Rows {
    opened: Vec<Value>,
    ordered: Vec<Value>,
    obeyed: Vec<Value>,
    renewed: Vec<Value>,
    ended: Vec<Value>,
    payloads: Vec<Value>,
    history: Vec<Value>,
    notices: Vec<Value>,
}

/// Stores all changes of one decision.
pub async fn apply(conn: &mut SqliteConnection, changes: &[Change]) -> Result<()> {
    let mut rows = Rows::default();
    for change in changes {
        match change {
            Change::Submitted(new) => submitted(conn, new).await?,
            Change::Delegation(new) => delegation(conn, new).await?,
            Change::Pilot(new) => pilot(conn, new).await?,
            Change::Opened(o) => rows.opened.push(opened(o)),
            Change::Ended(e) => rows.ended.push(ended(e)?),
            Change::Renewed { lease, at } => rows.renewed.push(json!([lease, int(*at)])),
            Change::Ordered { id, lease, at } => rows.ordered.push(json!([id, lease, int(at / 1000)])),
            Change::Obeyed { id } => rows.obeyed.push(json!(id)),
            Change::Payload { id, state, cancel_wanted, reason } => {
                rows.payloads.push(json!([id, state.as_str(), u8::from(*cancel_wanted), reason]));
            }
            Change::History(h) => rows.history.push(history(h)),
            Change::Notice { payload, url } => rows.notices.push(json!([payload, url])),
            Change::Grown { payload, requirements } => grown(conn, *payload, requirements).await?,
            Change::Delegated { .. }
            | Change::Signed { .. }
            | Change::Blob { .. }
            | Change::NoticeTried { .. }
            | Change::PilotState { .. }
            | Change::Draining { .. } => single(conn, change).await?,
        }
    }
    store(conn, rows).await
}

async fn store(conn: &mut SqliteConnection, rows: Rows) -> Result<()> {
    many(conn, &OPENED, &rows.opened).await?;
    many(
        conn,
        &["INSERT INTO wishes (id, lease, kind, at)
                  SELECT value ->> 0, value ->> 1, 'cancel', value ->> 2 FROM json_each(?)"],
        &rows.ordered,
    )
    .await?;
    many(conn, &["DELETE FROM wishes WHERE id IN (SELECT value FROM json_each(?))"], &rows.obeyed).await?;
    many(
        conn,
        &["UPDATE leases SET renewed = j.value ->> 1 FROM json_each(?) j WHERE leases.id = j.value ->> 0"],
        &rows.renewed,
    )
    .await?;
    many(conn, &ENDED, &rows.ended).await?;
    // The history's time is the time of the end.
    let times: Vec<Value> = rows.history.iter().map(|h| json!([h[0], h[2]])).collect();
    many(conn, &[PAYLOADS], &rows.payloads).await?;
    many(conn, &[FINISHED], &times).await?;
    many(
        conn,
        &["INSERT INTO events (payload, attempt, at, actor, state, cause)
                  SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
                  FROM json_each(?) ORDER BY key"],
        &rows.history,
    )
    .await?;
    many(
        conn,
        &["INSERT OR IGNORE INTO notices (payload, url) SELECT value ->> 0, value ->> 1 FROM json_each(?)"],
        &rows.notices,
    )
    .await
}

const OPENED: [&str; 3] = [
    "INSERT INTO attempts (id, payload, number, pilot, lease, leased)
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 / 1000 FROM json_each(?)",
    "INSERT INTO leases (id, attempt, payload, pilot, renewed, claim)
     SELECT value ->> 4, value ->> 0, value ->> 1, value ->> 3, value ->> 5, value ->> 6 FROM json_each(?)",
    "UPDATE payloads SET attempts = j.value ->> 2 FROM json_each(?) j WHERE payloads.id = j.value ->> 1",
];

const ENDED: [&str; 3] = [
    "UPDATE attempts SET outcome = j.value ->> 2, report = j.value ->> 3, returned = j.value ->> 4, ended = j.value ->> 7
     FROM json_each(?) j WHERE attempts.id = j.value ->> 0",
    "DELETE FROM leases WHERE id IN (SELECT value ->> 1 FROM json_each(?))",
    "UPDATE payloads SET returns = returns + (j.value ->> 4), avoid = j.value ->> 5, avoid_until = j.value ->> 6
     FROM json_each(?) j WHERE payloads.id = j.value ->> 8",
];

const PAYLOADS: &str =
    "UPDATE payloads SET state = j.value ->> 1, cancel_wanted = j.value ->> 2, reason = j.value ->> 3
     FROM json_each(?) j WHERE payloads.id = j.value ->> 0";

const FINISHED: &str = "UPDATE payloads SET finished = j.value ->> 1 FROM json_each(?) j
     WHERE payloads.id = j.value ->> 0 AND payloads.state IN ('done', 'failed', 'killed') AND payloads.finished IS NULL";

/// Runs statements that each take the same JSON array, unless it is empty.
async fn many(conn: &mut SqliteConnection, statements: &[&'static str], rows: &[Value]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let json = to_json(&rows)?;
    for sql in statements {
        sqlx::query(*sql).bind(json.as_str()).execute(&mut *conn).await.map_err(error)?;
    }
    Ok(())
}

fn opened(o: &Opened) -> Value {
    json!([o.attempt, o.payload, o.number, o.pilot, o.lease, int(o.at), o.claim])
}

fn ended(e: &Ended) -> Result<Value> {
    let report = e.report.as_ref().map(to_json).transpose()?;
    let (host, until) =
        e.avoid.as_ref().map_or((None, None), |(hosts, until)| (Some(hosts.join("\n")), Some(int(*until))));
    let at = int(e.at / 1000);
    Ok(json!([
        e.attempt,
        e.lease,
        e.outcome.as_str(),
        report,
        u8::from(e.returned),
        host,
        until,
        at,
        e.payload
    ]))
}

fn history(h: &History) -> Value {
    json!([h.payload, h.attempt, int(h.at / 1000), h.actor, h.state.as_str(), h.cause])
}

async fn single(conn: &mut SqliteConnection, change: &Change) -> Result<()> {
    let query = match change {
        Change::Delegated { payload, delegation } => {
            sqlx::query("UPDATE payloads SET delegation = ? WHERE id = ?")
                .bind(delegation.to_string())
                .bind(payload.to_string())
        }
        Change::Signed { id, chain, not_after } => {
            sqlx::query("UPDATE delegations SET chain = ?, not_after = ? WHERE id = ?")
                .bind(chain.as_str())
                .bind(int(*not_after))
                .bind(id.to_string())
        }
        Change::Blob { sha256, size, owner, at } => {
            let blob = "INSERT OR IGNORE INTO blobs (sha256, size) VALUES (?, ?)";
            let blob = sqlx::query(blob).bind(sha256.as_str()).bind(int(*size));
            blob.execute(&mut *conn).await.map_err(error)?;
            let sql = "INSERT INTO blob_owners (sha256, owner, at) VALUES (?, ?, ?)
                       ON CONFLICT (sha256, owner) DO UPDATE SET at = excluded.at";
            sqlx::query(sql).bind(sha256.as_str()).bind(owner.as_str()).bind(int(at / 1000))
        }
        Change::NoticeTried { payload, tried: Tried::Told(seq) } => {
            sqlx::query("UPDATE notices SET told = ?, tries = 0 WHERE payload = ?")
                .bind(*seq)
                .bind(payload.to_string())
        }
        Change::NoticeTried { payload, tried: Tried::Over } => {
            sqlx::query("DELETE FROM notices WHERE payload = ?").bind(payload.to_string())
        }
        Change::NoticeTried { payload, tried: Tried::Failed } => {
            sqlx::query("UPDATE notices SET tries = tries + 1 WHERE payload = ?").bind(payload.to_string())
        }
        Change::PilotState { id, state, seen, reason } => {
            sqlx::query("UPDATE pilots SET state = ?, seen = ?, reason = ? WHERE id = ?")
                .bind(state.as_str())
                .bind(int(*seen))
                .bind(reason.as_deref())
                .bind(id.to_string())
        }
        Change::Draining { id } => {
            sqlx::query("UPDATE pilots SET drain = 1 WHERE id = ?").bind(id.to_string())
        }
        Change::Submitted(_)
        | Change::Payload { .. }
        | Change::Grown { .. }
        | Change::Opened(_)
        | Change::Ended(_)
        | Change::Renewed { .. }
        | Change::Ordered { .. }
        | Change::Obeyed { .. }
        | Change::History(_)
        | Change::Notice { .. }
        | Change::Pilot(_)
        | Change::Delegation(_) => return Ok(()),
    };
    query.execute(conn).await.map_err(error)?;
    Ok(())
}

async fn submitted(conn: &mut SqliteConnection, new: &NewPayloads) -> Result<()> {
    let spec = sqlx::query(
        "INSERT INTO specs (json, brief, notify, retry_memory, retry_disk) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(to_json(&new.spec)?)
    .bind(to_json(&new.spec.brief())?)
    .bind(new.spec.notify.as_deref())
    .bind(new.spec.retry_memory.map(|f| f.to_string()))
    .bind(new.spec.retry_disk.map(|f| f.to_string()))
    .execute(&mut *conn)
    .await
    .map_err(error)?
    .last_insert_rowid();
    for input in &new.spec.inputs {
        sqlx::query("INSERT OR IGNORE INTO spec_blobs (sha256, spec) VALUES (?, ?)")
            .bind(input.sha256.as_str())
            .bind(spec)
            .execute(&mut *conn)
            .await
            .map_err(error)?;
    }
    let asked = Requirements::of(&new.spec);
    let signature = signature(conn, &asked).await?;
    let elements: Vec<Value> = new.elements.iter().map(|(id, index)| json!([id, index.map(int)])).collect();
    let elements = to_json(&elements)?;
    let at = int(new.at / 1000);
    sqlx::query(
        "INSERT INTO payloads (id, array_index, owner, delegation, spec, cores, memory, walltime, submission, submitted,
                               state, signature, disk)
         SELECT value ->> 0, value ->> 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
         FROM json_each(?1) ORDER BY key",
    )
    .bind(elements.as_str())
    .bind(new.owner.as_str())
    .bind(new.delegation.to_string())
    .bind(spec)
    .bind(i64::from(asked.cores))
    .bind(asked.memory.map(int))
    .bind(asked.walltime.map(int))
    .bind(new.is_array.then(|| new.id.to_string()))
    .bind(at)
    .bind(PayloadState::Waiting.as_str())
    .bind(signature)
    .bind(asked.disk.map(int))
    .execute(&mut *conn)
    .await
    .map_err(error)?;
    sqlx::query(
        "INSERT INTO events (payload, at, actor, state, cause)
         SELECT e.value ->> 0, ?2, ?3, c.value ->> 0, c.value ->> 1
         FROM json_each(?1) e, json_each('[[\"received\", \"submitted\"], [\"waiting\", \"accepted\"]]') c
         ORDER BY e.key, c.key",
    )
    .bind(elements.as_str())
    .bind(at)
    .bind(new.owner.as_str())
    .execute(conn)
    .await
    .map_err(error)?;
    Ok(())
}

/// The key of these requirements, made where they are new.
async fn signature(conn: &mut SqliteConnection, asked: &Requirements) -> Result<i64> {
    let statements = [
        "INSERT OR IGNORE INTO signatures (cores, memory, walltime, disk) VALUES (?1, ?2, ?3, ?4) RETURNING id",
        "SELECT id FROM signatures WHERE cores = ?1 AND coalesce(memory, -1) = coalesce(?2, -1)
         AND coalesce(walltime, -1) = coalesce(?3, -1) AND coalesce(disk, -1) = coalesce(?4, -1)",
    ];
    for sql in statements {
        let query = sqlx::query_scalar(sql)
            .bind(i64::from(asked.cores))
            .bind(asked.memory.map(int))
            .bind(asked.walltime.map(int))
            .bind(asked.disk.map(int));
        if let Some(id) = query.fetch_optional(&mut *conn).await.map_err(error)? {
            return Ok(id);
        }
    }
    Err(crate::StoreError::Damaged("requirements that were stored are not there".into()))
}

async fn grown(conn: &mut SqliteConnection, payload: Uuid, asks: &Requirements) -> Result<()> {
    let signature = signature(conn, asks).await?;
    sqlx::query(
        "UPDATE payloads SET cores = ?, memory = ?, walltime = ?, disk = ?, signature = ? WHERE id = ?",
    )
    .bind(i64::from(asks.cores))
    .bind(asks.memory.map(int))
    .bind(asks.walltime.map(int))
    .bind(asks.disk.map(int))
    .bind(signature)
    .bind(payload.to_string())
    .execute(conn)
    .await
    .map_err(error)?;
    Ok(())
}

async fn delegation(conn: &mut SqliteConnection, new: &NewDelegation) -> Result<()> {
    sqlx::query("INSERT INTO delegations (id, owner, created, key, csr) VALUES (?, ?, ?, ?, ?)")
        .bind(new.id.to_string())
        .bind(new.owner.as_str())
        .bind(int(new.at / 1000))
        .bind(new.key.as_str())
        .bind(new.csr.as_str())
        .execute(conn)
        .await
        .map_err(error)?;
    Ok(())
}

async fn pilot(conn: &mut SqliteConnection, new: &NewPilot) -> Result<()> {
    let told = &new.registration;
    sqlx::query(
        "INSERT INTO pilots (id, dn, registration, host, slots, cores, memory, state, seen, secret, disk)
         VALUES (?, ?, ?, ?, ?, ?, ?, 'starting', ?, ?, ?)",
    )
    .bind(new.id.to_string())
    .bind(new.dn.as_str())
    .bind(to_json(told)?)
    .bind(told.host.as_str())
    .bind(i64::from(told.slots))
    .bind(i64::from(told.cores))
    .bind(told.memory.map(int))
    .bind(int(new.at))
    .bind(new.secret.as_deref())
    .bind(told.disk.map(int))
    .execute(conn)
    .await
    .map_err(error)?;
    Ok(())
}
