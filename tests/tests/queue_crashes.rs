//! Whatever moment the server is killed at: every answer that it gave still holds afterwards.

use end_to_end::site::Site;
use harness::needs;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the server is killed: `PILOTAGE_KILLS`, 4 otherwise.
fn kills() -> u32 {
    std::env::var("PILOTAGE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// One connection of somebody, made again after each failure.
struct Talker {
    tls: SslConnector,
    address: String,
    connection: Option<BufReader<SslStream<TcpStream>>>,
}

impl Talker {
    fn new(site: &Site, credential: &Path) -> Self {
        let pem = std::fs::read(credential).expect("a proxy");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL works");
        // The queue is the test's own.
        builder.set_verify(SslVerifyMode::NONE);
        let mut chain = X509::stack_from_pem(&pem).expect("certificates").into_iter();
        builder.set_certificate(&chain.next().expect("a certificate")).expect("a certificate");
        builder.set_private_key(&*PKey::private_key_from_pem(&pem).expect("a key")).expect("a key");
        chain.for_each(|issuer| builder.add_extra_chain_cert(issuer).expect("an issuer"));
        Self { tls: builder.build(), address: site.address.clone(), connection: None }
    }

    /// Status and body; nothing when no whole answer came.
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let answer = self.try_to_ask(method, path, body);
        if answer.is_none() {
            self.connection = None;
            std::thread::sleep(Duration::from_millis(20));
        }
        answer
    }

    fn try_to_ask(&mut self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        if self.connection.is_none() {
            let stream = TcpStream::connect(&self.address).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
            self.connection = Some(BufReader::new(self.tls.connect("queue", stream).ok()?));
        }
        let connection = self.connection.as_mut()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: queue\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
            }
            let field = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            length = field.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(length);
        }
        let mut text = vec![0; length];
        connection.read_exact(&mut text).ok()?;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_slice(&text).ok()? };
        Some((status?, value))
    }

    /// The same until there is an answer.
    fn surely(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        (0..1000).find_map(|_| self.ask(method, path, body)).expect("the queue comes back")
    }
}

/// An id as a client makes it.
fn new_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux makes them").trim().to_owned()
}

/// What the queue has answered.
#[derive(Default)]
struct Promises {
    submitted: Vec<String>,
    held: Vec<String>,
    leased: Vec<(String, String)>,
    done: Vec<String>,
}

fn delegation(talker: &mut Talker, credential: &Path) -> String {
    let (status, asked) = talker.surely("POST", "/v1/delegations", &json!({}));
    assert_eq!(status, 201, "{asked}");
    let pem = std::fs::read_to_string(credential).expect("a proxy");
    let csr = asked["csr"].as_str().expect("a request");
    let chain = delegation::sign(csr, &pem, Duration::from_secs(3600), false).expect("it can be signed");
    let id = asked["id"].as_str().expect("an id").to_owned();
    let (status, said) = talker.surely("PUT", &format!("/v1/delegations/{id}"), &json!({"chain": chain}));
    assert_eq!(status, 204, "{said}");
    id
}

fn submit_on_and_on(mut talker: Talker, delegation: &str, told: &Mutex<Promises>, over: &AtomicBool) {
    for round in 0u32.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let id = new_id();
        let body = json!({"id": id, "delegation": delegation, "spec": {"command": ["/bin/true"]}});
        if talker.ask("POST", "/v1/payloads", &body).is_none_or(|(status, _)| status != 201) {
            continue;
        }
        told.lock().expect("nobody panics").submitted.push(id.clone());
        if round % 5 == 0 {
            let hold = talker.ask("POST", &format!("/v1/payloads/{id}/hold"), &Value::Null);
            if hold.is_some_and(|(status, payload)| status == 200 && payload["state"] == "held") {
                told.lock().expect("nobody panics").held.push(id);
            }
        }
    }
}

