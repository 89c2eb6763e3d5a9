//! Attempts that end without the payload's fault, over the interface: the node's failures go elsewhere, and pilots that end in
//! order cost nothing. Lists of payloads as commands ask for them.

use super::support::World;
use pilot_api::*;
use serde_json::json;
use uuid::Uuid;

async fn register(w: &World, host: &str) -> Uuid {
    let body = json!({"host": host, "slots": 4, "cores": 4, "memory": null, "switches_identity": true, "time_left": null});
    w.post(&w.pilot, "/v1/pilots", body).await.json::<Registered>().pilot
}

#[tokio::test]
async fn after_a_failure_of_the_node_another_host_gets_the_payload() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    let (bad, good) = (register(&w, "bad").await, register(&w, "good").await);
    let lease = w.claim(bad, 1).await.remove(0);
    w.result(&lease, Outcome::Infra).await.ok();
    assert_eq!(w.state(id).await, PayloadState::Waiting);
    assert!(w.claim(bad, 1).await.is_empty(), "there is another host");
    let second = w.claim(good, 1).await.remove(0);
    assert_eq!((second.payload, second.number), (id, 2));
    w.result(&second, Outcome::Ok).await.ok();
    assert_eq!(w.state(id).await, PayloadState::Done);
}

#[tokio::test]
async fn a_payload_goes_back_to_none_of_the_hosts_that_failed_it_while_there_is_another() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    let bad = [register(&w, "bad1").await, register(&w, "bad2").await];
    for pilot in bad {
        let lease = w.claim(pilot, 1).await.remove(0);
        w.result(&lease, Outcome::Infra).await.ok();
    }
    let good = register(&w, "good").await;
    for pilot in bad {
        assert!(w.claim(pilot, 1).await.is_empty(), "both have failed it");
    }
    assert_eq!(w.claim(good, 1).await.remove(0).payload, id);
}

#[tokio::test]
async fn a_pilot_whose_node_cannot_run_payloads_says_why() {
    let w = World::new().await;
    let pilot = register(&w, "bad").await;
    let bye =
        json!({"reason": "this node cannot run payloads: the scratch directory is full", "failed": true});
    w.post(&w.pilot, &format!("/v1/pilots/{pilot}/bye"), bye).await.ok();
    let pilots: Vec<Pilot> = w.get(&w.alice, "/v1/pilots").await.json();
    assert_eq!((pilots[0].state, pilots[0].attempts), (PilotState::Failed, 0));
    assert!(pilots[0].reason.as_ref().unwrap().contains("is full"));
}

#[tokio::test]
async fn where_there_is_no_other_host_the_same_one_tries_again() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    let only = register(&w, "only").await;
    let lease = w.claim(only, 1).await.remove(0);
    w.result(&lease, Outcome::Infra).await.ok();
    assert_eq!(w.claim(only, 1).await.remove(0).payload, id);
}

#[tokio::test]
async fn pilots_that_end_in_order_are_not_the_payload_s_failure() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    for number in 1..=4 {
        let pilot = register(&w, "wn1").await;
        let lease = w.claim(pilot, 1).await.remove(0);
        assert_eq!((lease.payload, lease.number), (id, number));
        w.post(&w.pilot, &format!("/v1/pilots/{pilot}/bye"), json!({"reason": "ended by a signal"}))
            .await
            .ok();
        assert_eq!(w.state(id).await, PayloadState::Waiting, "after {number} orderly ends");
    }
    let pilot = register(&w, "wn1").await;
    let lease = w.claim(pilot, 1).await.remove(0);
    w.result(&lease, Outcome::Ok).await.ok();
    assert_eq!(w.state(id).await, PayloadState::Done);
}

#[tokio::test]
async fn payloads_are_found_by_the_beginning_of_their_id_or_of_their_array_s() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let one = w.submit_true(&w.alice, delegation).await;
    let array = Uuid::parse_str("11111111-2222-7333-8444-555555555555").expect("an id");
    let many = json!({"id": array, "delegation": delegation, "spec": {"command": ["true"]}, "array": [1, 3]});
    let many: Submitted = w.post(&w.alice, "/v1/payloads", many).await.json();
    let found = async |begins: &str| {
        let list = w.get(&w.alice, &format!("/v1/payloads?begins={begins}")).await.json::<Vec<Payload>>();
        list.into_iter().map(|p| p.id).collect::<Vec<_>>()
    };
    assert_eq!(found(&one.to_string()).await, [one]);
    assert_eq!(found("11111111-22").await, many.ids);
    assert!(found(&many.ids[1].to_string()[..35]).await.contains(&many.ids[1]));
    assert!(found("ffff").await.is_empty());
    w.get(&w.alice, "/v1/payloads?begins=x%25").await.refused(400, "invalid");
    w.get(&w.alice, "/v1/payloads?begins=").await.refused(400, "invalid");
    assert!(w.get(&w.bob, &format!("/v1/payloads?begins={one}")).await.json::<Vec<Payload>>().is_empty());
}
