//! Results that bring logs and output along.

use super::support::World;
use openssl::base64::encode_block;
use pilot_api::*;
use serde_json::{Value, json};

fn result(lease: &Lease, attached: Value) -> Value {
    json!([{"attempt": lease.attempt, "lease": lease.lease, "outcome": "ok", "report": {"host": "wn1"},
            "attached": attached}])
}

async fn send(w: &World, body: Value) -> Option<Problem> {
    let answers: Vec<ResultAnswer> = w.post(&w.pilot, "/v1/results", body).await.json();
    answers[0].problem.clone()
}

fn rest(offset: u64, text: &str) -> Value {
    json!({"offset": offset, "base64": encode_block(text.as_bytes())})
}

async fn log(w: &World, id: uuid::Uuid, channel: &str) -> Vec<u8> {
    w.get(&w.alice, &format!("/v1/payloads/{id}/logs/{channel}")).await.body.to_vec()
}

#[tokio::test]
async fn logs_and_output_are_there_when_the_result_is() {
    let w = World::new().await;
    let (id, _, lease) = w.leased().await;
    let path = format!("/v1/attempts/{}/logs/stdout?offset=0&lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &path, "first, ").await.ok();
    let attached =
        json!({"stdout": rest(7, "last"), "stderr": rest(0, "oh"), "output": encode_block(b"a tar")});
    let body = result(&lease, attached);
    assert!(send(&w, body.clone()).await.is_none());
    assert_eq!(w.state(id).await, PayloadState::Done);
    assert_eq!(log(&w, id, "stdout").await, b"first, last");
    assert_eq!(log(&w, id, "stderr").await, b"oh");
    let output = w.get(&w.alice, &format!("/v1/payloads/{id}/output")).await;
    assert_eq!(output.body.to_vec(), b"a tar");
    assert!(send(&w, body).await.is_none(), "the same again is fine");
    assert_eq!(log(&w, id, "stdout").await, b"first, last", "and changes nothing");
}

#[tokio::test]
async fn what_cannot_be_stored_refuses_its_own_result_and_leaves_the_lease_in_force() {
    let w = World::new().await;
    let (id, _, lease) = w.leased().await;
    let gap = send(&w, result(&lease, json!({"stdout": rest(5, "late")}))).await.unwrap();
    assert_eq!((gap.code.as_str(), gap.offset), ("wrong_offset", Some(0)));
    let large = "x".repeat(65_537);
    for (field, attached) in [
        ("attached.stdout", json!({"stdout": {"offset": 0, "base64": "%"}})),
        ("attached.stderr", json!({"stderr": rest(0, &large)})),
        ("attached.output", json!({"output": encode_block(large.as_bytes())})),
    ] {
        let problem = send(&w, result(&lease, attached)).await.unwrap();
        assert!(problem.code == "invalid" && problem.title.contains(field), "{problem:?}");
    }
    // What the operator allows for an output holds here, too.
    let output = json!({"output": encode_block("x".repeat(1001).as_bytes())});
    assert_eq!(send(&w, result(&lease, output)).await.unwrap().code, "too_large");
    assert_eq!(w.state(id).await, PayloadState::Matched);
    assert!(send(&w, result(&lease, json!({"stdout": rest(0, "whole")}))).await.is_none());
    assert_eq!(log(&w, id, "stdout").await, b"whole");
}

#[tokio::test]
async fn nothing_is_stored_for_a_lease_that_is_not_in_force() {
    let w = World::new().await;
    let (id, _, lease) = w.leased().await;
    let other = Lease { lease: uuid::Uuid::now_v7(), ..lease.clone() };
    let problem = send(&w, result(&other, json!({"stdout": rest(0, "forged")}))).await.unwrap();
    assert_eq!(problem.code, "lease_superseded");
    assert_eq!(log(&w, id, "stdout").await, b"");
}
