//! Payloads, their specifications and their history.

use super::{Line, Tx, count, from_json, int, nat, now, parse, to_json};
use crate::problem;
use crate::problem::Refusal;
use pilot_api::{Attempt, Event, Outcome, Payload, PayloadState, Submission};
use pilot_core::rules::{self, Effect, PayloadEvent, PayloadFacts, Step};
use sqlx::SqliteConnection;
use std::collections::HashMap;
use uuid::Uuid;

/// Why something happens, for the history.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// DN of the user or pilot, or `queue`.
    pub actor: &'a str,
    /// One line.
    pub text: &'a str,
    /// The attempt it is about.
    pub attempt: Option<Uuid>,
}

/// A payload as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Id.
    pub id: Uuid,
    /// Facts for the rules.
    pub facts: PayloadFacts,
}

/// Stores a checked submission; `max_attempts` is not needed yet: acceptance does not depend on it.
pub async fn submit(tx: &mut Tx, owner: &str, submission: &Submission) -> Result<Vec<Uuid>, Refusal> {
    let spec = &submission.spec;
    let spec_id = sqlx::query("INSERT INTO specs (json) VALUES (?)")
        .bind(to_json(spec)?)
        .execute(tx.conn())
        .await?
        .last_insert_rowid();
    for input in &spec.inputs {
        sqlx::query("INSERT OR IGNORE INTO spec_blobs (sha256, spec) VALUES (?, ?)")
            .bind(&input.sha256)
            .bind(spec_id)
            .execute(tx.conn())
            .await?;
    }
    let indices: Vec<Option<u64>> = match submission.array {
        None => vec![None],
        Some((low, high)) => (low..=high).map(Some).collect(),
    };
    let mut ids = Vec::with_capacity(indices.len());
    for index in indices {
        let id = Uuid::now_v7();
        insert(tx, owner, submission, (id, spec_id, index)).await?;
        ids.push(id);
    }
    Ok(ids)
}

