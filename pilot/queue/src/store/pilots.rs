//! Pilots: who they are, what they said of themselves, when they were last heard of.

use super::{Tx, count, from_json, int, nat, now, parse, to_json};
use crate::problem;
use crate::problem::Refusal;
use pilot_api::{Pilot, PilotState, Registration};
use pilot_core::rules::{self, PilotEvent};
use sqlx::SqliteConnection;
use uuid::Uuid;

/// A pilot as claims and heartbeats need it.
#[derive(Debug, Clone)]
pub struct PilotRow {
    /// Id.
    pub id: Uuid,
    /// DN it authenticated with.
    pub dn: String,
    /// State.
    pub state: PilotState,
    /// Whether it is to take no more work.
    pub drain: bool,
    /// Payloads it can run at the same time, by its registration; likewise the next two.
    pub slots: u32,
    /// Cores.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Leases it holds; likewise the next two.
    pub used_slots: u32,
    /// Cores of the payloads it has leased.
    pub used_cores: u32,
    /// Memory of the payloads it has leased, where they name any.
    pub used_memory: u64,
}

/// Enters a new pilot.
pub async fn register(tx: &mut Tx, dn: &str, registration: &Registration) -> Result<Uuid, Refusal> {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO pilots (id, dn, registration, slots, cores, memory, state, seen) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id.to_string())
    .bind(dn)
    .bind(to_json(registration)?)
    .bind(i64::from(registration.slots))
    .bind(i64::from(registration.cores))
    .bind(registration.memory.map(int))
    .bind(PilotState::Starting.as_str())
    .bind(int(now()))
    .execute(tx.conn())
    .await?;
    tracing::info!(pilot = %id, actor = dn, host = registration.host, "pilot registered");
    Ok(id)
}

/// The pilot, if it authenticated with this DN.
pub async fn find(conn: &mut SqliteConnection, id: Uuid, dn: &str) -> Result<PilotRow, Refusal> {
    type Row = (String, bool, i64, i64, Option<i64>, i64, i64, i64);
    let row = sqlx::query_as::<_, Row>(
        "SELECT p.state, p.drain, p.slots, p.cores, p.memory,
                count(y.id), coalesce(sum(y.cores), 0), coalesce(sum(y.memory), 0)
         FROM pilots p LEFT JOIN leases l ON l.pilot = p.id LEFT JOIN payloads y ON y.id = l.payload
         WHERE p.id = ? AND p.dn = ? GROUP BY p.id",
    )
    .bind(id.to_string())
    .bind(dn)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| problem::unknown("pilot"))?;
    Ok(PilotRow {
        id,
        dn: dn.to_owned(),
        state: parse(&row.0)?,
        drain: row.1,
        slots: count(row.2),
        cores: count(row.3),
        memory: row.4.map(nat),
        used_slots: count(row.5),
        used_cores: count(row.6),
        used_memory: nat(row.7),
    })
}

/// Moves a pilot by the rules and notes that it was heard of, unless the event is its silence.
pub async fn step(
    tx: &mut Tx,
    pilot: &PilotRow,
    event: PilotEvent,
    why: &str,
) -> Result<PilotState, Refusal> {
    let state = rules::pilot(pilot.state, event)?;
    let heard = event != PilotEvent::Silent;
    sqlx::query("UPDATE pilots SET state = ?, seen = CASE WHEN ? THEN ? ELSE seen END WHERE id = ?")
        .bind(state.as_str())
        .bind(heard)
        .bind(int(now()))
        .bind(pilot.id.to_string())
        .execute(tx.conn())
        .await?;
    if state != pilot.state {
        let why = identity::one_line(why);
        tracing::info!(pilot = %pilot.id, actor = pilot.dn, from = %pilot.state, %state, why, "pilot");
    }
    Ok(state)
}

/// Tells a pilot to take no more work.
pub async fn drain(tx: &mut Tx, id: Uuid) -> Result<(), Refusal> {
    sqlx::query("UPDATE pilots SET drain = 1 WHERE id = ?").bind(id.to_string()).execute(tx.conn()).await?;
    tx.outbox.pilots.push(id);
    Ok(())
}

/// Pilots that are neither gone nor lost: id, DN, last sign of life.
pub async fn live(conn: &mut SqliteConnection) -> Result<Vec<(Uuid, String, u64)>, Refusal> {
    let rows = sqlx::query_as::<_, (String, String, i64)>(
        "SELECT id, dn, seen FROM pilots WHERE state NOT IN ('done', 'failed', 'lost')",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|(id, dn, seen)| Ok((parse(&id)?, dn, nat(seen)))).collect()
}

/// Pilots of the last day, newest sign of life first, 1000 at most.
pub async fn list(conn: &mut SqliteConnection) -> Result<Vec<Pilot>, Refusal> {
    let rows = sqlx::query_as::<_, (String, String, String, String, i64, i64)>(
        "SELECT p.id, p.dn, p.registration, p.state, p.seen,
                (SELECT count(*) FROM leases l WHERE l.pilot = p.id)
         FROM pilots p WHERE p.seen > ? ORDER BY p.seen DESC, p.id DESC LIMIT 1000",
    )
    .bind(int(now().saturating_sub(86_400)))
    .fetch_all(conn)
    .await?;
    let pilot = |(id, dn, registration, state, seen, running): (String, String, String, String, i64, i64)| {
        Ok(Pilot {
            id: parse(&id)?,
            dn,
            registration: from_json(&registration)?,
            state: parse(&state)?,
            seen: nat(seen),
            running: count(running),
        })
    };
    rows.into_iter().map(pilot).collect()
}
