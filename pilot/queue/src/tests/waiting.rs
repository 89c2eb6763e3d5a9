//! Requests that are held until there is something to say.

use super::support::World;
use pilot_api::*;
use pilot_store::Store;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Runs `act` a moment after `held` was sent; returns the answer, which must have come long before the wait was over.
async fn woken<T>(held: impl Future<Output = T>, act: impl Future<Output = ()>) -> T {
    let begin = Instant::now();
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        act.await;
    };
    let (answer, ()) = tokio::join!(held, later);
    assert!(begin.elapsed() >= Duration::from_millis(200), "answered too early");
    assert!(begin.elapsed() < Duration::from_secs(10), "not woken");
    answer
}

const CLAIM: &str = r#"{"max": 1, "cores": 1, "memory": null, "time_left": null}"#;

#[tokio::test]
async fn a_claim_is_answered_when_a_payload_is_submitted() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let pilot = w.register().await;
    let path = format!("/v1/pilots/{pilot}/claim?wait=30");
    let reply = woken(w.call(&w.pilot, "POST", &path, CLAIM), async {
        w.submit_true(&w.alice, delegation).await;
    })
    .await;
    assert_eq!(reply.json::<Claimed>().leases.len(), 1);
}

#[tokio::test]
async fn a_claim_is_answered_empty_after_the_wait() {
    let w = World::new().await;
    let pilot = w.register().await;
    let begin = Instant::now();
    let reply = w.call(&w.pilot, "POST", &format!("/v1/pilots/{pilot}/claim?wait=1"), CLAIM).await;
    assert!(reply.json::<Claimed>().leases.is_empty());
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_sync_is_answered_when_the_user_cancels_and_not_again_for_the_same_wish() {
    let w = World::with(|s| s.lease = Duration::from_secs(5)).await;
    let (id, pilot, lease) = w.leased().await;
    let path = format!("/v1/pilots/{pilot}/sync?wait=20");
    let body = json!({"leases": [{"lease": lease.lease, "state": "running"}], "state": "busy"});
    // A heartbeat is one second here: a held sync is answered after it at the latest.
    let cancel = async {
        w.post(&w.alice, &format!("/v1/payloads/{id}/cancel"), Value::Null).await.json::<Payload>();
    };
    let begin = Instant::now();
    let answer = woken(w.post(&w.pilot, &path, body.clone()), cancel).await.json::<HeartbeatReply>();
    assert!(begin.elapsed() < Duration::from_millis(900), "the wish was not what woke it");
    assert_eq!(answer.wishes[0].lease, lease.lease);
    let begin = Instant::now();
    let again = w.post(&w.pilot, &path, body).await.json::<HeartbeatReply>();
    assert_eq!(again.wishes.len(), 1, "repeated until acknowledged");
    assert!(begin.elapsed() >= Duration::from_millis(900), "but no reason to answer at once");
}

#[tokio::test]
async fn a_sync_is_answered_when_the_lease_is_lost_and_when_the_pilot_shall_drain() {
    let w = World::new().await;
    let (_, pilot, lease) = w.leased().await;
    let path = format!("/v1/pilots/{pilot}/sync?wait=20");
    let body = json!({"leases": [{"lease": lease.lease, "state": "running"}], "state": "busy"});
    let drain = async { w.post(&w.pilot, &format!("/v1/pilots/{pilot}/drain"), Value::Null).await.ok() };
    assert!(woken(w.post(&w.pilot, &path, body), drain).await.json::<HeartbeatReply>().drain);
    let body = json!({"leases": [{"lease": lease.lease, "state": "running"}], "state": "draining"});
    let lose = async {
        let renewed = w.queue.store.living().await.unwrap().leases[0].1;
        w.queue.effects.leases.resume(lease.lease, renewed, u64::MAX);
        w.queue.expire(lease.lease).await.unwrap();
    };
    let answer = woken(w.post(&w.pilot, &path, body), lose).await.json::<HeartbeatReply>();
    assert_eq!(answer.lost, [lease.lease]);
}

/// The result may be stored while a heartbeat that names its lease is held, or on its way.
#[tokio::test]
async fn a_lease_that_its_own_result_ended_is_not_lost() {
    let w = World::with(|s| s.lease = Duration::from_secs(5)).await;
    let (_, pilot, lease) = w.leased().await;
    let path = format!("/v1/pilots/{pilot}/sync?wait=20");
    let body = json!({"leases": [{"lease": lease.lease, "state": "completing"}], "state": "busy"});
    let begin = Instant::now();
    let deliver = async { w.result(&lease, Outcome::Infra).await.ok() };
    let held = woken(w.post(&w.pilot, &path, body.clone()), deliver).await.json::<HeartbeatReply>();
    assert!(held.lost.is_empty());
    assert!(begin.elapsed() >= Duration::from_millis(900), "a delivered result is no news for its pilot");
    assert!(w.sync(pilot, &[&lease], "completing").await.json::<HeartbeatReply>().lost.is_empty());
    // The next attempt changes nothing about it, and no other pilot may count on it.
    let second = w.claim(pilot, 1).await.remove(0);
    assert_eq!(second.payload, lease.payload);
    assert!(w.sync(pilot, &[&lease, &second], "running").await.json::<HeartbeatReply>().lost.is_empty());
    let other = w.register().await;
    assert_eq!(w.sync(other, &[&lease], "running").await.json::<HeartbeatReply>().lost, [lease.lease]);
}

#[tokio::test]
async fn waiting_for_the_end_ends_with_it() {
    let w = World::new().await;
    let (id, pilot, lease) = w.leased().await;
    let path = format!("/v1/payloads/{id}?wait=30&final=1");
    let act = async {
        w.sync(pilot, &[&lease], "running").await.json::<HeartbeatReply>();
        tokio::time::sleep(Duration::from_millis(100)).await;
        w.result(&lease, Outcome::User).await.ok();
    };
    assert_eq!(woken(w.get(&w.alice, &path), act).await.json::<Payload>().state, PayloadState::Failed);
}

#[tokio::test]
async fn waiting_for_a_change_ends_with_the_first() {
    let w = World::new().await;
    let (id, pilot, lease) = w.leased().await;
    let path = format!("/v1/payloads/{id}?wait=30&final=0");
    let act = async { drop(w.sync(pilot, &[&lease], "running").await.json::<HeartbeatReply>()) };
    assert_eq!(woken(w.get(&w.alice, &path), act).await.json::<Payload>().state, PayloadState::Running);
}

#[tokio::test]
async fn a_log_is_followed_to_its_end() {
    let w = World::new().await;
    let (id, _, lease) = w.leased().await;
    let path = |offset: u64| format!("/v1/payloads/{id}/logs/stdout?wait=30&offset={offset}");
    let put = |offset: u64| {
        format!("/v1/attempts/{}/logs/stdout?lease={}&offset={offset}", lease.attempt, lease.lease)
    };
    let (from, to) = (path(0), put(0));
    let reply = woken(w.get(&w.alice, &from), async { w.put(&w.pilot, &to, "one\n").await.ok() }).await;
    assert_eq!(reply.body, "one\n");
    assert!(!reply.headers.contains_key("x-log-end"));
    assert_eq!(reply.headers["x-log-attempt"], "1");
    let from = path(4);
    let reply = woken(w.get(&w.alice, &from), async { w.result(&lease, Outcome::Ok).await.ok() }).await;
    assert!(reply.body.is_empty());
    assert_eq!(reply.headers["x-log-end"], "1");
}

#[tokio::test]
async fn each_attempt_has_its_own_log() {
    let w = World::new().await;
    let (id, pilot, first) = w.leased().await;
    let put = |l: &Lease| format!("/v1/attempts/{}/logs/stdout?lease={}&offset=0", l.attempt, l.lease);
    w.put(&w.pilot, &put(&first), "first").await.ok();
    w.result(&first, Outcome::Infra).await.ok();
    let second = w.claim(pilot, 1).await.remove(0);
    w.put(&w.pilot, &put(&second), "second").await.ok();
    let newest = w.get(&w.alice, &format!("/v1/payloads/{id}/logs/stdout")).await;
    assert_eq!((&newest.body[..], &newest.headers["x-log-attempt"]), (&b"second"[..], &2.into()));
    assert!(!newest.headers.contains_key("x-log-end"));
    let oldest = w.get(&w.alice, &format!("/v1/payloads/{id}/logs/stdout?attempt=1")).await;
    assert_eq!((&oldest.body[..], &oldest.headers["x-log-end"]), (&b"first"[..], &1.into()));
}

#[tokio::test]
async fn held_requests_are_answered_when_the_queue_ends() {
    let w = World::new().await;
    let (id, pilot, lease) = w.leased().await;
    let sync = json!({"leases": [{"lease": lease.lease, "state": "running"}], "state": "busy"});
    let (claim, sync_path) =
        (format!("/v1/pilots/{pilot}/claim?wait=30"), format!("/v1/pilots/{pilot}/sync?wait=30"));
    let (show, log) =
        (format!("/v1/payloads/{id}?wait=30"), format!("/v1/payloads/{id}/logs/stdout?wait=30"));
    let held = async {
        tokio::join!(
            w.call(&w.pilot, "POST", &claim, CLAIM),
            w.post(&w.pilot, &sync_path, sync),
            w.get(&w.alice, &show),
            w.get(&w.alice, &log),
        )
    };
    let (claimed, synced, shown, log) = woken(held, async { w.queue.closing.cancel() }).await;
    assert!([claimed, synced, shown, log].iter().all(|r| r.status == 200));
}
