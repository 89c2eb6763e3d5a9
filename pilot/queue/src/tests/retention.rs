//! What is kept and what is forgotten by size, and the room that the store gives back.

use super::support::World;
use crate::backup::{Action, run};
use crate::config::Args;
use crate::retention::{Bytes, forget_old};
use pilot_api::*;
use pilot_store::sqlite::Lock;
use pilot_store::{SqliteStore, Store};
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

pub fn digest(text: &str) -> String {
    hex::encode(openssl::sha::sha256(text.as_bytes()))
}

pub async fn log_of(w: &World, lease: &Lease, text: &str) {
    let log = format!("/v1/attempts/{}/logs/stdout?offset=0&lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &log, text.to_owned()).await.ok();
}

/// A payload of Alice with an input, a log and an output of so many bytes, done.
async fn done(w: &World, number: usize) -> Uuid {
    let input = format!("input {number}");
    w.put(&w.alice, &format!("/v1/blobs/{}", digest(&input)), input.clone()).await.ok();
    let delegation = w.delegate(&w.alice).await;
    let spec = json!({"command": ["true"], "outputs": ["x"],
                      "inputs": [{"path": "x", "sha256": digest(&input), "size": input.len(), "mode": 0o644}]});
    let id = w.submit(&w.alice, delegation, spec).await.json::<Submitted>().ids[0];
    let pilot = w.register().await;
    let lease = w.claim(pilot, 1).await.remove(0);
    log_of(w, &lease, "12345").await;
    let output = format!("/v1/attempts/{}/output?lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &output, vec![0; 1024]).await.ok();
    w.result(&lease, Outcome::Ok).await.ok();
    id
}

#[tokio::test]
async fn each_kind_of_file_has_its_bound() {
    let none = Bytes { inputs: u64::MAX, logs: u64::MAX, outputs: u64::MAX };
    for (keep, kind) in [
        (Bytes { logs: 12, ..none }, "logs"),
        (Bytes { outputs: 2500, ..none }, "outputs"),
        (Bytes { inputs: 20, ..none }, "blobs"),
    ] {
        let w = World::with(|s| (s.keep, s.max_blob) = (keep, 2000)).await;
        let mut ids = Vec::new();
        for number in 0..3 {
            ids.push(done(&w, number).await);
        }
        let (bare, _, lease) = w.leased().await;
        w.result(&lease, Outcome::Ok).await.ok();
        let now = crate::engine::now() / 1000;
        assert_eq!(forget_old(&w.queue, now + 60).await.unwrap(), 0, "{kind}: users have an hour");
        assert_eq!(forget_old(&w.queue, now + 3605).await.unwrap(), 1, "{kind}: the rest fits");
        w.get(&w.alice, &format!("/v1/payloads/{}", ids[0])).await.refused(404, "unknown_payload");
        for left in [ids[1], ids[2], bare] {
            assert_eq!(w.state(left).await, PayloadState::Done, "{kind}");
        }
        assert_eq!(w.queue.files.taken().logs, 10, "{kind}");
        assert_eq!(forget_old(&w.queue, now + 3605).await.unwrap(), 0, "{kind}");
    }
}

#[tokio::test]
async fn the_store_gives_back_the_room_of_what_is_forgotten() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    for _ in 0..10 {
        let spec = json!({"command": ["true", "x".repeat(90_000)]});
        let id = w.submit(&w.alice, delegation, spec).await.json::<Submitted>().ids[0];
        w.post(&w.alice, &format!("/v1/payloads/{id}/cancel"), Value::Null).await.json::<Payload>();
    }
    let length = || std::fs::metadata(&w.queue.settings.store).unwrap().len();
    w.queue.store.shrink().await.unwrap();
    let before = length();
    assert!(before > 900_000, "{before}");
    let later = crate::engine::now() / 1000 + w.queue.settings.retention.as_secs() + 5;
    assert_eq!(forget_old(&w.queue, later).await.unwrap(), 10);
    assert!(length() < before / 2, "{} of {before}", length());
    w.submit_true(&w.alice, delegation).await;
}

/// As the first version of the queue left it: without notes on its schema, and unable to give room back.
async fn first_store(file: &Path) {
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", file.display())).await.unwrap();
    let schema = include_str!("../../../store/migrations/0001_first.sql");
    sqlx::raw_sql(schema).execute(&mut conn).await.unwrap();
    let data = "INSERT INTO delegations VALUES ('01a221f8-0000-7000-8000-000000000006', '/CN=A', 1000, 'key', 'chain', 2000);
         INSERT INTO specs VALUES (7, '{\"command\":[\"true\"]}');
         INSERT INTO payloads (id, owner, delegation, spec, cores, memory, submitted, state)
           VALUES ('01a221f8-0000-7000-8000-000000000001', '/CN=A', '01a221f8-0000-7000-8000-000000000006', 7, 2, 5, 1000, 'waiting');
         PRAGMA user_version = 1";
    sqlx::raw_sql(data).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn migrate_brings_an_old_store_to_the_present_form() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("queue.db");
    let args = Args {
        store: Some(format!("sqlite:{}", store.display())),
        config: Some("/dev/null".into()),
        ..Args::default()
    };
    let migrate = async || run(&Action::Migrate, &args).await.map_err(|e| format!("{e:#}"));
    assert!(migrate().await.unwrap_err().contains("does not exist; check --store"));
    first_store(&store).await;
    let held = Lock::take(&store).unwrap();
    assert!(migrate().await.unwrap_err().contains("is in use by pilot queue, process"));
    drop(held);
    for _ in 0..2 {
        migrate().await.unwrap();
        let mut conn = SqliteConnection::connect(&format!("sqlite:{}", store.display())).await.unwrap();
        let known: i64 = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        let newest = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/migrations"))
            .unwrap()
            .count();
        assert_eq!(usize::try_from(known).unwrap(), newest);
        let mode: i64 = sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut conn).await.unwrap();
        assert_eq!(mode, 2, "it can give room back");
        conn.close().await.unwrap();
        let opened = SqliteStore::open(&store, Duration::from_secs(5)).await.unwrap();
        let id = "01a221f8-0000-7000-8000-000000000001".parse().unwrap();
        assert_eq!(opened.payload(id).await.unwrap().unwrap().state, PayloadState::Waiting);
        opened.close().await;
    }
}
