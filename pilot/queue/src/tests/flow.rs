//! A payload's way through the queue when all goes well, and the ends it can take.

use super::support::World;
use openssl::sha::sha256;
use pilot_api::*;
use serde_json::{Value, json};

fn digest(bytes: &[u8]) -> String {
    hex::encode(sha256(bytes))
}

#[tokio::test]
async fn a_payload_goes_all_the_way() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let hash = digest(b"input");
    w.put(&w.alice, &format!("/v1/blobs/{hash}"), "input").await.ok();
    let spec = json!({"command": ["cat", "in"], "env": {"A": "1"}, "outputs": ["out"],
                      "inputs": [{"path": "in", "sha256": hash, "size": 5, "mode": 0o644}]});
    let ids = w.submit(&w.alice, delegation, spec).await.json::<Submitted>().ids;
    let pilot = w.register().await;
    let lease = w.claim(pilot, 1).await.remove(0);
    assert_eq!((lease.payload, lease.number, lease.owner.as_str()), (ids[0], 1, w.alice.dn()));
    assert_eq!(lease.spec.env["A"], "1");
    assert_eq!(w.get(&w.pilot, &format!("/v1/blobs/{hash}")).await.body, "input");
    for state in ["running", "completing", "running"] {
        let synced: HeartbeatReply = w.sync(pilot, &[&lease], state).await.json();
        assert!(synced.lost.is_empty() && synced.wishes.is_empty() && !synced.drain);
    }
    let log = format!("/v1/attempts/{}/logs/stdout?lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &format!("{log}&offset=0"), "hello ").await.ok();
    w.put(&w.pilot, &format!("{log}&offset=6"), "world").await.ok();
    let output = format!("/v1/attempts/{}/output?lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &output, "tar").await.ok();
    w.result(&lease, Outcome::Ok).await.ok();
    let payload = w.show(&w.alice, ids[0]).await;
    assert_eq!((payload.state, payload.reason), (PayloadState::Done, None));
    assert_eq!(payload.attempts[0].outcome, Some(Outcome::Ok));
    assert_eq!(payload.attempts[0].report.as_ref().unwrap().host, "wn1");
    let log = w.get(&w.alice, &format!("/v1/payloads/{}/logs/stdout?offset=3", ids[0])).await;
    assert_eq!((&log.body[..], &log.headers["x-log-end"]), (&b"lo world"[..], &"1".parse().unwrap()));
    assert_eq!(w.get(&w.alice, &format!("/v1/payloads/{}/output", ids[0])).await.body, "tar");
    let events: Vec<HistoryEntry> = w.get(&w.alice, &format!("/v1/payloads/{}/events", ids[0])).await.json();
    let states: Vec<_> = events.iter().map(|e| e.state.as_str()).collect();
    assert_eq!(states, ["received", "waiting", "matched", "running", "completing", "done"]);
    assert_eq!(events[5].actor, w.pilot.dn());
    assert!(events.is_sorted_by_key(|e| e.seq));
}

#[tokio::test]
async fn outcomes_decide_what_follows() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let pilot = w.register().await;
    for (outcome, state) in [
        (Outcome::User, PayloadState::Failed),
        (Outcome::Limit, PayloadState::Failed),
        (Outcome::Killed, PayloadState::Killed),
    ] {
        let id = w.submit_true(&w.alice, delegation).await;
        let lease = w.claim(pilot, 1).await.remove(0);
        w.result(&lease, outcome).await.ok();
        w.result(&lease, outcome).await.ok();
        let payload = w.show(&w.alice, id).await;
        assert_eq!((payload.state, payload.attempts.len()), (state, 1));
        assert!(payload.reason.unwrap().starts_with(outcome.as_str()));
    }
    let id = w.submit_true(&w.alice, delegation).await;
    for number in 1..=3 {
        assert_eq!(w.state(id).await, PayloadState::Waiting);
        let lease = w.claim(pilot, 1).await.remove(0);
        assert_eq!(lease.number, number);
        w.result(&lease, Outcome::Infra).await.ok();
    }
    let payload = w.show(&w.alice, id).await;
    assert_eq!((payload.state, payload.attempts.len()), (PayloadState::Failed, 3));
}