async fn insert(
    tx: &mut Tx,
    owner: &str,
    submission: &Submission,
    (id, spec_id, index): (Uuid, i64, Option<u64>),
) -> Result<(), Refusal> {
    let facts = PayloadFacts { state: PayloadState::Received, attempts: 0, cancel_wanted: false };
    sqlx::query(
        "INSERT INTO payloads (id, owner, delegation, spec, array_index, cores, memory, walltime, submitted, state)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id.to_string())
    .bind(owner)
    .bind(submission.delegation.to_string())
    .bind(spec_id)
    .bind(index.map(int))
    .bind(i64::from(submission.spec.cores))
    .bind(submission.spec.memory.map(int))
    .bind(submission.spec.walltime.map(int))
    .bind(int(now()))
    .bind(facts.state.as_str())
    .execute(tx.conn())
    .await?;
    let known = Known { id, facts };
    let cause = Cause { actor: owner, text: "submitted", attempt: None };
    record(tx, known.id, facts.state, cause).await?;
    let step = rules::payload(&facts, PayloadEvent::Accept, 1)?;
    apply(tx, &known, &step, None, Cause { text: "accepted", ..cause }).await
}

/// What the rules need to know of a payload, whoever owns it.
pub async fn known(conn: &mut SqliteConnection, id: Uuid) -> Result<Known, Refusal> {
    let row = sqlx::query_as::<_, (String, i64, bool)>(
        "SELECT state, attempts, cancel_wanted FROM payloads WHERE id = ?",
    )
    .bind(id.to_string())
    .fetch_optional(conn)
    .await?;
    let (state, attempts, cancel_wanted) = row.ok_or_else(|| problem::unknown("payload"))?;
    let facts = PayloadFacts { state: parse(&state)?, attempts: count(attempts), cancel_wanted };
    Ok(Known { id, facts })
}

/// Carries out the part of a decision that concerns the payload itself; attempts and wishes are the caller's.
///
/// `reason` replaces the payload's line on why it is in its state.
pub async fn apply(
    tx: &mut Tx,
    before: &Known,
    step: &Step,
    reason: Option<&str>,
    cause: Cause<'_>,
) -> Result<(), Refusal> {
    if !step.changes(&before.facts) {
        return Ok(());
    }
    sqlx::query("UPDATE payloads SET state = ?, cancel_wanted = ?, reason = ? WHERE id = ?")
        .bind(step.state.as_str())
        .bind(step.cancel_wanted)
        .bind(reason)
        .bind(before.id.to_string())
        .execute(tx.conn())
        .await?;
    for effect in &step.effects {
        match effect {
            Effect::OfferWork => tx.outbox.work = true,
            Effect::Announce => announce(tx, before.id).await?,
            Effect::StartAttempt(_) | Effect::EndAttempt(_) | Effect::AskCancel => {}
        }
    }
    record(tx, before.id, step.state, cause).await
}

/// Notes that the owner's URL, if there is one, is to be told.
async fn announce(tx: &mut Tx, id: Uuid) -> Result<(), Refusal> {
    let done = sqlx::query(
        "INSERT OR IGNORE INTO notices (payload, url)
         SELECT p.id, json_extract(s.json, '$.notify') FROM payloads p JOIN specs s ON s.id = p.spec
         WHERE p.id = ? AND json_extract(s.json, '$.notify') IS NOT NULL",
    )
    .bind(id.to_string())
    .execute(tx.conn())
    .await?;
    tx.outbox.notices |= done.rows_affected() > 0;
    Ok(())
}

async fn record(tx: &mut Tx, id: Uuid, state: PayloadState, cause: Cause<'_>) -> Result<(), Refusal> {
    let text = identity::one_line(cause.text);
    sqlx::query("INSERT INTO events (payload, attempt, at, actor, state, cause) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(id.to_string())
        .bind(cause.attempt.map(|a| a.to_string()))
        .bind(int(now()))
        .bind(cause.actor)
        .bind(state.as_str())
        .bind(&text)
        .execute(tx.conn())
        .await?;
    tx.outbox.payloads.push(id);
    let actor = cause.actor.to_owned();
    tx.outbox.lines.push(Line { payload: id, attempt: cause.attempt, actor, state, cause: text });
    Ok(())
}

/// Fails with 404 unless the payload is this user's.
pub async fn check_owner(conn: &mut SqliteConnection, id: Uuid, owner: &str) -> Result<(), Refusal> {
    sqlx::query_scalar::<_, i64>("SELECT 1 FROM payloads WHERE id = ? AND owner = ?")
        .bind(id.to_string())
        .bind(owner)
        .fetch_optional(conn)
        .await?
        .map(|_| ())
        .ok_or_else(|| problem::unknown("payload"))
}

/// Walltime that the payload asks for, in seconds.
pub async fn walltime(conn: &mut SqliteConnection, id: Uuid) -> Result<Option<u64>, Refusal> {
    let found = sqlx::query_scalar::<_, Option<i64>>("SELECT walltime FROM payloads WHERE id = ?")
        .bind(id.to_string())
        .fetch_one(conn)
        .await?;
    Ok(found.map(nat))
}

/// Names another delegation for a payload.
pub async fn set_delegation(tx: &mut Tx, id: Uuid, delegation: Uuid) -> Result<(), Refusal> {
    sqlx::query("UPDATE payloads SET delegation = ? WHERE id = ?")
        .bind(delegation.to_string())
        .bind(id.to_string())
        .execute(tx.conn())
        .await?;
    Ok(())
}

type Row = (String, String, String, Option<String>, String, Option<i64>, i64);
const COLUMNS: &str = "SELECT p.id, p.owner, p.state, p.reason, s.json, p.array_index, p.submitted
                       FROM payloads p JOIN specs s ON s.id = p.spec";

/// One payload with its attempts, if it is this user's.
pub async fn show(conn: &mut SqliteConnection, id: Uuid, owner: &str) -> Result<Payload, Refusal> {
    let row = sqlx::query_as::<_, Row>(&format!("{COLUMNS} WHERE p.id = ? AND p.owner = ?"))
        .bind(id.to_string())
        .bind(owner)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| problem::unknown("payload"))?;
    let sql = format!("{ATTEMPTS} WHERE payload = ? ORDER BY number");
    let rows = sqlx::query_as::<_, AttemptRow>(&sql).bind(id.to_string()).fetch_all(conn).await?;
    to_payload(row, rows.into_iter().map(to_attempt).collect::<Result<_, _>>()?)
}

/// The newest `limit` payloads of a user, oldest first.
pub async fn list(conn: &mut SqliteConnection, owner: &str, limit: u32) -> Result<Vec<Payload>, Refusal> {
    let sql = format!("{COLUMNS} WHERE p.owner = ? ORDER BY p.seq DESC LIMIT ?");
    let rows =
        sqlx::query_as::<_, Row>(&sql).bind(owner).bind(i64::from(limit)).fetch_all(&mut *conn).await?;
    let sql = format!(
        "{ATTEMPTS} WHERE payload IN (SELECT id FROM payloads WHERE owner = ? ORDER BY seq DESC LIMIT ?)
         ORDER BY payload, number"
    );
    let attempts =
        sqlx::query_as::<_, AttemptRow>(&sql).bind(owner).bind(i64::from(limit)).fetch_all(conn).await?;
    let mut of: HashMap<String, Vec<Attempt>> = HashMap::new();
    for row in attempts {
        of.entry(row.7.clone()).or_default().push(to_attempt(row)?);
    }
    rows.into_iter()
        .rev()
        .map(|row| {
            let attempts = of.remove(&row.0).unwrap_or_default();
            to_payload(row, attempts)
        })
        .collect()
}

fn to_payload(row: Row, attempts: Vec<Attempt>) -> Result<Payload, Refusal> {
    let (id, owner, state, reason, spec, index, submitted) = row;
    Ok(Payload {
        id: parse(&id)?,
        owner,
        state: parse(&state)?,
        reason,
        spec: from_json(&spec)?,
        array_index: index.map(nat),
        submitted: nat(submitted),
        attempts,
    })
}

type AttemptRow = (String, i64, String, i64, Option<String>, Option<i64>, Option<String>, String);
const ATTEMPTS: &str = "SELECT id, number, pilot, leased, outcome, ended, report, payload FROM attempts";

fn to_attempt(row: AttemptRow) -> Result<Attempt, Refusal> {
    let (id, number, pilot, leased, outcome, ended, report, _) = row;
    Ok(Attempt {
        id: parse(&id)?,
        number: count(number),
        pilot: parse(&pilot)?,
        leased: nat(leased),
        outcome: outcome.as_deref().map(parse::<Outcome>).transpose()?,
        ended: ended.map(nat),
        report: report.as_deref().map(from_json).transpose()?,
    })
}

/// The history of a payload.
pub async fn events(conn: &mut SqliteConnection, id: Uuid) -> Result<Vec<Event>, Refusal> {
    let rows = sqlx::query_as::<_, (i64, i64, String, String, String)>(
        "SELECT seq, at, actor, state, cause FROM events WHERE payload = ? ORDER BY seq",
    )
    .bind(id.to_string())
    .fetch_all(conn)
    .await?;
    let event = |(seq, at, actor, state, cause): (i64, i64, String, String, String)| {
        Ok(Event { seq, at: nat(at), actor, state: parse(&state)?, cause })
    };
    rows.into_iter().map(event).collect()
}

/// An end that a URL has to be told.
#[derive(Debug)]
pub struct Notice {
    /// The payload.
    pub payload: Uuid,
    /// Its owner.
    pub owner: String,
    /// Where to.
    pub url: String,
    /// Attempts made so far.
    pub tries: u32,
}

/// Notices still to be sent.
pub async fn notices(conn: &mut SqliteConnection) -> Result<Vec<Notice>, Refusal> {
    let rows = sqlx::query_as::<_, (String, String, String, i64)>(
        "SELECT n.payload, p.owner, n.url, n.tries FROM notices n JOIN payloads p ON p.id = n.payload LIMIT 100",
    )
    .fetch_all(conn)
    .await?;
    let notice = |(payload, owner, url, tries): (String, String, String, i64)| {
        Ok(Notice { payload: parse(&payload)?, owner, url, tries: count(tries) })
    };
    rows.into_iter().map(notice).collect()
}

/// Notes how a notice fared: forgotten when `settled`, else one more try counted.
pub async fn notice_tried(tx: &mut Tx, payload: Uuid, settled: bool) -> Result<(), Refusal> {
    let sql = match settled {
        true => "DELETE FROM notices WHERE payload = ?",
        false => "UPDATE notices SET tries = tries + 1 WHERE payload = ?",
    };
    sqlx::query(sql).bind(payload.to_string()).execute(tx.conn()).await?;
    Ok(())
}
