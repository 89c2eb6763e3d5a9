//! Leases: fencing, expiry, restart, concurrency.

use super::support::World;
use crate::upkeep::sweep;
use pilot_api::*;
use std::collections::HashSet;
use std::time::Duration;

/// A queue whose leases run out at the next sweep.
async fn impatient() -> World {
    World::with(|s| (s.lease, s.grace) = (Duration::from_millis(150), Duration::from_millis(50))).await
}

async fn silence() {
    tokio::time::sleep(Duration::from_millis(250)).await;
}

#[tokio::test]
async fn a_lost_lease_requeues_once_and_the_late_report_is_refused() {
    let w = impatient().await;
    let (id, pilot, lease) = w.leased().await;
    silence().await;
    sweep(&w.queue).await;
    sweep(&w.queue).await;
    let payload = w.show(&w.alice, id).await;
    assert_eq!((payload.state, payload.attempts.len()), (PayloadState::Waiting, 1));
    assert_eq!(payload.attempts[0].outcome, Some(Outcome::Lost));
    w.result(&lease, Outcome::Ok).await.refused(409, "lease_superseded");
    let log = format!("/v1/attempts/{}/logs/stdout?offset=0&lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &log, "late").await.refused(409, "lease_superseded");
    let output = format!("/v1/attempts/{}/output?lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &output, "late").await.refused(409, "lease_superseded");
    // The pilot is marked lost, and comes back by speaking again: it learns what it has lost.
    assert_eq!(w.get(&w.alice, "/v1/pilots").await.json::<Vec<Pilot>>()[0].state, PilotState::Lost);
    let synced: HeartbeatReply = w.sync(pilot, &[&lease], "running").await.json();
    assert_eq!(synced.lost, [lease.lease]);
    assert_eq!(w.get(&w.alice, "/v1/pilots").await.json::<Vec<Pilot>>()[0].state, PilotState::Busy);
    // The next attempt has a higher number and is not disturbed by the first one's lease.
    let second = w.claim(pilot, 1).await.remove(0);
    assert_eq!((second.payload, second.number), (id, 2));
    w.result(&lease, Outcome::Ok).await.refused(409, "lease_superseded");
    assert_eq!(w.state(id).await, PayloadState::Matched);
    w.result(&second, Outcome::Ok).await.ok();
    assert_eq!(w.state(id).await, PayloadState::Done);
}

#[tokio::test]
async fn a_payload_that_is_lost_too_often_fails() {
    let w = impatient().await;
    let (id, pilot, _) = w.leased().await;
    for number in 2..=3 {
        silence().await;
        sweep(&w.queue).await;
        assert_eq!(w.claim(pilot, 1).await[0].number, number);
    }
    silence().await;
    sweep(&w.queue).await;
    let payload = w.show(&w.alice, id).await;
    assert_eq!(payload.state, PayloadState::Failed);
    assert!(payload.reason.unwrap().starts_with("lost: attempt 3 of 3"));
    assert!(w.claim(pilot, 1).await.is_empty());
}

#[tokio::test]
async fn heartbeats_keep_a_lease() {
    let w = World::with(|s| (s.lease, s.grace) = (Duration::from_millis(600), Duration::ZERO)).await;
    let (id, pilot, lease) = w.leased().await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(w.sync(pilot, &[&lease], "running").await.json::<HeartbeatReply>().lost.is_empty());
        sweep(&w.queue).await;
    }
    // A sweep that saw the lease due just before a heartbeat came must look again.
    w.queue.expire(lease.lease).await.unwrap();
    w.queue.lose(pilot).await.unwrap();
    assert_eq!(w.state(id).await, PayloadState::Running);
    assert_eq!(w.get(&w.alice, "/v1/pilots").await.json::<Vec<Pilot>>()[0].state, PilotState::Busy);
}

#[tokio::test]
async fn a_heartbeat_that_does_not_name_a_lease_does_not_renew_it() {
    let w = impatient().await;
    let (id, pilot, _) = w.leased().await;
    silence().await;
    w.sync(pilot, &[], "running").await.json::<HeartbeatReply>();
    sweep(&w.queue).await;
    assert_eq!(w.state(id).await, PayloadState::Waiting);
}

#[tokio::test]
async fn a_pilot_cannot_use_the_lease_of_another_attempt() {
    let w = World::new().await;
    let (_, pilot, one) = w.leased().await;
    let delegation = w.delegate(&w.bob).await;
    w.submit_true(&w.bob, delegation).await;
    let two = w.claim(pilot, 1).await.remove(0);
    let crossed = Lease { lease: two.lease, ..one.clone() };
    w.result(&crossed, Outcome::Ok).await.refused(409, "lease_superseded");
    let log = format!("/v1/attempts/{}/logs/stdout?offset=0&lease={}", one.attempt, two.lease);
    w.put(&w.pilot, &log, "x").await.refused(409, "lease_superseded");
    // Nor can another pilot renew it.
    let other = w.register().await;
    assert_eq!(w.sync(other, &[&one], "running").await.json::<HeartbeatReply>().lost, [one.lease]);
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let w = World::new().await;
    let (id, pilot, lease) = w.leased().await;
    let delegation = w.delegate(&w.alice).await;
    let waiting = w.submit_true(&w.alice, delegation).await;
    let log = format!("/v1/attempts/{}/logs/stderr?offset=0&lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &log, "before").await.ok();
    let events = w.get(&w.alice, &format!("/v1/payloads/{id}/events")).await.body;
    let w = w.restart(|_| {}).await;
    sweep(&w.queue).await;
    assert_eq!(w.get(&w.alice, &format!("/v1/payloads/{id}/events")).await.body, events);
    assert_eq!((w.state(id).await, w.state(waiting).await), (PayloadState::Matched, PayloadState::Waiting));
    assert!(w.sync(pilot, &[&lease], "running").await.json::<HeartbeatReply>().lost.is_empty());
    let log = format!("/v1/attempts/{}/logs/stderr?offset=6&lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &log, " after").await.ok();
    w.result(&lease, Outcome::Ok).await.ok();
    assert_eq!(w.state(id).await, PayloadState::Done);
    assert_eq!(w.claim(pilot, 1).await[0].payload, waiting);
    let text = w.get(&w.alice, &format!("/v1/payloads/{id}/logs/stderr")).await.body;
    assert_eq!(text, "before after");
}

#[tokio::test]
async fn what_ran_out_while_the_queue_was_down_is_taken_back_at_the_start() {
    let w = World::with(|s| (s.lease, s.grace) = (Duration::from_secs(1), Duration::ZERO)).await;
    let (id, _, lease) = w.leased().await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let w = w.restart(|_| {}).await;
    sweep(&w.queue).await;
    assert_eq!(w.state(id).await, PayloadState::Waiting);
    w.result(&lease, Outcome::Ok).await.refused(409, "lease_superseded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_claims_never_share_a_payload() {
    let w = World::with(|s| s.patience = Duration::from_secs(20)).await;
    let delegation = w.delegate(&w.alice).await;
    let body = serde_json::json!({"delegation": delegation, "spec": {"command": ["a"]}, "array": [0, 39]});
    w.post(&w.alice, "/v1/payloads", body).await.json::<Submitted>();
    let mut pilots = Vec::new();
    for _ in 0..12 {
        pilots.push(w.register().await);
    }
    let claims = pilots.iter().flat_map(|p| (0..4).map(|_| w.claim(*p, 1)));
    let leases: Vec<Lease> = futures_util::future::join_all(claims).await.into_iter().flatten().collect();
    let payloads: HashSet<_> = leases.iter().map(|l| l.payload).collect();
    assert_eq!((leases.len(), payloads.len()), (40, 40));
    assert_eq!(leases.iter().map(|l| l.lease).collect::<HashSet<_>>().len(), 40);
}
