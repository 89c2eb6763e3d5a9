//! Delegated proxies, and who may read which blob.

use super::{Tx, int, nat, now};
use crate::problem;
use crate::problem::Refusal;
use sqlx::SqliteConnection;
use uuid::Uuid;

/// A delegation with its private key.
#[derive(Clone)]
pub struct DelegationRow {
    /// Private key, PEM.
    pub key: String,
    /// Chain, PEM; `None` until its owner has signed.
    pub chain: Option<String>,
    /// End of the proxy's validity.
    pub not_after: u64,
}

impl std::fmt::Debug for DelegationRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelegationRow").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Enters a delegation in preparation.
pub async fn create(tx: &mut Tx, id: Uuid, owner: &str, key: &str) -> Result<(), Refusal> {
    sqlx::query("INSERT INTO delegations (id, owner, created, key) VALUES (?, ?, ?, ?)")
        .bind(id.to_string())
        .bind(owner)
        .bind(int(now()))
        .bind(key)
        .execute(tx.conn())
        .await?;
    Ok(())
}

type Row = (String, Option<String>, Option<i64>);

fn to_delegation((key, chain, not_after): Row) -> DelegationRow {
    DelegationRow { key, chain, not_after: nat(not_after.unwrap_or(0)) }
}

/// The delegation, if it is this user's.
pub async fn find(conn: &mut SqliteConnection, id: Uuid, owner: &str) -> Result<DelegationRow, Refusal> {
    sqlx::query_as::<_, Row>("SELECT key, chain, not_after FROM delegations WHERE id = ? AND owner = ?")
        .bind(id.to_string())
        .bind(owner)
        .fetch_optional(conn)
        .await?
        .map(to_delegation)
        .ok_or_else(|| problem::unknown("delegation"))
}

/// The delegation of a payload.
pub async fn of_payload(conn: &mut SqliteConnection, payload: Uuid) -> Result<DelegationRow, Refusal> {
    sqlx::query_as::<_, Row>(
        "SELECT d.key, d.chain, d.not_after FROM delegations d JOIN payloads p ON p.delegation = d.id WHERE p.id = ?",
    )
    .bind(payload.to_string())
    .fetch_optional(conn)
    .await?
    .map(to_delegation)
    .ok_or_else(|| problem::unknown("delegation"))
}

/// Fails unless the user owns the delegation and it can be used now.
pub async fn check_usable(conn: &mut SqliteConnection, id: Uuid, owner: &str) -> Result<(), Refusal> {
    let found = find(conn, id, owner).await?;
    if found.chain.is_none() {
        let title = "the delegation has not been signed; PUT the signed chain first";
        return Err(problem::unsatisfiable("delegation_incomplete", title));
    }
    if found.not_after <= now() {
        let title = "the delegated proxy has expired; delegate a new one";
        return Err(problem::unsatisfiable("delegation_expired", title));
    }
    Ok(())
}

/// Stores the signed chain; `false` when there is one already.
pub async fn complete(tx: &mut Tx, id: Uuid, chain: &str, not_after: u64) -> Result<bool, Refusal> {
    let done = sqlx::query("UPDATE delegations SET chain = ?, not_after = ? WHERE id = ? AND chain IS NULL")
        .bind(chain)
        .bind(int(not_after))
        .bind(id.to_string())
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes keys that nobody can need any more: unsigned for an hour, or expired or unused for a day with no
/// unfinished payload. Rows stay while a payload names them, with neither key nor chain.
pub async fn purge(tx: &mut Tx) -> Result<u64, Refusal> {
    let done = sqlx::query(
        "UPDATE delegations SET key = '', chain = NULL WHERE key <> ''
         AND ((chain IS NULL AND created < ?1 - 3600) OR (chain IS NOT NULL AND created < ?1 - 86400))
         AND NOT EXISTS (SELECT 1 FROM payloads p WHERE p.delegation = delegations.id
                         AND p.state NOT IN ('done', 'failed', 'killed'))",
    )
    .bind(int(now()))
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Notes that a user possesses a blob that is on disk.
pub async fn add_blob(tx: &mut Tx, sha256: &str, size: u64, owner: &str) -> Result<(), Refusal> {
    sqlx::query("INSERT OR IGNORE INTO blobs (sha256, size) VALUES (?, ?)")
        .bind(sha256)
        .bind(int(size))
        .execute(tx.conn())
        .await?;
    sqlx::query("INSERT OR IGNORE INTO blob_owners (sha256, owner, at) VALUES (?, ?, ?)")
        .bind(sha256)
        .bind(owner)
        .bind(int(now()))
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Length of a blob that this user has uploaded.
pub async fn blob_of(conn: &mut SqliteConnection, sha256: &str, owner: &str) -> Result<Option<u64>, Refusal> {
    let size = sqlx::query_scalar::<_, i64>(
        "SELECT b.size FROM blobs b JOIN blob_owners o ON o.sha256 = b.sha256 WHERE b.sha256 = ? AND o.owner = ?",
    )
    .bind(sha256)
    .bind(owner)
    .fetch_optional(conn)
    .await?;
    Ok(size.map(nat))
}

/// Whether a payload that pilots of this DN have leased needs the blob.
pub async fn blob_leased(conn: &mut SqliteConnection, sha256: &str, dn: &str) -> Result<bool, Refusal> {
    let found = sqlx::query_scalar::<_, i64>(
        "SELECT 1 FROM leases l JOIN pilots i ON i.id = l.pilot JOIN payloads p ON p.id = l.payload
         JOIN spec_blobs b ON b.spec = p.spec WHERE i.dn = ? AND b.sha256 = ? LIMIT 1",
    )
    .bind(dn)
    .bind(sha256)
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}
