//! A payload that reached a limit: its verdict, and another try with more.

use super::support::World;
use pilot_api::*;
use serde_json::{Value, json};
use uuid::Uuid;

const PILOT_HAS: u64 = 1000;

async fn submitted(w: &World, spec: Value) -> Uuid {
    let delegation = w.delegate(&w.alice).await;
    w.submit(&w.alice, delegation, spec).await.json::<Submitted>().ids[0]
}

async fn reach(w: &World, lease: &Lease, kind: &str, used: u64) {
    let allowed = if kind == "disk" { lease.spec.disk } else { lease.spec.memory };
    let limit = json!({"kind": kind, "allowed": allowed, "used": used});
    let report = json!({"host": "wn1", "exit_code": 143, "reason": "used too much", "limit": limit});
    let body = json!({"lease": lease.lease, "outcome": "limit", "report": report});
    w.post(&w.pilot, &format!("/v1/attempts/{}/result", lease.attempt), body).await.ok();
}

#[tokio::test]
async fn a_payload_gets_more_memory_up_to_what_a_pilot_has_and_says_so() {
    let w = World::new().await;
    let pilot = w.register().await;
    let spec = json!({"command": ["true"], "memory": 400, "retry_memory": "2x"});
    let id = submitted(&w, spec).await;
    for (memory, next) in [(400, Some(800)), (800, Some(PILOT_HAS)), (PILOT_HAS, None)] {
        let lease = w.claim(pilot, 1).await.remove(0);
        assert_eq!(lease.spec.memory, Some(memory));
        reach(&w, &lease, "memory", memory + 1).await;
        let payload = w.show(&w.alice, id).await;
        let reason = payload.reason.unwrap();
        assert!(reason.contains("used too much"), "{reason}");
        match next {
            Some(more) => {
                assert_eq!((payload.state, payload.spec.memory), (PayloadState::Waiting, Some(more)));
                assert!(reason.contains("tried again with"), "{reason}");
                assert_eq!(reason.contains("the most that a pilot has"), more == PILOT_HAS, "{reason}");
            }
            None => {
                assert_eq!(payload.state, PayloadState::Failed);
                assert!(
                    reason.contains("not tried again: no pilot that is there has more memory"),
                    "{reason}"
                );
            }
        }
        let limit = payload.attempts.last().unwrap().report.as_ref().unwrap().limit.unwrap();
        assert_eq!((limit.kind, limit.allowed, limit.used), (LimitKind::Memory, memory, memory + 1));
    }
    // The same submission is known again although the payload has grown.
    let listed: Vec<Payload> = w.get(&w.alice, "/v1/payloads").await.json();
    assert_eq!(listed[0].spec.memory, Some(PILOT_HAS));
}

#[tokio::test]
async fn only_the_limit_that_was_named_is_raised_and_attempts_run_out() {
    let w = World::new().await;
    let pilot = w.register().await;
    let spec = json!({"command": ["true"], "memory": 10, "disk": 10, "retry_disk": "3x"});
    let id = submitted(&w, spec.clone()).await;
    let lease = w.claim(pilot, 1).await.remove(0);
    reach(&w, &lease, "memory", 11).await;
    assert_eq!(w.state(id).await, PayloadState::Failed);
    let id = submitted(&w, spec).await;
    for disk in [10, 30, 90] {
        assert_eq!(w.state(id).await, PayloadState::Waiting);
        let lease = w.claim(pilot, 1).await.remove(0);
        assert_eq!((lease.spec.disk, lease.spec.memory), (Some(disk), Some(10)));
        reach(&w, &lease, "disk", disk + 1).await;
    }
    let payload = w.show(&w.alice, id).await;
    assert_eq!(payload.state, PayloadState::Failed);
    assert!(payload.reason.unwrap().contains("all attempts are used up"));
}

#[tokio::test]
async fn one_that_was_cancelled_meanwhile_gets_nothing_more() {
    let w = World::new().await;
    let pilot = w.register().await;
    let id = submitted(&w, json!({"command": ["true"], "memory": 400, "retry_memory": "2x"})).await;
    let lease = w.claim(pilot, 1).await.remove(0);
    w.post(&w.alice, &format!("/v1/payloads/{id}/cancel"), Value::Null).await.json::<Payload>();
    reach(&w, &lease, "memory", 500).await;
    assert_eq!(w.state(id).await, PayloadState::Failed);
}
