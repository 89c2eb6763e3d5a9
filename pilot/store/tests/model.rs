//! Random histories against both stores: whatever happens, in whatever order, some things always hold.
//!
//! A failure prints its seed and the shortest history found that fails; `PILOTAGE_MODEL_SEED` runs a seed again.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic")]

mod history;

use history::{Op, World, run};
use pilot_store::{MemoryStore, SqliteStore, Store};
use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

/// Events of one history, and histories of one run: 100,000 events. Short ones, so that what has piled up costs no time.
const EVENTS: usize = 2_000;
const HISTORIES: u64 = 50;

fn seed() -> u64 {
    let seed = std::env::var("PILOTAGE_MODEL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PILOTAGE_MODEL_SEED={seed}");
    seed
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn sqlite(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join("queue.db"), Duration::from_secs(5)).await.unwrap()
}

/// The shortest history that still fails: leaves out ever smaller parts, as long as what is left fails.
fn shrunk(mut ops: Vec<Op>, fails: impl Fn(&[Op]) -> Option<String>) -> (Vec<Op>, String) {
    let mut why = fails(&ops).unwrap_or_else(|| "does not fail again".into());
    let mut part = ops.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..ops.len().min(at + part));
            match fails(&fewer) {
                Some(reason) => (ops, why) = (fewer, reason),
                None => at += part,
            }
        }
        part /= 2;
    }
    (ops, why)
}

/// Plays all histories of a run; the first that fails is shrunk and shown.
fn hold(fails: impl Fn(&[Op]) -> Option<String>) {
    let first = seed();
    for seed in (0..HISTORIES).map(|n| first.wrapping_add(n)) {
        let ops = history::random(seed, EVENTS);
        if let Some(why) = fails(&ops) {
            let (ops, shortest) = shrunk(ops, &fails);
            panic!("PILOTAGE_MODEL_SEED={seed}: {why}\nshortest history ({shortest}):\n{ops:#?}");
        }
    }
}

#[test]
fn random_histories_in_memory() {
    hold(|ops| block_on(run(World::new(MemoryStore::default()), ops, |store| async { store })).err());
}

#[test]
fn random_histories_in_sqlite() {
    hold(|ops| {
        let dir = tempfile::tempdir().unwrap();
        block_on(async {
            let reopen = |store: SqliteStore| async {
                store.close().await;
                drop(store);
                sqlite(dir.path()).await
            };
            run(World::new(sqlite(dir.path()).await), ops, reopen).await.err()
        })
    });
}

/// Two servers take turns on one store, each with what it saw before: what one has renewed the other never ends.
#[test]
fn two_servers_on_one_store_keep_every_rule() {
    let turns = |op: Op| match op {
        // For this run a restart hands over to the other server, which is done where everything is durable.
        Op::Commit => vec![Op::Commit, Op::Restart],
        Op::Restart => vec![Op::Crash],
        op => vec![op],
    };
    let ops: Vec<Op> = history::random(seed(), 1_500).into_iter().flat_map(turns).collect();
    let dir = tempfile::tempdir().unwrap();
    let failed = block_on(async {
        let other = RefCell::new(sqlite(dir.path()).await);
        let hand_over = |store: SqliteStore| {
            let next = other.replace(store);
            async { next }
        };
        run(World::new(sqlite(dir.path()).await), &ops, hand_over).await.err()
    });
    assert_eq!(failed, None);
}

/// Both stores answer the same to the same history.
#[test]
fn both_stores_tell_the_same_story() {
    let ops = history::random(seed(), 3_000);
    let dir = tempfile::tempdir().unwrap();
    let told = block_on(async {
        let memory = run(World::new(MemoryStore::default()), &ops, |store| async { store }).await.unwrap();
        let disk = run(World::new(sqlite(dir.path()).await), &ops, |store| async { store }).await.unwrap();
        (memory, disk)
    });
    assert_eq!(told.0, told.1);
}

/// A model that cannot fail holds nothing: a rule broken on purpose must be found.
#[test]
fn a_broken_store_is_found_out() {
    let ops = history::random(7, 5_000);
    let broken = World::new(MemoryStore::default()).forgetting_ends();
    let why = block_on(run(broken, &ops, |store| async { store })).unwrap_err();
    assert!(!why.is_empty(), "{why}");
}
