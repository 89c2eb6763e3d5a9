//! What is deleted: keys that nobody can need any more, and what is older than its retention.

use super::{SqliteStore, error, int, nat, parse};
use crate::{Result, Store, Transaction};
use sqlx::SqliteConnection;
use uuid::Uuid;

/// A payload that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its id.
    pub id: Uuid,
    /// Its attempts, which name logs and outputs.
    pub attempts: Vec<Uuid>,
    /// Bytes of the inputs that it names, whoever else names them.
    pub inputs: u64,
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

    /// Payloads that ended before a time (seconds), the oldest first: `most` after the first `skip`.
    ///
    /// # Errors
    /// As for any look at the store.
    pub async fn finished(&self, ended_before: u64, most: u32, skip: u64) -> Result<Vec<Finished>> {
        let rows: Vec<(String, Option<String>, i64)> = sqlx::query_as(
            "SELECT p.id, (SELECT group_concat(a.id, ' ') FROM attempts a WHERE a.payload = p.id),
             (SELECT coalesce(sum(b.size), 0) FROM spec_blobs s JOIN blobs b ON b.sha256 = s.sha256 WHERE s.spec = p.spec)
             FROM payloads p WHERE finished IS NOT NULL AND finished < ? ORDER BY finished, p.id LIMIT ? OFFSET ?",
        )
        .bind(int(ended_before))
        .bind(i64::from(most))
        .bind(int(skip))
        .fetch_all(&mut *self.reader().await?)
        .await
        .map_err(error)?;
        let finished = |(id, attempts, inputs): (String, Option<String>, i64)| {
            let attempts = attempts.unwrap_or_default();
            let attempts = attempts.split_whitespace().map(parse).collect::<Result<_>>()?;
            Ok(Finished { id: parse(&id)?, attempts, inputs: nat(inputs) })
        };
        rows.into_iter().map(finished).collect()
    }

    /// Forgets payloads that are over, with their history, attempts, specifications and delegations.
    ///
    /// # Errors
    /// As for any change.
    pub async fn forget(&self, payloads: &[Uuid]) -> Result<()> {
        let mut tx = self.begin().await?;
        let json = super::to_json(&payloads)?;
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
        tx.commit().await
    }

    /// Forgets blobs that were uploaded before a time (seconds) and that no payload names, `most` at once, and gives their
    /// hashes; and pilots that were not heard of since then and whose attempts are forgotten.
    ///
    /// # Errors
    /// As for any change.
    pub async fn forget_unused(&self, before: u64, most: u32) -> Result<Vec<String>> {
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
        Ok(blobs)
    }

    /// Gives the room of what was deleted back to the disk, a piece at a time so that nobody waits long. A store that was made
    /// before this was possible keeps it for itself until `pilot queue migrate`.
    ///
    /// # Errors
    /// As for any change.
    pub async fn shrink(&self) -> Result<()> {
        loop {
            let mut tx = self.begin().await?;
            let before = free_pages(tx.conn()).await?;
            let pages = sqlx::query("PRAGMA incremental_vacuum(2000)");
            pages.fetch_all(tx.conn()).await.map_err(error)?;
            let after = free_pages(tx.conn()).await?;
            tx.commit().await?;
            if after == 0 || after >= before {
                break;
            }
        }
        // The file becomes shorter when the log is written back; readers who keep it from that are not waited for.
        let mut home = self.writer.lock().await;
        if let Some(conn) = home.as_mut() {
            sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_all(conn).await.map_err(error)?;
        }
        Ok(())
    }

    /// Brings a store that was made without it into the form that can give room back. Takes as long as copying it.
    ///
    /// # Errors
    /// As for any change; a full disk leaves the store as it is.
    pub async fn compact(&self) -> Result<()> {
        let mut home = self.writer.lock().await;
        let Some(conn) = home.as_mut() else { return Ok(()) };
        let mode: i64 =
            sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut *conn).await.map_err(error)?;
        if mode != INCREMENTAL {
            sqlx::query("PRAGMA auto_vacuum = INCREMENTAL").execute(&mut *conn).await.map_err(error)?;
            sqlx::query("VACUUM").execute(&mut *conn).await.map_err(error)?;
        }
        Ok(())
    }
}

/// Pages of the file that hold nothing.
async fn free_pages(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar("PRAGMA freelist_count").fetch_one(conn).await.map_err(error)
}

/// `PRAGMA auto_vacuum` of a store that can give room back.
const INCREMENTAL: i64 = 2;
