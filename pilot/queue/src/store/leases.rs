//! Attempts, their leases, and the wishes that go to the holders.

use super::payloads::{self, Cause, Known};
use super::pilots::PilotRow;
use super::{Tx, count, from_json, int, nat, now, parse, to_json};
use crate::problem::Refusal;
use pilot_api::{Claim, Lease, Outcome, PayloadState, Report, Wish, WishKind};
use pilot_core::rules::{self, Effect, PayloadEvent, PayloadFacts};
use sqlx::SqliteConnection;
use uuid::Uuid;

/// A lease that is in force.
#[derive(Debug, Clone)]
pub struct OpenLease {
    /// The secret that its holder shows.
    pub lease: Uuid,
    /// The attempt.
    pub attempt: Uuid,
    /// Its number.
    pub number: u32,
    /// The payload.
    pub payload: Uuid,
    /// The holder.
    pub pilot: Uuid,
    /// Last renewal, seconds since the epoch.
    pub renewed: u64,
}

type OpenRow = (String, String, i64, String, String, i64);
const OPEN: &str = "SELECT l.id, l.attempt, a.number, l.payload, l.pilot, l.renewed
                    FROM leases l JOIN attempts a ON a.id = l.attempt";

fn to_open((lease, attempt, number, payload, pilot, renewed): OpenRow) -> Result<OpenLease, Refusal> {
    Ok(OpenLease {
        lease: parse(&lease)?,
        attempt: parse(&attempt)?,
        number: count(number),
        payload: parse(&payload)?,
        pilot: parse(&pilot)?,
        renewed: nat(renewed),
    })
}

/// The lease with this id, if it is still in force.
pub async fn find(conn: &mut SqliteConnection, lease: Uuid) -> Result<Option<OpenLease>, Refusal> {
    let row = sqlx::query_as::<_, OpenRow>(&format!("{OPEN} WHERE l.id = ?"))
        .bind(lease.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(to_open).transpose()
}

/// All leases in force, or those of one pilot.
pub async fn open(conn: &mut SqliteConnection, pilot: Option<Uuid>) -> Result<Vec<OpenLease>, Refusal> {
    let rows = sqlx::query_as::<_, OpenRow>(&format!("{OPEN} WHERE ?1 IS NULL OR l.pilot = ?1"))
        .bind(pilot.map(|p| p.to_string()))
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(to_open).collect()
}

/// What a pilot has free, as far as the queue believes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Payloads.
    pub payloads: u32,
    /// Cores.
    pub cores: u32,
    /// Bytes; `None` when the pilot knows no limit.
    pub memory: Option<u64>,
    /// Seconds; `None` when unlimited.
    pub time_left: Option<u64>,
}

impl Room {
    /// The smaller of what the pilot asks for and what its registration leaves after the leases that it holds.
    pub fn of(claim: &Claim, pilot: &PilotRow) -> Self {
        let left = pilot.memory.map(|m| m.saturating_sub(pilot.used_memory));
        Self {
            payloads: claim.max.min(pilot.slots.saturating_sub(pilot.used_slots)),
            cores: claim.cores.min(pilot.cores.saturating_sub(pilot.used_cores)),
            memory: [claim.memory, left].into_iter().flatten().min(),
            time_left: claim.time_left,
        }
    }

    /// What is left after taking a payload; `None` when it does not fit.
    pub fn take(self, cores: u32, memory: Option<u64>, walltime: Option<u64>) -> Option<Self> {
        if self.time_left.zip(walltime).is_some_and(|(left, wanted)| wanted > left) {
            return None;
        }
        let memory = match (self.memory, memory) {
            (Some(free), Some(wanted)) => Some(free.checked_sub(wanted)?),
            (free, _) => free,
        };
        let (payloads, cores) = (self.payloads.checked_sub(1)?, self.cores.checked_sub(cores)?);
        Some(Self { payloads, cores, memory, ..self })
    }
}