fn run_on_and_on(mut talker: Talker, told: &Mutex<Promises>, over: &AtomicBool) {
    let host = json!({"id": new_id(), "host": "wn1", "slots": 64, "cores": 64, "memory": null,
                      "switches_identity": true, "time_left": null});
    let (status, registered) = talker.surely("POST", "/v1/pilots", &host);
    assert_eq!(status, 201, "{registered}");
    let claim = format!("/v1/pilots/{}/claim", registered["pilot"].as_str().expect("an id"));
    while !over.load(Ordering::Relaxed) {
        let wanted = json!({"id": new_id(), "max": 8, "cores": 64, "memory": null, "time_left": null});
        // The same claim again gets the same leases.
        let (status, claimed) = talker.surely("POST", &claim, &wanted);
        assert_eq!(status, 200, "{claimed}");
        let leases = claimed["leases"].as_array().expect("leases").clone();
        let text = |lease: &Value, key: &str| lease[key].as_str().expect("an id").to_owned();
        let given = leases.iter().map(|lease| (text(lease, "payload"), text(lease, "attempt")));
        told.lock().expect("nobody panics").leased.extend(given);
        let results: Vec<Value> = leases
            .iter()
            .map(|l| json!({"attempt": l["attempt"], "lease": l["lease"], "outcome": "ok", "report": {"host": "wn1"}}))
            .collect();
        let (status, answers) = talker.surely("POST", "/v1/results", &json!(results));
        assert_eq!(status, 200, "{answers}");
        for (lease, answer) in leases.iter().zip(answers.as_array().expect("answers")) {
            assert!(answer.get("problem").is_none(), "{answer}");
            told.lock().expect("nobody panics").done.push(text(lease, "payload"));
        }
    }
}

/// Ends the load, also when the test fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[needs("grid-proxy-init")]
fn every_answer_still_holds() {
    let mut site = Site::new("60s");
    let mut alice = Talker::new(&site, &site.alice);
    let delegation = delegation(&mut alice, &site.alice);
    let (told, over) = (Mutex::<Promises>::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = SetAtEnd(&over);
        for _ in 0..3 {
            let (talker, delegation) = (Talker::new(&site, &site.alice), delegation.as_str());
            scope.spawn(|| submit_on_and_on(talker, delegation, &told, &over));
        }
        for _ in 0..2 {
            let talker = Talker::new(&site, &site.pilot);
            scope.spawn(|| run_on_and_on(talker, &told, &over));
        }
        for kill in 0..kills() {
            // Moments that no two runs share.
            let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let moment = u64::from(moment.map_or(0, |d| d.subsec_nanos()) % 700);
            std::thread::sleep(Duration::from_millis(100 + moment));
            site.kill_queue();
            site.start_queue();
            assert!(site.queue.as_mut().is_some_and(|queue| queue.is_running()), "after kill {kill}");
        }
        std::thread::sleep(Duration::from_millis(500));
    });
    let told = told.into_inner().expect("nobody panics");
    assert!(!told.done.is_empty() && !told.held.is_empty(), "the load was none");
    let mut state = |id: &String| {
        let (status, payload) = alice.surely("GET", &format!("/v1/payloads/{id}"), &Value::Null);
        assert_eq!(status, 200, "{id} was accepted: {payload}");
        payload
    };
    for id in &told.submitted {
        state(id);
    }
    for id in &told.held {
        assert_eq!(state(id)["state"], "held", "{id}");
    }
    for (id, attempt) in &told.leased {
        let payload = state(id);
        let known =
            payload["attempts"].as_array().expect("attempts").iter().any(|a| a["id"] == attempt.as_str());
        assert!(known, "attempt {attempt} was given: {payload}");
    }
    for id in &told.done {
        let payload = state(id);
        assert_eq!(
            (&payload["state"], payload["attempts"].as_array().map(Vec::len)),
            (&json!("done"), Some(1))
        );
    }
}
