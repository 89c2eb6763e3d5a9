//! A queue in a temporary directory, a small authority, and people who call the router as if TLS had verified them.

use crate::config::{Args, Settings};
use crate::http::router;
use crate::state::Queue;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request};
use harness::pki::build::{self, Certificate, Directory, Extension, Kind, dn};
use harness::pki::{INHERIT_ALL, PCI_RFC};
use identity::{Dn, VerifiedIdentity};
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use pilot_api::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tower_service::Service;
use uuid::Uuid;

const TWO_DAYS: i64 = 2 * 86_400;

fn new_key() -> PKey<Private> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    build::key(Kind::P256, NEXT.fetch_add(1, Ordering::Relaxed)).unwrap()
}

fn name(cn: &str) -> Vec<u8> {
    dn(&[("O", "Test"), ("CN", cn)])
}

/// Somebody with a certificate.
#[derive(Clone)]
pub struct Person {
    pub identity: Arc<VerifiedIdentity>,
    pub credential: String,
}

impl Person {
    pub fn dn(&self) -> &str {
        self.identity.subject.as_str()
    }

    /// The same person with a limited proxy.
    pub fn limited(&self) -> Self {
        let identity = VerifiedIdentity { limited: true, ..(*self.identity).clone() };
        Self { identity: Arc::new(identity), credential: self.credential.clone() }
    }

    /// The credential of a proxy of this person that allows so many more.
    pub fn proxy(&self, path_length: u8) -> String {
        let issuer = X509::from_pem(self.credential.as_bytes()).unwrap();
        let issuer_key = PKey::private_key_from_pem(self.credential.as_bytes()).unwrap();
        let key = new_key();
        let proxy = Certificate::proxy(&issuer.subject_name().to_der().unwrap(), "7", &key)
            .with(Extension::proxy(PCI_RFC, INHERIT_ALL, Some(path_length)))
            .valid(0, TWO_DAYS);
        build::credential(&[proxy.der(&issuer_key).unwrap(), issuer.to_der().unwrap()], &key).unwrap()
    }
}

pub struct Pki {
    key: PKey<Private>,
}

impl Pki {
    pub fn new(dir: &Path) -> Self {
        let key = new_key();
        let ca = Certificate::ca(&name("CA"), &name("CA"), &key).der(&key).unwrap();
        Directory::new(dir).unwrap().trust(&name("CA"), &ca).unwrap();
        Self { key }
    }

    pub fn person(&self, cn: &str) -> Person {
        let key = new_key();
        let person = Certificate::person(&name(cn), &name("CA"), &key).valid(0, TWO_DAYS);
        let credential = build::credential(&[person.der(&self.key).unwrap()], &key).unwrap();
        let chain = credential.split_inclusive("END CERTIFICATE-----\n").next().unwrap().to_owned();
        let identity = VerifiedIdentity {
            subject: Dn::parse(&format!("/O=Test/CN={cn}")).unwrap(),
            issuer: Dn::parse("/O=Test/CN=CA").unwrap(),
            serial: "01".into(),
            not_after: u64::MAX,
            limited: false,
            digest: [0; 32],
            voms: None,
            chain_pem: chain.into_bytes(),
        };
        Person { identity: Arc::new(identity), credential }
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert!(self.status < 300, "{} {}", self.status, String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn problem(&self) -> Problem {
        let kind = self.headers["content-type"].to_str().unwrap();
        assert_eq!(kind, "application/problem+json");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem
    }

    /// Asserts the refusal: status and code.
    pub fn refused(&self, status: u16, code: &str) {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.problem().code, code, "{text}");
    }

    pub fn ok(&self) {
        assert_eq!(self.status, 204, "{}", String::from_utf8_lossy(&self.body));
    }
}

/// The whole stage.
pub struct World {
    pub dir: tempfile::TempDir,
    pub queue: Arc<Queue>,
    pub alice: Person,
    pub bob: Person,
    pub pilot: Person,
}

pub fn settings(dir: &Path) -> Settings {
    let args = Args {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        store: Some(format!("sqlite:{}", dir.join("queue.db").display())),
        cert: Some("/nonexistent".into()),
        key: Some("/nonexistent".into()),
        ca_dir: Some(dir.join("ca")),
        pilot_dn: vec!["/O=Test/CN=Pilot".into()],
        max_blob: Some(1000),
        max_log: Some(100),
        max_array: Some(50),
        ..Args::default()
    };
    Settings { patience: Duration::from_millis(300), ..Settings::from_args(args).unwrap() }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        change(&mut settings);
        let pki = Pki::new(&settings.trust.ca_dir);
        let queue = Queue::open(settings).await.unwrap();
        let (alice, bob, pilot) = (pki.person("Alice"), pki.person("Bob"), pki.person("Pilot"));
        Self { dir, queue, alice, bob, pilot }
    }

