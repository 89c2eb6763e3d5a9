//! What users are told of changes: streams and callbacks.

use super::support::*;
use crate::http::router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use futures_util::StreamExt;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Verifier;
use pilot_api::*;
use pilot_store::Store;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;
use tower_service::Service;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// An open stream of somebody.
struct Stream {
    body: axum::body::BodyDataStream,
    text: String,
}

async fn asked(w: &World, who: &Person, path: &str, last: Option<i64>) -> axum::response::Response {
    let mut request = Request::builder().uri(path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(transport::Peer { identity: who.identity.clone() });
    router(w.queue.clone()).call(request).await.unwrap()
}

impl Stream {
    async fn open(w: &World, who: &Person, path: &str, last: Option<i64>) -> Self {
        let answer = asked(w, who, path, last).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body().into_data_stream(), text: String::new() }
    }

    /// Reads until the text says so.
    async fn until(&mut self, says: &str) -> &str {
        while !self.text.contains(says) {
            let more =
                timeout(LIMIT, self.body.next()).await.unwrap_or_else(|_| panic!("{says}: {}", self.text));
            let more = more.unwrap_or_else(|| panic!("ended before {says}: {}", self.text)).unwrap();
            self.text.push_str(&String::from_utf8_lossy(&more));
        }
        &self.text
    }

    fn events(&self) -> Vec<StateEvent> {
        let data = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn cancelled(w: &World, who: &Person) -> Uuid {
    let delegation = w.delegate(who).await;
    let id = w.submit(who, delegation, json!({"command": ["true"]})).await.json::<Submitted>().ids[0];
    w.post(who, &format!("/v1/payloads/{id}/cancel"), Value::Null).await.json::<Payload>();
    id
}

#[tokio::test]
async fn a_stream_tells_each_user_of_own_payloads_and_goes_on_after_a_restart() {
    let w = World::new().await;
    let early = cancelled(&w, &w.alice).await;
    let mut now = Stream::open(&w, &w.alice, "/v1/events", None).await;
    assert_eq!(now.until(":").await, ": nothing new\n\n", "old events are for those who ask");
    cancelled(&w, &w.bob).await;
    let late = cancelled(&w, &w.alice).await;
    now.until("event: killed").await;
    assert!(now.events().iter().all(|event| event.payload == late), "{}", now.text);
    let mut all = Stream::open(&w, &w.alice, "/v1/events?after=0", None).await;
    all.until(&format!("id: {}\n", now.events().last().unwrap().entry.seq)).await;
    let seen = all.events();
    assert!(seen.iter().all(|event| event.payload == early || event.payload == late));
    assert!(seen.windows(2).all(|two| two[0].entry.seq < two[1].entry.seq));
    let history: Vec<HistoryEntry> = w.get(&w.alice, &format!("/v1/payloads/{late}/events")).await.json();
    assert_eq!(now.events().into_iter().map(|event| event.entry).collect::<Vec<_>>(), history);
    w.queue.closing.cancel();
    now.until(": come again").await;
    let w = w.restart(|_| {}).await;
    let mut again = Stream::open(&w, &w.alice, "/v1/events?after=0", Some(seen[1].entry.seq)).await;
    again.until(&format!("id: {}\n", seen.last().unwrap().entry.seq)).await;
    assert_eq!(again.events(), seen[2..], "what was seen is not told again");
}

#[tokio::test]
async fn a_user_has_a_few_streams_and_wrong_numbers_are_named() {
    let w = World::new().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(Stream::open(&w, &w.alice, "/v1/events?after=", None).await);
    }
    w.get(&w.alice, "/v1/events").await.refused(429, "too_many_streams");
    Stream::open(&w, &w.bob, "/v1/events", None).await.until(":").await;
    drop(open);
    let freed = async {
        // A stream notices with its next word that nobody reads it.
        while asked(&w, &w.alice, "/v1/events", None).await.status() != 200 {
            cancelled(&w, &w.alice).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, freed).await.unwrap();
    for bad in ["/v1/events?after=x", "/v1/events?after=-1", "/v1/events?before=1"] {
        w.get(&w.alice, bad).await.refused(400, "invalid");
    }
}

/// What a user's address was called with: signature and body; it does not take the first call.
type Calls = Arc<Mutex<Vec<(Vec<u8>, Bytes)>>>;

async fn hear(State(calls): State<Calls>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut calls = calls.lock().unwrap();
    calls.push((headers[SIGNATURE_HEADER].as_bytes().to_vec(), body));
    if calls.len() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
}

#[tokio::test]
async fn callbacks_come_signed_in_order_and_again_until_they_are_taken() {
    let key = openssl::rsa::Rsa::generate(2048).unwrap();
    let w = World::with(|s| {
        s.notify_private = true;
        s.key = s.store.with_file_name("key.pem");
        std::fs::write(&s.key, key.private_key_to_pem().unwrap()).unwrap();
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let calls = Calls::default();
    let user = axum::Router::new().route("/hook", axum::routing::post(hear)).with_state(calls.clone());
    let serving = tokio::spawn(axum::serve(listener, user).into_future());
    let _tasks = crate::upkeep::start(&w.queue);
    let delegation = w.delegate(&w.alice).await;
    let spec = json!({"command": ["true"], "notify": url});
    let id = w.submit(&w.alice, delegation, spec).await.json::<Submitted>().ids[0];
    for step in ["hold", "release", "cancel"] {
        w.post(&w.alice, &format!("/v1/payloads/{id}/{step}"), json!({})).await.json::<Payload>();
    }
    let public = PKey::from_rsa(key).unwrap();
    let told = async {
        loop {
            let calls: Vec<_> = calls.lock().unwrap().clone();
            let read = |(_, body): &(Vec<u8>, Bytes)| serde_json::from_slice::<Callback>(body).unwrap();
            let told: Vec<Callback> = calls.iter().map(read).collect();
            if told.last().is_some_and(|call| call.event.state.is_final()) {
                return (calls, told);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (calls, told) = timeout(LIMIT, told).await.unwrap();
    for (signature, body) in &calls {
        let signature = openssl::base64::decode_block(std::str::from_utf8(signature).unwrap()).unwrap();
        let mut verifier = Verifier::new(MessageDigest::sha256(), &public).unwrap();
        assert!(verifier.verify_oneshot(&signature, body).unwrap());
    }
    assert!(told.iter().all(|call| call.payload.id == id && call.payload.state == call.event.state));
    assert_eq!(told[0].event, told[1].event, "what was not taken comes again, before anything else");
    let history: Vec<HistoryEntry> = w.get(&w.alice, &format!("/v1/payloads/{id}/events")).await.json();
    assert!(history.len() >= 4 && history.last().unwrap().state == PayloadState::Killed);
    assert_eq!(told[1..].iter().map(|call| call.event.clone()).collect::<Vec<_>>(), history);
    let forgotten = async {
        while !w.queue.store.notices().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, forgotten).await.unwrap();
    serving.abort();
}
