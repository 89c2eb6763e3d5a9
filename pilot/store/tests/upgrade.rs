//! A store made by each earlier schema, with data in it, is as good as a new one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pilot_api::{PayloadState, PilotState};
use pilot_core::{Need, View};
use pilot_store::{SqliteStore, Store};
use sqlx::migrate::Migrator;
use sqlx::{Connection, SqliteConnection};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

const PAYLOAD: &str = "01a221f8-0000-7000-8000-000000000001";
const LEASED: &str = "01a221f8-0000-7000-8000-000000000002";
const PILOT: &str = "01a221f8-0000-7000-8000-000000000003";
const LEASE: &str = "01a221f8-0000-7000-8000-000000000004";
const ATTEMPT: &str = "01a221f8-0000-7000-8000-000000000005";
const DELEGATION: &str = "01a221f8-0000-7000-8000-000000000006";

static ALL: Migrator = sqlx::migrate!();

async fn connect(file: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", file.display())).await.unwrap()
}

/// As the first version of the queue left it, which knew nothing of migrations.
async fn first_schema(file: &Path) {
    let mut conn = connect(file).await;
    sqlx::raw_sql(include_str!("../migrations/0001_first.sql")).execute(&mut conn).await.unwrap();
    fill(&mut conn).await;
    sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// As a version with so many migrations left it, with data from the time of the first one.
async fn later_schema(file: &Path, migrations: usize) {
    let mut conn = connect(file).await;
    let first =
        |count| Migrator { migrations: ALL.iter().take(count).cloned().collect(), ..Migrator::DEFAULT };
    first(1).run(&mut conn).await.unwrap();
    fill(&mut conn).await;
    first(migrations).run(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn fill(conn: &mut SqliteConnection) {
    let spec = r#"{"command":["true"],"cores":2,"memory":5,"notify":"https://x.example/"}"#;
    let told =
        r#"{"host":"wn7","slots":1,"cores":4,"memory":null,"switches_identity":true,"time_left":null}"#;
    let data = format!(
        "INSERT INTO delegations VALUES ('{DELEGATION}', '/CN=A', 1000, 'key', 'chain', 2000);
         INSERT INTO specs VALUES (7, '{spec}');
         INSERT INTO payloads (id, owner, delegation, spec, cores, memory, submitted, state)
           VALUES ('{PAYLOAD}', '/CN=A', '{DELEGATION}', 7, 2, 5, 1000, 'waiting');
         INSERT INTO payloads (id, owner, delegation, spec, cores, memory, submitted, state, attempts)
           VALUES ('{LEASED}', '/CN=A', '{DELEGATION}', 7, 2, 5, 1000, 'running', 1);
         INSERT INTO pilots (id, dn, registration, slots, cores, state, seen) VALUES ('{PILOT}', '/CN=P', '{told}', 1, 4, 'busy', 1500);
         INSERT INTO attempts (id, payload, number, pilot, lease, leased) VALUES ('{ATTEMPT}', '{LEASED}', 1, '{PILOT}', '{LEASE}', 1400);
         INSERT INTO leases VALUES ('{LEASE}', '{ATTEMPT}', '{LEASED}', '{PILOT}', 1500);
         INSERT INTO events (payload, at, actor, state, cause) VALUES ('{PAYLOAD}', 1000, '/CN=A', 'waiting', 'accepted');"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(data)).execute(conn).await.unwrap();
}

fn id(text: &str) -> Uuid {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_store_of_any_earlier_schema_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for migrations in 0..ALL.iter().count() {
        let file = dir.path().join(format!("{migrations}.db"));
        match migrations {
            0 => first_schema(&file).await,
            several => later_schema(&file, several).await,
        }
        goes_on(&file).await;
    }
}

async fn goes_on(file: &Path) {
    for _ in 0..2 {
        let store = SqliteStore::open(file, Duration::from_secs(5)).await.unwrap();
        assert_eq!(store.payload(id(PAYLOAD)).await.unwrap().unwrap().state, PayloadState::Waiting);
        assert_eq!(store.history(id(PAYLOAD)).await.unwrap()[0].cause, "accepted");
        let living = store.living().await.unwrap();
        assert_eq!(living.leases, [(id(LEASE), 1_500_000)], "milliseconds from now on");
        assert_eq!(living.pilots, [(id(PILOT), 1_500_000)]);
        let mut view = View::default();
        store.load(&mut view, &Need::Pilot { id: id(PILOT), named: vec![] }).await.unwrap();
        let pilot = view.pilot.take().unwrap();
        assert_eq!((pilot.host.as_str(), pilot.state, pilot.held.len()), ("wn7", PilotState::Busy, 1));
        store.load(&mut view, &Need::Groups).await.unwrap();
        assert_eq!((view.groups.len(), view.groups[0].requirements.memory), (1, Some(5)));
        let groups = vec![view.groups[0].key];
        store.load(&mut view, &Need::Waiting { groups, limit: 9, host: "wn7".into(), now: 0 }).await.unwrap();
        assert_eq!(view.waiting.len(), 1, "found by what it asks for");
        assert_eq!(view.waiting[0].notify.as_deref(), Some("https://x.example/"));
        store.close().await;
    }
}

/// The present schema, made new and opened again, is left as it is.
#[tokio::test]
async fn the_present_schema_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queue.db");
    for _ in 0..2 {
        SqliteStore::open(&file, Duration::from_secs(5)).await.unwrap().close().await;
    }
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let applied: i64 =
        sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(&mut conn).await.unwrap();
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut conn).await.unwrap();
    assert_eq!(applied, version);
}
