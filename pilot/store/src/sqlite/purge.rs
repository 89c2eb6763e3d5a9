//! What is deleted: keys that nobody can need any more, and what is older than its retention.

use super::{SqliteStore, error, int, parse};
use crate::{Result, Store, Transaction};
use uuid::Uuid;

/// What was forgotten, so that its files can be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// Payloads.
    pub payloads: u64,
    /// Their attempts, which name logs and outputs.
    pub attempts: Vec<Uuid>,
    /// Hashes of blobs that no payload names any more.
    pub blobs: Vec<String>,
}

impl SqliteStore {
    /// Deletes keys that nobody can need any more: unsigned for an hour, or a day old with no unfinished payload. Rows
    /// stay while a payload names them, with neither key nor chain. `now` is in milliseconds.
    ///
    /// # Errors
    /// As for any change.
    pub async fn purge_keys(&self, now: u64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE delegations SET key = '', csr = '', chain = NULL WHERE key <> ''
             AND ((chain IS NULL AND created < ?1 - 3600) OR (chain IS NOT NULL AND created < ?1 - 86400))
             AND NOT EXISTS (SELECT 1 FROM payloads p WHERE p.delegation = delegations.id
                             AND p.state NOT IN ('done', 'failed', 'killed'))",
        )
        .bind(int(now / 1000))
        .execute(tx.conn())
        .await
        .map_err(error)?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Forgets payloads that ended before a time (seconds), `most` at once, oldest first, with their history, attempts,
    /// specifications and delegations.
    ///
    /// # Errors
    /// As for any change.
    pub async fn forget(&self, ended_before: u64, most: u32) -> Result<Purged> {
        let mut tx = self.begin().await?;
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT id FROM payloads WHERE finished IS NOT NULL AND finished < ? ORDER BY finished LIMIT ?",
        )
        .bind(int(ended_before))
        .bind(i64::from(most))
        .fetch_all(tx.conn())
        .await
        .map_err(error)?;
        if ids.is_empty() {
            tx.commit().await?;
            return Ok(Purged::default());
        }
        let json = super::to_json(&ids)?;
        let attempts = "SELECT id FROM attempts WHERE payload IN (SELECT value FROM json_each(?))";
        let attempts: Vec<String> =
            sqlx::query_scalar(attempts).bind(json.as_str()).fetch_all(tx.conn()).await.map_err(error)?;
        for sql in [
            "DELETE FROM notices WHERE payload IN (SELECT value FROM json_each(?))",
            "DELETE FROM attempts WHERE payload IN (SELECT value FROM json_each(?))",
            "DELETE FROM payloads WHERE id IN (SELECT value FROM json_each(?))",
            "DELETE FROM events WHERE payload IN (SELECT value FROM json_each(?))",
        ] {
            sqlx::query(sql).bind(json.as_str()).execute(tx.conn()).await.map_err(error)?;
        }
        for sql in [
            "DELETE FROM spec_blobs WHERE spec IN (SELECT id FROM specs s WHERE NOT EXISTS
             (SELECT 1 FROM payloads p WHERE p.spec = s.id))",
            "DELETE FROM specs WHERE NOT EXISTS (SELECT 1 FROM payloads p WHERE p.spec = specs.id)",
            "DELETE FROM delegations WHERE key = ''
             AND NOT EXISTS (SELECT 1 FROM payloads p WHERE p.delegation = delegations.id)",
        ] {
            sqlx::query(sql).execute(tx.conn()).await.map_err(error)?;
        }
        tx.commit().await?;
        let attempts = attempts.iter().map(|id| parse(id)).collect::<Result<_>>()?;
        Ok(Purged { payloads: ids.len() as u64, attempts, blobs: Vec::new() })
    }

    /// Forgets blobs that were uploaded before a time (seconds) and that no payload names, `most` at once; and pilots that
    /// were not heard of since then and whose attempts are forgotten.
    ///
    /// # Errors
    /// As for any change.
    pub async fn forget_unused(&self, before: u64, most: u32) -> Result<Purged> {
        let mut tx = self.begin().await?;
        let blobs: Vec<String> = sqlx::query_scalar(
            "SELECT sha256 FROM blobs b WHERE NOT EXISTS (SELECT 1 FROM spec_blobs s WHERE s.sha256 = b.sha256)
             AND NOT EXISTS (SELECT 1 FROM blob_owners o WHERE o.sha256 = b.sha256 AND o.at >= ?) LIMIT ?",
        )
        .bind(int(before))
        .bind(i64::from(most))
        .fetch_all(tx.conn())
        .await
        .map_err(error)?;
        let json = super::to_json(&blobs)?;
        for sql in [
            "DELETE FROM blob_owners WHERE sha256 IN (SELECT value FROM json_each(?))",
            "DELETE FROM blobs WHERE sha256 IN (SELECT value FROM json_each(?))",
        ] {
            sqlx::query(sql).bind(json.as_str()).execute(tx.conn()).await.map_err(error)?;
        }
        sqlx::query(
            "DELETE FROM pilots WHERE seen < ? AND state IN ('done', 'failed', 'lost')
             AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.pilot = pilots.id)",
        )
        .bind(int(before.saturating_mul(1000)))
        .execute(tx.conn())
        .await
        .map_err(error)?;
        tx.commit().await?;
        Ok(Purged { blobs, ..Purged::default() })
    }
}
