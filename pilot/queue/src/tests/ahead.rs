//! Claims of pilots that take leases ahead, and proxies that come with leases.

use super::support::World;
use pilot_api::*;
use pilot_core::capacity::MOST_AHEAD;
use serde_json::{Value, json};
use uuid::Uuid;

async fn waiting(w: &World, number: u64) {
    let delegation = w.delegate(&w.alice).await;
    let body = json!({"delegation": delegation, "spec": {"command": ["true"]}, "array": [1, number]});
    w.post(&w.alice, "/v1/payloads", body).await.json::<Submitted>();
}

async fn claim(w: &World, pilot: Uuid, more: Value) -> Vec<Lease> {
    let mut body = json!({"max": 200, "cores": 4, "memory": null, "time_left": null});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let claimed: Claimed = w.post(&w.pilot, &format!("/v1/pilots/{pilot}/claim"), body).await.json();
    claimed.leases
}

#[tokio::test]
async fn a_pilot_gets_more_than_its_slots_only_when_it_says_so_and_never_more_than_the_queue_allows() {
    let w = World::with(|s| s.max_array = 500).await;
    waiting(&w, 200).await;
    let old = w.register().await;
    assert_eq!(claim(&w, old, json!({})).await.len(), 4, "an older pilot knows nothing of prefetch");
    assert!(claim(&w, old, json!({})).await.is_empty());
    assert_eq!(claim(&w, old, json!({"prefetch": 3, "cores": 0})).await.len(), 3);
    assert!(claim(&w, old, json!({"prefetch": 3})).await.is_empty(), "what waits in the pilot counts");
    let greedy = w.register().await;
    let all = claim(&w, greedy, json!({"prefetch": 5000})).await;
    assert_eq!(all.len(), 4 + usize::try_from(MOST_AHEAD).unwrap());
}

#[tokio::test]
async fn what_was_taken_ahead_goes_back_at_once_and_to_others() {
    let w = World::new().await;
    waiting(&w, 5).await;
    let (one, two) = (w.register().await, w.register().await);
    let leases = claim(&w, one, json!({"prefetch": 1})).await;
    assert_eq!(leases.len(), 5);
    let returned = json!([{"attempt": leases[4].attempt, "lease": leases[4].lease, "outcome": "infra", "returned": true,
                           "report": {"host": "wn1"}}]);
    let answers: Vec<ResultAnswer> = w.post(&w.pilot, "/v1/results", returned).await.json();
    assert!(answers[0].problem.is_none());
    let again = w.claim(two, 4).await;
    assert_eq!((again.len(), again[0].payload), (1, leases[4].payload));
    let payload = w.show(&w.alice, again[0].payload).await;
    assert_eq!((payload.state, payload.attempts.len()), (PayloadState::Matched, 2));
    assert_eq!(payload.attempts[0].outcome, Some(Outcome::Lost), "nobody has failed");
}

#[tokio::test]
async fn a_proxy_comes_with_each_lease_that_a_good_request_came_for() {
    let w = World::new().await;
    waiting(&w, 3).await;
    let pilot = w.register().await;
    let keys: Vec<(String, String)> =
        (0..3).map(|_| delegation::new_request_for(delegation::KeyKind::EcdsaP256).unwrap()).collect();
    let requests = json!([keys[0].1, "nonsense"]);
    let leases = claim(&w, pilot, json!({"id": Uuid::now_v7(), "requests": requests})).await;
    let chains: Vec<Option<&str>> = leases.iter().map(|l| l.chain.as_deref()).collect();
    assert_eq!(chains[1..], [None, None], "a bad request costs nobody a lease");
    delegation::join(chains[0].unwrap(), &keys[0].0).unwrap();
    let blocks = credential::split_pem(chains[0].unwrap().as_bytes()).unwrap();
    let certificates = credential::pem::certificates(&blocks).unwrap();
    let now = crate::engine::now() / 1000;
    let identity = credential::verify_chain(&certificates, &w.queue.settings.trust, now).unwrap();
    assert!(identity.subject == w.alice.identity.subject && identity.limited);
    // The others are asked for one by one.
    let body = json!({"lease": leases[1].lease, "csr": keys[1].1});
    let path = format!("/v1/attempts/{}/delegation", leases[1].attempt);
    w.post(&w.pilot, &path, body).await.json::<SignedChain>();
}

#[tokio::test]
async fn a_claim_that_is_repeated_gets_its_leases_again_with_proxies() {
    let w = World::new().await;
    waiting(&w, 2).await;
    let pilot = w.register().await;
    let (key, csr) = delegation::new_request_for(delegation::KeyKind::EcdsaP256).unwrap();
    let body = json!({"id": Uuid::now_v7(), "max": 1, "requests": [csr]});
    let first = claim(&w, pilot, body.clone()).await;
    let again = claim(&w, pilot, body).await;
    assert_eq!((first.len(), first[0].lease), (1, again[0].lease));
    delegation::join(again[0].chain.as_deref().unwrap(), &key).unwrap();
}

#[tokio::test]
async fn more_requests_than_leases_can_be_given_are_refused() {
    let w = World::new().await;
    let pilot = w.register().await;
    let body = json!({"max": 1, "cores": 1, "memory": null, "time_left": null, "requests": vec!["x"; 257]});
    let reply = w.post(&w.pilot, &format!("/v1/pilots/{pilot}/claim"), body).await;
    reply.refused(400, "invalid");
    assert!(reply.problem().title.contains("requests"));
}