type WaitingRow = (i64, String, String, Option<i64>, i64, Option<i64>, Option<i64>, i64, i64, i64);
const WAITING: &str = "
    SELECT p.seq, p.id, p.owner, p.array_index, p.cores, p.memory, p.walltime, p.attempts, p.spec, d.not_after
    FROM payloads p JOIN delegations d ON d.id = p.delegation
    WHERE p.state = 'waiting' AND p.seq > ? AND p.cores <= ?
      AND coalesce(p.memory, 0) <= ? AND coalesce(p.walltime, 0) <= ?
    ORDER BY p.seq LIMIT ?";

async fn waiting(
    conn: &mut SqliteConnection,
    after: i64,
    room: Room,
    limit: i64,
) -> Result<Vec<WaitingRow>, Refusal> {
    Ok(sqlx::query_as::<_, WaitingRow>(WAITING)
        .bind(after)
        .bind(i64::from(room.cores))
        .bind(int(room.memory.unwrap_or(u64::MAX)))
        .bind(int(room.time_left.unwrap_or(u64::MAX)))
        .bind(limit)
        .fetch_all(conn)
        .await?)
}

/// Whether a claim is worth a change of the store: a cheap look, for the many that wait.
pub async fn worth_claiming(conn: &mut SqliteConnection, room: Room) -> Result<bool, Refusal> {
    Ok(room.payloads > 0 && !waiting(conn, 0, room, 1).await?.is_empty())
}

/// Gives the oldest payloads that fit to a pilot. Payloads whose proxy has expired are held on the way.
pub async fn claim(tx: &mut Tx, pilot: &PilotRow, mut room: Room) -> Result<Vec<Lease>, Refusal> {
    const PAGE: i64 = 32;
    let mut given = Vec::new();
    let mut after = 0;
    while room.payloads > 0 && room.cores > 0 {
        let page = waiting(tx.conn(), after, room, PAGE).await?;
        let full = page.len() == usize::try_from(PAGE).unwrap_or(usize::MAX);
        for row in page {
            after = row.0;
            let Some(rest) = room.take(count(row.4), row.5.map(nat), row.6.map(nat)) else {
                continue;
            };
            if let Some(lease) = give(tx, pilot, row).await? {
                given.push(lease);
                room = rest;
            }
        }
        if !full {
            break;
        }
    }
    Ok(given)
}

async fn give(tx: &mut Tx, pilot: &PilotRow, row: WaitingRow) -> Result<Option<Lease>, Refusal> {
    let (_, id, owner, index, _, _, _, attempts, spec, not_after) = row;
    let payload = parse(&id)?;
    let facts =
        PayloadFacts { state: PayloadState::Waiting, attempts: count(attempts), cancel_wanted: false };
    let known = Known { id: payload, facts };
    if nat(not_after) <= now() {
        hold_expired(tx, &known).await?;
        return Ok(None);
    }
    let step = rules::payload(&facts, PayloadEvent::Lease, 0)?;
    let number = step.effects.iter().find_map(|e| match e {
        Effect::StartAttempt(n) => Some(*n),
        _ => None,
    });
    let Some(number) = number else { return Ok(None) };
    let open = OpenLease {
        lease: secret_id()?,
        attempt: Uuid::now_v7(),
        number,
        payload,
        pilot: pilot.id,
        renewed: now(),
    };
    insert(tx, &open).await?;
    let text = format!("attempt {number} leased to pilot {}", pilot.id);
    let cause = Cause { actor: &pilot.dn, text: &text, attempt: Some(open.attempt) };
    payloads::apply(tx, &known, &step, None, cause).await?;
    tx.outbox.opened.push(open.lease);
    let json = sqlx::query_scalar::<_, String>("SELECT json FROM specs WHERE id = ?")
        .bind(spec)
        .fetch_one(tx.conn())
        .await?;
    Ok(Some(Lease {
        lease: open.lease,
        attempt: open.attempt,
        number,
        payload,
        owner,
        spec: from_json(&json)?,
        array_index: index.map(nat),
    }))
}

