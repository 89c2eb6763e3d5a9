//! What one queue server does by itself: many pilots and users that only talk, through the real HTTPS interface with proxies.
//! Beside it, the same rows written straight into SQLite by this program, in batches of 32, as durable.

use crate::bench_report::{Goal, Measure};
use end_to_end::site::Site;
use end_to_end::talker::{Talker, delegation, new_id};
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Pilots that claim and finish at the same time, and users that submit.
const PEERS: usize = 32;
/// Payloads of one claim, and of one transaction of the SQLite beside.
const BATCH: usize = 32;
/// Payloads that are finished in batches, and one by one.
const FINISHED: (usize, usize) = (20_000, 3_000);
/// Elements of one array; the queue's default bound.
const ARRAY: usize = 10_000;
/// Claims that latencies are taken from.
const CLAIMS: usize = 300;
/// Few waiting payloads, and many: `PILOTAGE_BENCH_WAITING`, a million otherwise.
const FEW: usize = 1_000;

fn many() -> usize {
    std::env::var("PILOTAGE_BENCH_WAITING").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

/// A queue with Alice's delegation.
struct Server {
    site: Site,
    delegation: String,
}

impl Server {
    fn new() -> Self {
        let site = Site::new("600s");
        let delegation = delegation(&mut Talker::new(&site, &site.alice), &site.alice);
        Self { site, delegation }
    }

    fn alice(&self) -> Talker {
        Talker::new(&self.site, &self.site.alice)
    }

    /// Submits so many payloads that ask for `cores`, in arrays.
    fn fill(&self, number: usize, cores: usize) {
        let mut alice = self.alice();
        let mut left = number;
        while left > 0 {
            let part = left.min(ARRAY);
            let spec = json!({"command": ["/bin/true"], "cores": cores});
            let body =
                json!({"id": new_id(), "delegation": self.delegation, "spec": spec, "array": [1, part]});
            expect(alice.surely("POST", "/v1/payloads", &body), 201);
            left -= part;
        }
    }

    /// A registered pilot: its connection and the path of its calls.
    fn pilot(&self) -> (Talker, String) {
        let mut talker = Talker::new(&self.site, &self.site.pilot);
        let body = json!({"id": new_id(), "host": "wn1", "slots": 256, "cores": 1000, "memory": null,
                          "switches_identity": true, "time_left": null});
        let registered = expect(talker.surely("POST", "/v1/pilots", &body), 201);
        let path = format!("/v1/pilots/{}", registered["pilot"].as_str().expect("an id"));
        (talker, path)
    }

    /// Milliseconds that claims of one payload take, sorted; each is finished at once.
    fn claim_times(&self) -> Vec<f64> {
        let (mut talker, path) = self.pilot();
        let mut times: Vec<f64> = (0..CLAIMS)
            .map(|_| {
                let began = Instant::now();
                let leases = claim(&mut talker, &path, 1);
                let took = began.elapsed().as_secs_f64() * 1e3;
                assert_eq!(leases.len(), 1, "nothing waits");
                finish(&mut talker, &leases);
                took
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times
    }
}

fn expect((status, body): (u16, Value), wanted: u16) -> Value {
    assert_eq!(status, wanted, "{body}");
    body
}

fn claim(talker: &mut Talker, pilot: &str, max: usize) -> Vec<Value> {
    let body = json!({"id": new_id(), "max": max, "cores": 1000, "memory": null, "time_left": null});
    let claimed = expect(talker.surely("POST", &format!("{pilot}/claim"), &body), 200);
    claimed["leases"].as_array().expect("leases").clone()
}

fn finish(talker: &mut Talker, leases: &[Value]) {
    let result = |l: &Value| {
        let report = json!({"host": "wn1", "exit_code": 0});
        json!({"attempt": l["attempt"], "lease": l["lease"], "outcome": "ok", "report": report})
    };
    let results: Vec<Value> = leases.iter().map(result).collect();
    expect(talker.surely("POST", "/v1/results", &json!(results)), 200);
}

/// Everything about one server.
pub fn measures() -> Vec<Measure> {
    let mut all = vec![finished_in_batches(), finished_singly(), submitted_singly(), submitted_in_arrays()];
    all.extend(backlog());
    all
}

/// Claim and finish, by all pilots at once, until nothing waits; payloads per second.
fn claim_and_finish(number: usize, max: usize) -> f64 {
    let server = Server::new();
    server.fill(number, 1);
    let pilots: Vec<_> = (0..PEERS).map(|_| server.pilot()).collect();
    let done = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (mut talker, path) in pilots {
            let done = &done;
            scope.spawn(move || {
                loop {
                    let leases = claim(&mut talker, &path, max);
                    if leases.is_empty() {
                        return;
                    }
                    finish(&mut talker, &leases);
                    done.fetch_add(leases.len(), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), number, "some were lost");
    rate(number, began.elapsed())
}

fn rate(number: usize, took: Duration) -> f64 {
    number as f64 / took.as_secs_f64()
}

fn per_second(name: &'static str, value: f64, goal: f64) -> Measure {
    Measure { name, value, unit: "1/s", beside: None, goal: Some(Goal::NotBelow(goal)) }
}

fn finished_in_batches() -> Measure {
    let value = claim_and_finish(FINISHED.0, BATCH);
    let beside = straight_into_sqlite(FINISHED.0).expect("SQLite works");
    Measure {
        name: "claim + finish, 32 pilots, claims of 32",
        value,
        unit: "1/s",
        beside: Some(("the same rows straight into SQLite".to_owned(), beside)),
        goal: Some(Goal::AtLeast(0.5)),
    }
}

fn finished_singly() -> Measure {
    per_second("claim + finish, 32 pilots, singly", claim_and_finish(FINISHED.1, 1), 3_000.0)
}

fn submitted_singly() -> Measure {
    let server = Server::new();
    let each = FINISHED.1 / PEERS;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..PEERS {
            scope.spawn(|| {
                let mut alice = server.alice();
                for _ in 0..each {
                    let spec = json!({"command": ["/bin/true"]});
                    let body = json!({"id": new_id(), "delegation": server.delegation, "spec": spec});
                    expect(alice.surely("POST", "/v1/payloads", &body), 201);
                }
            });
        }
    });
    per_second("submit one by one, 32 users", rate(each * PEERS, began.elapsed()), 2_000.0)
}

fn submitted_in_arrays() -> Measure {
    let server = Server::new();
    let began = Instant::now();
    server.fill(10 * ARRAY, 1);
    per_second("submit in arrays of 10,000", rate(10 * ARRAY, began.elapsed()), 100_000.0)
}

/// What a long queue costs: claims, and memory.
fn backlog() -> Vec<Measure> {
    let p99 = |times: &[f64]| times[times.len() * 99 / 100];
    let few = Server::new();
    few.fill(FEW, 1);
    let few = p99(&few.claim_times());
    let beside = |name, value| Measure {
        name,
        value,
        unit: "ms",
        beside: Some(("1,000 waiting".to_owned(), few)),
        goal: Some(Goal::AtMost(1.2)),
    };
    let server = Server::new();
    server.fill(many(), 1);
    let waiting = beside("claim p99, 1,000,000 waiting", p99(&server.claim_times()));
    (2..=20).for_each(|cores| server.fill(FEW, cores));
    let signatures = beside("the same, 20 kinds of requirements", p99(&server.claim_times()));
    vec![waiting, signatures, memory(&server)]
}

/// Resident memory of a server with this backlog and 1,000 pilots connected.
fn memory(server: &Server) -> Measure {
    let pilots: Vec<_> = (0..1_000).map(|_| server.pilot()).collect();
    let queue = server.site.queue.as_ref().expect("the queue runs");
    let value = crate::bench_pilot::resident_mib(queue.pid());
    drop(pilots);
    let name = "memory of the server, 1,000,000 waiting, 1,000 pilots";
    Measure { name, value, unit: "MiB", beside: None, goal: Some(Goal::Value(200.0)) }
}

/// The rows of a claim and of a result, in two transactions for each batch, into a store of the same schema.
fn straight_into_sqlite(number: usize) -> rusqlite::Result<f64> {
    let server = Server::new();
    server.fill(number, 1);
    let (_, path) = server.pilot();
    let pilot = path.rsplit('/').next().unwrap_or_default().to_owned();
    let Server { mut site, .. } = server;
    site.kill_queue();
    let mut conn = Connection::open(site.store.join("queue.db"))?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "foreign_keys", "on")?;
    let ids: Vec<String> = conn
        .prepare("SELECT id FROM payloads ORDER BY seq")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let began = Instant::now();
    for batch in ids.chunks(BATCH) {
        let rows: Vec<[String; 4]> =
            batch.iter().map(|payload| [new_id(), payload.clone(), pilot.clone(), new_id()]).collect();
        for statements in [&CLAIMED, &FINISH] {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for row in &rows {
                write(&tx, statements, row)?;
            }
            tx.commit()?;
        }
    }
    Ok(rate(number, began.elapsed()))
}

/// A statement, and which of attempt, payload, pilot and lease it takes.
type Statement = (&'static str, &'static [usize]);

const CLAIMED: [Statement; 4] = [
    (
        "INSERT INTO attempts (id, payload, number, pilot, lease, leased) VALUES (?, ?, 1, ?, ?, 1)",
        &[0, 1, 2, 3],
    ),
    ("INSERT INTO leases (attempt, payload, pilot, id, renewed) VALUES (?, ?, ?, ?, 1000)", &[0, 1, 2, 3]),
    ("UPDATE payloads SET attempts = 1, state = 'matched' WHERE id = ?", &[1]),
    (
        "INSERT INTO events (attempt, payload, at, actor, state, cause) VALUES (?, ?, 1, '/CN=p', 'matched', ?)",
        &[0, 1, 2],
    ),
];
const FINISH: [Statement; 4] = [
    ("UPDATE attempts SET outcome = 'ok', report = '{\"host\": \"wn1\"}', ended = 2 WHERE id = ?", &[0]),
    ("DELETE FROM leases WHERE id = ?", &[3]),
    ("UPDATE payloads SET state = 'done', finished = 2 WHERE id = ?", &[1]),
    (
        "INSERT INTO events (attempt, payload, at, actor, state, cause) VALUES (?, ?, 2, '/CN=p', 'done', ?)",
        &[0, 1, 2],
    ),
];

fn write(conn: &Connection, statements: &[Statement], row: &[String; 4]) -> rusqlite::Result<()> {
    for (sql, columns) in statements {
        conn.prepare_cached(sql)?.execute(params_from_iter(columns.iter().map(|n| &row[*n])))?;
    }
    Ok(())
}