#[tokio::test]
async fn an_array_keeps_its_order_and_claims_take_what_fits() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let big = json!({"command": ["big"], "cores": 64});
    w.submit(&w.alice, delegation, big).await.json::<Submitted>();
    let body = json!({"delegation": delegation, "spec": {"command": ["a"], "memory": 400}, "array": [5, 14]});
    let ids = w.post(&w.alice, "/v1/payloads", body).await.json::<Submitted>().ids;
    assert_eq!(ids.len(), 10);
    let pilot = w.register().await;
    // Four slots and cores, but memory for two only.
    let leases = w.claim(pilot, 10).await;
    let got: Vec<_> = leases.iter().map(|l| (l.payload, l.array_index)).collect();
    assert_eq!(got, [(ids[0], Some(5)), (ids[1], Some(6))]);
    assert!(w.claim(pilot, 10).await.is_empty(), "the registration bounds what a pilot can hold");
    w.result(&leases[0], Outcome::Ok).await.ok();
    assert_eq!(w.claim(pilot, 10).await[0].payload, ids[2]);
    let list: Vec<Payload> = w.get(&w.alice, "/v1/payloads").await.json();
    assert_eq!(list.len(), 11);
    assert!(list.is_sorted_by_key(|p| p.id));
    assert_eq!(list[1].attempts.len(), 1);
    let newest: Vec<Payload> = w.get(&w.alice, "/v1/payloads?limit=2").await.json();
    assert_eq!(newest.iter().map(|p| p.id).collect::<Vec<_>>(), ids[8..]);
}

#[tokio::test]
async fn a_short_slot_gets_no_long_payload() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    w.submit(&w.alice, delegation, json!({"command": ["long"], "walltime": 1000})).await.json::<Submitted>();
    let pilot = w.register().await;
    for (time_left, expected) in [(999, 0), (1000, 1)] {
        let body = json!({"max": 1, "cores": 1, "memory": null, "time_left": time_left});
        let claimed: Claimed = w.post(&w.pilot, &format!("/v1/pilots/{pilot}/claim"), body).await.json();
        assert_eq!(claimed.leases.len(), expected);
    }
}

#[tokio::test]
async fn cancelling_is_a_wish_until_the_pilot_confirms_it() {
    let w = World::new().await;
    let (id, pilot, lease) = w.leased().await;
    let cancel = format!("/v1/payloads/{id}/cancel");
    assert_eq!(w.post(&w.alice, &cancel, Value::Null).await.json::<Payload>().state, PayloadState::Matched);
    w.post(&w.alice, &cancel, Value::Null).await.json::<Payload>();
    let synced: HeartbeatReply = w.sync(pilot, &[&lease], "running").await.json();
    assert_eq!(synced.wishes.len(), 1);
    let again: HeartbeatReply = w.sync(pilot, &[&lease], "running").await.json();
    assert_eq!(again.wishes[0].id, synced.wishes[0].id, "repeated until acknowledged");
    let body = json!({"leases": [{"lease": lease.lease, "state": "running"}], "state": "busy",
                      "acked": [synced.wishes[0].id]});
    let acked: HeartbeatReply = w.post(&w.pilot, &format!("/v1/pilots/{pilot}/sync"), body).await.json();
    assert!(acked.wishes.is_empty());
    w.result(&lease, Outcome::Killed).await.ok();
    assert_eq!(w.state(id).await, PayloadState::Killed);
    assert_eq!(w.post(&w.alice, &cancel, Value::Null).await.json::<Payload>().state, PayloadState::Killed);
}

#[tokio::test]
async fn a_waiting_payload_can_be_held_released_and_cancelled_at_once() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    let pilot = w.register().await;
    let word = async |word: &str| {
        let reply = w.call(&w.alice, "POST", &format!("/v1/payloads/{id}/{word}"), "").await;
        reply.json::<Payload>().state
    };
    assert_eq!(word("hold").await, PayloadState::Held);
    assert!(w.claim(pilot, 1).await.is_empty());
    assert_eq!(word("release").await, PayloadState::Waiting);
    assert_eq!(word("cancel").await, PayloadState::Killed);
    assert!(w.claim(pilot, 1).await.is_empty());
}

#[tokio::test]
async fn pilots_are_listed_drained_and_leave() {
    let w = World::new().await;
    let (id, pilot, lease) = w.leased().await;
    let pilots: Vec<Pilot> = w.get(&w.alice, "/v1/pilots").await.json();
    assert_eq!((pilots.len(), pilots[0].state, pilots[0].running), (1, PilotState::Busy, 1));
    assert_eq!(pilots[0].registration.host, "wn1");
    w.post(&w.pilot, &format!("/v1/pilots/{pilot}/drain"), Value::Null).await.ok();
    assert!(w.sync(pilot, &[&lease], "running").await.json::<HeartbeatReply>().drain);
    let bye = format!("/v1/pilots/{pilot}/bye");
    w.post(&w.pilot, &bye, json!({"reason": "slot ends"})).await.ok();
    w.post(&w.pilot, &bye, json!({"reason": "slot ends"})).await.ok();
    let payload = w.show(&w.alice, id).await;
    assert_eq!((payload.state, payload.attempts[0].outcome), (PayloadState::Waiting, Some(Outcome::Lost)));
    assert!(payload.reason.unwrap().contains("slot ends"));
    let pilots: Vec<Pilot> = w.get(&w.alice, "/v1/pilots").await.json();
    assert_eq!((pilots[0].state, pilots[0].running), (PilotState::Done, 0));
    w.sync(pilot, &[], "running").await.refused(409, "illegal_transition");
    w.result(&lease, Outcome::Ok).await.refused(409, "lease_superseded");
}
