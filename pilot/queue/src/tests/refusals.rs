//! Each refusal: who may not, what is malformed, what does not fit.

use super::support::{Person, World};
use axum::body::Body;
use axum::http::Request;
use openssl::sha::sha256;
use pilot_api::*;
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn nobody_gets_in_without_a_certificate() {
    let w = World::new().await;
    for (method, path) in [("GET", "/healthz"), ("GET", "/v1/payloads"), ("POST", "/v1/pilots")] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        w.raw(request).await.refused(401, "unauthenticated");
    }
    assert_eq!(w.get(&w.bob, "/healthz").await.body, "ok");
}

#[tokio::test]
async fn users_are_no_pilots() {
    let w = World::new().await;
    let id = Uuid::now_v7();
    for (method, path) in [
        ("POST", "/v1/pilots".to_owned()),
        ("POST", format!("/v1/pilots/{id}/claim")),
        ("POST", format!("/v1/pilots/{id}/sync")),
        ("POST", format!("/v1/pilots/{id}/drain")),
        ("POST", format!("/v1/pilots/{id}/bye")),
        ("POST", format!("/v1/attempts/{id}/delegation")),
        ("POST", format!("/v1/attempts/{id}/result")),
        ("PUT", format!("/v1/attempts/{id}/output?lease={id}")),
        ("PUT", format!("/v1/attempts/{id}/logs/stdout?lease={id}&offset=0")),
    ] {
        w.call(&w.alice, method, &path, "").await.refused(403, "not_a_pilot");
    }
}

#[tokio::test]
async fn other_users_payloads_do_not_exist() {
    let w = World::new().await;
    let (id, _, _) = w.leased().await;
    for (method, path) in [
        ("GET", format!("/v1/payloads/{id}")),
        ("GET", format!("/v1/payloads/{id}/events")),
        ("GET", format!("/v1/payloads/{id}/logs/stdout")),
        ("GET", format!("/v1/payloads/{id}/output")),
        ("POST", format!("/v1/payloads/{id}/cancel")),
        ("POST", format!("/v1/payloads/{id}/hold")),
        ("POST", format!("/v1/payloads/{id}/release")),
    ] {
        w.call(&w.bob, method, &path, "").await.refused(404, "unknown_payload");
    }
    assert!(w.get(&w.bob, "/v1/payloads").await.json::<Vec<Payload>>().is_empty());
    assert_eq!(w.state(id).await, PayloadState::Matched);
    w.get(&w.alice, &format!("/v1/payloads/{id}/output")).await.refused(404, "unknown_output");
}

#[tokio::test]
async fn a_limited_proxy_may_look_but_not_act() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    let limited = w.alice.limited();
    w.post(&limited, "/v1/delegations", Value::Null).await.refused(403, "limited_proxy");
    w.submit(&limited, delegation, json!({"command": ["true"]})).await.refused(403, "limited_proxy");
    w.post(&limited, &format!("/v1/payloads/{id}/cancel"), Value::Null).await.refused(403, "limited_proxy");
    assert_eq!(w.show(&limited, id).await.id, id);
}

#[tokio::test]
async fn one_pilots_dn_cannot_use_anothers_pilot_or_attempt() {
    let w = World::with(|s| s.pilots.extend(["/O=Test/CN=Bob".into()])).await;
    let (id, pilot, lease) = w.leased().await;
    let claim = json!({"max": 1, "cores": 1, "memory": null, "time_left": null});
    w.post(&w.bob, &format!("/v1/pilots/{pilot}/claim"), claim).await.refused(404, "unknown_pilot");
    let sync = json!({"leases": [], "state": "busy"});
    w.post(&w.bob, &format!("/v1/pilots/{pilot}/sync"), sync).await.refused(404, "unknown_pilot");
    let bye = json!({"reason": "evil"});
    w.post(&w.bob, &format!("/v1/pilots/{pilot}/bye"), bye).await.refused(404, "unknown_pilot");
    w.post(&w.bob, &format!("/v1/pilots/{pilot}/drain"), Value::Null).await.refused(404, "unknown_pilot");
    let result = json!({"lease": lease.lease, "outcome": "ok", "report": {}});
    let path = format!("/v1/attempts/{}/result", lease.attempt);
    w.post(&w.bob, &path, result).await.refused(404, "unknown_attempt");
    assert_eq!(w.state(id).await, PayloadState::Matched);
}

