//! The store: another process's lock, damage, file modes, the append-only history.

use super::support::World;
use crate::upkeep::sweep;
use pilot_api::*;
use pilot_store::{SqliteStore, Store};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

async fn second_connection(w: &World) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite:{}", w.queue.settings.store.display())).await.unwrap()
}

#[tokio::test]
async fn a_locked_store_asks_for_patience_and_loses_nothing() {
    let w = World::with(|s| (s.lease, s.grace) = (Duration::from_millis(100), Duration::ZERO)).await;
    let (id, _, lease) = w.leased().await;
    let delegation = w.delegate(&w.alice).await;
    let mut other = second_connection(&w).await;
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let refused = w.submit(&w.alice, delegation, json!({"command": ["true"]})).await;
    refused.refused(503, "store_busy");
    assert!(refused.problem().retryable && refused.headers.contains_key("retry-after"));
    w.result(&lease, Outcome::Ok).await.refused(503, "store_busy");
    // An expiry that cannot be stored is not forgotten either.
    tokio::time::sleep(Duration::from_millis(150)).await;
    sweep(&w.queue).await;
    assert_eq!(w.state(id).await, PayloadState::Matched, "reading goes on");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    sweep(&w.queue).await;
    assert_eq!(w.state(id).await, PayloadState::Waiting);
    w.submit_true(&w.alice, delegation).await;
    assert_eq!(w.get(&w.alice, "/v1/payloads").await.json::<Vec<Payload>>().len(), 2);
}

#[tokio::test]
async fn keys_are_for_the_queue_only() {
    let w = World::new().await;
    w.delegate(&w.alice).await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        assert_eq!(mode(&w.dir.path().join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&w.queue.settings.files.join("logs")), 0o700);
}

#[tokio::test]
async fn history_is_append_only() {
    let w = World::new().await;
    w.leased().await;
    let mut other = second_connection(&w).await;
    for sql in ["DELETE FROM events", "UPDATE events SET cause = ''"] {
        let refused = sqlx::query(sql).execute(&mut other).await.unwrap_err();
        assert!(refused.to_string().contains("append only"), "{refused}");
    }
}

#[tokio::test]
async fn a_store_that_is_none_or_too_new_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.db");
    let open = async || SqliteStore::open(&file, Duration::from_millis(100)).await;
    std::fs::write(&file, "this is not a database, but long enough to be looked at as one".repeat(100))
        .unwrap();
    let error = format!("{:#}", open().await.unwrap_err());
    assert!(error.contains("x.db") && error.contains("not a database"), "{error}");
    std::fs::remove_file(&file).unwrap();
    open().await.unwrap().close().await;
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    sqlx::query("PRAGMA user_version = 99").execute(&mut other).await.unwrap();
    assert!(format!("{:#}", open().await.unwrap_err()).contains("newer"));
}

#[tokio::test]
async fn keys_of_finished_payloads_are_deleted_in_time() {
    let w = World::new().await;
    let (_, _, lease) = w.leased().await;
    let mut other = second_connection(&w).await;
    let purge = async || w.queue.store.purge_keys(crate::engine::now()).await.unwrap();
    assert_eq!(purge().await, 0, "still fresh");
    sqlx::query("UPDATE delegations SET created = created - 90000").execute(&mut other).await.unwrap();
    assert_eq!(purge().await, 0, "still needed");
    w.result(&lease, Outcome::Ok).await.ok();
    assert_eq!(purge().await, 1);
    let keys: String = sqlx::query_scalar("SELECT key FROM delegations").fetch_one(&mut other).await.unwrap();
    assert_eq!(keys, "");
}