    /// Stops the queue as if it had been killed, and starts it again.
    pub async fn restart(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.queue.settings.clone();
        change(&mut settings);
        self.queue = Queue::open(settings).await.unwrap();
        self
    }

    pub async fn raw(&self, request: Request<Body>) -> Reply {
        let response = router(self.queue.clone()).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn call(&self, who: &Person, method: &str, path: &str, body: impl Into<Body>) -> Reply {
        let mut request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        request.extensions_mut().insert(transport::Peer { identity: who.identity.clone() });
        self.raw(request).await
    }

    pub async fn get(&self, who: &Person, path: &str) -> Reply {
        self.call(who, "GET", path, Body::empty()).await
    }

    pub async fn put(&self, who: &Person, path: &str, body: impl Into<Body>) -> Reply {
        self.call(who, "PUT", path, body).await
    }

    pub async fn post(&self, who: &Person, path: &str, body: Value) -> Reply {
        self.call(who, "POST", path, body.to_string()).await
    }

    /// Delegates for an hour; returns the id.
    pub async fn delegate(&self, who: &Person) -> Uuid {
        self.delegate_for(who, 3600).await
    }

    pub async fn delegate_for(&self, who: &Person, seconds: u64) -> Uuid {
        let d: Delegation = self.post(who, "/v1/delegations", Value::Null).await.json();
        let life = Duration::from_secs(seconds);
        let chain = delegation::sign(&d.csr, &who.credential, life, false).unwrap();
        self.put(who, &format!("/v1/delegations/{}", d.id), json!({"chain": chain}).to_string()).await.ok();
        d.id
    }

    pub async fn submit(&self, who: &Person, delegation: Uuid, spec: Value) -> Reply {
        self.post(who, "/v1/payloads", json!({"delegation": delegation, "spec": spec})).await
    }

    /// Submits `true` and returns the payload's id.
    pub async fn submit_true(&self, who: &Person, delegation: Uuid) -> Uuid {
        let submitted: Submitted = self.submit(who, delegation, json!({"command": ["true"]})).await.json();
        submitted.ids[0]
    }

    pub async fn register(&self) -> Uuid {
        let body = json!({"host": "wn1", "slots": 4, "cores": 4, "memory": 1000, "switches_identity": true,
                          "time_left": null});
        let registered: Registered = self.post(&self.pilot, "/v1/pilots", body).await.json();
        registered.pilot
    }

    pub async fn claim(&self, pilot: Uuid, max: u32) -> Vec<Lease> {
        let body = json!({"max": max, "cores": 4, "memory": null, "time_left": null});
        let claimed: Claimed =
            self.post(&self.pilot, &format!("/v1/pilots/{pilot}/claim"), body).await.json();
        claimed.leases
    }

    pub async fn sync(&self, pilot: Uuid, leases: &[&Lease], state: &str) -> Reply {
        let leases: Vec<_> = leases.iter().map(|l| json!({"lease": l.lease, "state": state})).collect();
        let body = json!({"leases": leases, "state": "busy"});
        self.post(&self.pilot, &format!("/v1/pilots/{pilot}/sync"), body).await
    }

    pub async fn result(&self, lease: &Lease, outcome: Outcome) -> Reply {
        let body =
            json!({"lease": lease.lease, "outcome": outcome, "report": {"exit_code": 0, "host": "wn1"}});
        self.post(&self.pilot, &format!("/v1/attempts/{}/result", lease.attempt), body).await
    }

    pub async fn show(&self, who: &Person, id: Uuid) -> Payload {
        self.get(who, &format!("/v1/payloads/{id}")).await.json()
    }

    pub async fn state(&self, id: Uuid) -> PayloadState {
        self.show(&self.alice, id).await.state
    }

    /// A payload of Alice, leased to a fresh pilot.
    pub async fn leased(&self) -> (Uuid, Uuid, Lease) {
        let delegation = self.delegate(&self.alice).await;
        let id = self.submit_true(&self.alice, delegation).await;
        let pilot = self.register().await;
        let lease = self.claim(pilot, 1).await.remove(0);
        (id, pilot, lease)
    }
}