/// A lease id is a secret, unlike the time-ordered ids of everything else: nobody can guess it.
fn secret_id() -> Result<Uuid, Refusal> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes).map_err(|e| crate::problem::internal("randomness", &e))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

async fn hold_expired(tx: &mut Tx, known: &Known) -> Result<(), Refusal> {
    let step = rules::payload(&known.facts, PayloadEvent::Hold, 0)?;
    let text = "its delegated proxy has expired; delegate a new one and release the payload";
    let cause = Cause { actor: "queue", text, attempt: None };
    payloads::apply(tx, known, &step, Some(text), cause).await
}

async fn insert(tx: &mut Tx, open: &OpenLease) -> Result<(), Refusal> {
    sqlx::query("INSERT INTO attempts (id, payload, number, pilot, lease, leased) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(open.attempt.to_string())
        .bind(open.payload.to_string())
        .bind(i64::from(open.number))
        .bind(open.pilot.to_string())
        .bind(open.lease.to_string())
        .bind(int(open.renewed))
        .execute(tx.conn())
        .await?;
    sqlx::query("INSERT INTO leases (id, attempt, payload, pilot, renewed) VALUES (?, ?, ?, ?, ?)")
        .bind(open.lease.to_string())
        .bind(open.attempt.to_string())
        .bind(open.payload.to_string())
        .bind(open.pilot.to_string())
        .bind(int(open.renewed))
        .execute(tx.conn())
        .await?;
    sqlx::query("UPDATE payloads SET attempts = ? WHERE id = ?")
        .bind(i64::from(open.number))
        .bind(open.payload.to_string())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Renews a lease and notes how far its holder says it is.
pub async fn renew(tx: &mut Tx, open: &OpenLease, said: PayloadState, actor: &str) -> Result<(), Refusal> {
    sqlx::query("UPDATE leases SET renewed = ? WHERE id = ?")
        .bind(int(now()))
        .bind(open.lease.to_string())
        .execute(tx.conn())
        .await?;
    let known = payloads::known(tx.conn(), open.payload).await?;
    let step = rules::payload(&known.facts, PayloadEvent::Progress(said), 0)?;
    let cause = Cause { actor, text: "reported by the pilot", attempt: Some(open.attempt) };
    payloads::apply(tx, &known, &step, None, cause).await
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its class.
    pub outcome: Outcome,
    /// What the pilot reported; `None` when it did not.
    pub report: Option<&'a Report>,
    /// DN of the pilot, or `queue`.
    pub actor: &'a str,
    /// Why, when the report does not say.
    pub why: &'a str,
    /// How often a payload may be tried.
    pub max_attempts: u32,
}

/// Ends an attempt and its lease; the payload is final afterwards or waits again.
pub async fn end(tx: &mut Tx, open: &OpenLease, end: End<'_>) -> Result<(), Refusal> {
    let known = payloads::known(tx.conn(), open.payload).await?;
    let step = rules::payload(&known.facts, PayloadEvent::End(end.outcome), end.max_attempts)?;
    sqlx::query("UPDATE attempts SET outcome = ?, ended = ?, report = ? WHERE id = ?")
        .bind(end.outcome.as_str())
        .bind(int(now()))
        .bind(end.report.map(to_json).transpose()?)
        .bind(open.attempt.to_string())
        .execute(tx.conn())
        .await?;
    sqlx::query("DELETE FROM leases WHERE id = ?").bind(open.lease.to_string()).execute(tx.conn()).await?;
    let code = end.report.and_then(|r| r.exit_code).filter(|_| end.outcome != Outcome::Ok);
    let code = code.map(|code| format!("exit code {code}"));
    let reported = end.report.and_then(|r| r.reason.as_deref()).or(code.as_deref());
    let text = explain(end.outcome, open.number, end.max_attempts, reported.unwrap_or(end.why));
    let reason = (end.outcome != Outcome::Ok).then_some(text.as_str());
    let cause = Cause { actor: end.actor, text: &text, attempt: Some(open.attempt) };
    payloads::apply(tx, &known, &step, reason, cause).await?;
    tx.outbox.closed.push(open.lease);
    tx.outbox.pilots.push(open.pilot);
    Ok(())
}

/// One line such as `lost: attempt 2 of 3: the lease ran out`.
fn explain(outcome: Outcome, number: u32, max: u32, why: &str) -> String {
    let colon = if why.is_empty() { "" } else { ": " };
    identity::one_line(&format!("{outcome}: attempt {number} of {max}{colon}{why}"))
}

/// An attempt, open or not, as far as a result needs it.
#[derive(Debug)]
pub struct AttemptRow {
    /// The lease under which it ran.
    pub lease: Uuid,
    /// DN of the pilot that held it.
    pub dn: String,
    /// Whether that pilot has reported a result.
    pub reported: bool,
}

/// Looks up an attempt.
pub async fn attempt(conn: &mut SqliteConnection, id: Uuid) -> Result<Option<AttemptRow>, Refusal> {
    let row = sqlx::query_as::<_, (String, String, bool)>(
        "SELECT a.lease, p.dn, a.report IS NOT NULL FROM attempts a JOIN pilots p ON p.id = a.pilot WHERE a.id = ?",
    )
    .bind(id.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(|(lease, dn, reported)| Ok(AttemptRow { lease: parse(&lease)?, dn, reported })).transpose()
}

/// Whether this pilot has ended the lease by its own result: then the lease is over, but not lost.
pub async fn is_delivered(conn: &mut SqliteConnection, pilot: Uuid, lease: Uuid) -> Result<bool, Refusal> {
    let found = sqlx::query_scalar::<_, i64>(
        "SELECT 1 FROM attempts WHERE lease = ? AND pilot = ? AND report IS NOT NULL",
    )
    .bind(lease.to_string())
    .bind(pilot.to_string())
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

/// Wishes for the leases of a pilot, oldest first.
pub async fn wishes(conn: &mut SqliteConnection, pilot: Uuid) -> Result<Vec<Wish>, Refusal> {
    let rows = sqlx::query_as::<_, (String, String, String)>(
        "SELECT w.id, w.lease, w.kind FROM wishes w JOIN leases l ON l.id = w.lease
         WHERE l.pilot = ? ORDER BY w.at, w.id",
    )
    .bind(pilot.to_string())
    .fetch_all(conn)
    .await?;
    let wish = |(id, lease, kind): (String, String, String)| {
        Ok(Wish { id: parse(&id)?, lease: parse(&lease)?, kind: parse(&kind)? })
    };
    rows.into_iter().map(wish).collect()
}

/// Forgets a wish that its pilot has carried out or given up.
pub async fn acknowledge(tx: &mut Tx, pilot: Uuid, wish: Uuid) -> Result<(), Refusal> {
    sqlx::query("DELETE FROM wishes WHERE id = ? AND lease IN (SELECT id FROM leases WHERE pilot = ?)")
        .bind(wish.to_string())
        .bind(pilot.to_string())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Asks the holder of a payload's lease to end it.
pub async fn ask_cancel(tx: &mut Tx, payload: Uuid) -> Result<(), Refusal> {
    let row = sqlx::query_as::<_, (String, String)>("SELECT id, pilot FROM leases WHERE payload = ?")
        .bind(payload.to_string())
        .fetch_one(tx.conn())
        .await?;
    sqlx::query("INSERT INTO wishes (id, lease, kind, at) VALUES (?, ?, ?, ?)")
        .bind(Uuid::now_v7().to_string())
        .bind(&row.0)
        .bind(WishKind::Cancel.as_str())
        .bind(int(now()))
        .execute(tx.conn())
        .await?;
    tx.outbox.pilots.push(parse(&row.1)?);
    Ok(())
}