#[tokio::test]
async fn what_is_malformed_is_named() {
    let w = World::new().await;
    let call =
        async |method: &str, path: &str, body: &'static str| w.call(&w.alice, method, path, body).await;
    call("GET", "/v1/payloads/x", "").await.refused(400, "invalid");
    call("GET", "/v1/payloads?limit=x", "").await.refused(400, "invalid");
    call("POST", "/v1/payloads", "{").await.refused(400, "invalid");
    call("POST", "/v1/payloads", r#"{"unknown": 1}"#).await.refused(400, "invalid");
    call("GET", &format!("/v1/payloads/{}/logs/stdin", Uuid::nil()), "").await.refused(400, "invalid");
    call("GET", "/v1/blobs/xyz", "").await.refused(400, "invalid");
    call("GET", "/v1/nothing", "").await.refused(404, "unknown_call");
    call("DELETE", "/v1/payloads", "").await.refused(405, "no_such_method");
    let flood = "x".repeat((4 << 20) + 1);
    w.call(&w.alice, "POST", "/v1/payloads", flood).await.refused(413, "too_large");
    let delegation = w.delegate(&w.alice).await;
    w.submit(&w.alice, delegation, json!({"command": []})).await.refused(400, "invalid");
    let array = json!({"delegation": delegation, "spec": {"command": ["a"]}, "array": [0, 50]});
    w.post(&w.alice, "/v1/payloads", array).await.refused(422, "array_too_large");
}

#[tokio::test]
async fn pilots_must_make_sense() {
    let w = World::new().await;
    let (_, pilot, lease) = w.leased().await;
    let nobody = json!({"host": "", "slots": 1, "cores": 1, "memory": null, "switches_identity": true,
                        "time_left": null});
    w.post(&w.pilot, "/v1/pilots", nobody).await.refused(400, "invalid");
    w.sync(pilot, &[&lease], "done").await.refused(400, "invalid");
    w.result(&lease, Outcome::Lost).await.refused(400, "invalid");
    let lost = json!({"leases": [], "state": "lost"});
    w.post(&w.pilot, &format!("/v1/pilots/{pilot}/sync"), lost).await.refused(409, "illegal_transition");
    let unknown = Uuid::now_v7();
    let sync = json!({"leases": [], "state": "busy"});
    w.post(&w.pilot, &format!("/v1/pilots/{unknown}/sync"), sync).await.refused(404, "unknown_pilot");
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(sha256(bytes))
}

#[tokio::test]
async fn blobs_are_checked_and_private() {
    let w = World::new().await;
    let name = hash(b"data");
    let path = format!("/v1/blobs/{name}");
    w.put(&w.alice, &path, "other").await.refused(422, "hash_mismatch");
    w.put(&w.alice, &path, "x".repeat(1001)).await.refused(413, "too_large");
    w.get(&w.alice, &path).await.refused(404, "unknown_blob");
    w.put(&w.alice, &path, "data").await.ok();
    w.put(&w.alice, &path, "data").await.ok();
    assert_eq!(w.get(&w.alice, &path).await.body, "data");
    w.get(&w.bob, &path).await.refused(404, "unknown_blob");
    w.get(&w.pilot, &path).await.refused(404, "unknown_blob");
    let left = std::fs::read_dir(w.queue.settings.files.join("tmp")).unwrap().count();
    assert_eq!(left, 0, "refused uploads leave nothing behind");
    let submit = async |who: &Person, delegation: Uuid, size: u64| {
        let spec = json!({"command": ["a"],
                          "inputs": [{"path": "a", "sha256": name, "size": size, "mode": 0o600}]});
        w.submit(who, delegation, spec).await
    };
    let bobs = w.delegate(&w.bob).await;
    submit(&w.bob, bobs, 4).await.refused(422, "blob_missing");
    let delegation = w.delegate(&w.alice).await;
    submit(&w.alice, delegation, 5).await.refused(422, "blob_missing");
    submit(&w.alice, delegation, 4).await.json::<Submitted>();
    w.get(&w.pilot, &path).await.refused(404, "unknown_blob");
    let pilot = w.register().await;
    let lease = w.claim(pilot, 1).await.remove(0);
    assert_eq!(w.get(&w.pilot, &path).await.body, "data");
    w.result(&lease, Outcome::Ok).await.ok();
    w.get(&w.pilot, &path).await.refused(404, "unknown_blob");
}

#[tokio::test]
async fn a_log_chunk_out_of_place_learns_the_right_place() {
    let w = World::new().await;
    let (id, _, lease) = w.leased().await;
    let put = async |offset: u64, text: String| {
        let path =
            format!("/v1/attempts/{}/logs/stdout?lease={}&offset={offset}", lease.attempt, lease.lease);
        w.put(&w.pilot, &path, text).await
    };
    put(0, "12345".into()).await.ok();
    for offset in [0, 4, 6] {
        let refused = put(offset, "x".into()).await;
        refused.refused(409, "wrong_offset");
        assert_eq!(refused.problem().offset, Some(5));
    }
    put(5, "y".repeat(200)).await.ok();
    put(205, "more".into()).await.ok();
    let log = w.get(&w.alice, &format!("/v1/payloads/{id}/logs/stdout")).await.body;
    assert!(log.starts_with(b"12345yyy") && log.ends_with(b"dropped]\n") && log.len() < 200);
    let output = format!("/v1/attempts/{}/output?lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &output, "x".repeat(1001)).await.refused(413, "too_large");
}

#[tokio::test]
async fn too_late_is_a_conflict() {
    let w = World::new().await;
    let (id, _, lease) = w.leased().await;
    w.post(&w.alice, &format!("/v1/payloads/{id}/hold"), Value::Null)
        .await
        .refused(409, "illegal_transition");
    w.result(&lease, Outcome::Ok).await.ok();
    w.post(&w.alice, &format!("/v1/payloads/{id}/cancel"), Value::Null)
        .await
        .refused(409, "illegal_transition");
    assert_eq!(w.state(id).await, PayloadState::Done);
}
