//! Proxies in and out.

use super::support::World;
use openssl::x509::X509;
use pilot_api::*;
use serde_json::{Value, json};
use std::time::Duration;

fn sign(csr: &str, credential: &str) -> String {
    delegation::sign(csr, credential, Duration::from_secs(3600), false).unwrap()
}

#[tokio::test]
async fn only_the_right_chain_completes_a_delegation() {
    let w = World::new().await;
    let d: Delegation = w.post(&w.alice, "/v1/delegations", Value::Null).await.json();
    let path = format!("/v1/delegations/{}", d.id);
    let put = async |chain: &str| w.put(&w.alice, &path, json!({"chain": chain}).to_string()).await;
    put("nonsense").await.refused(422, "bad_delegation");
    let (_, other_csr) = delegation::new_request().unwrap();
    put(&sign(&other_csr, &w.alice.credential)).await.refused(422, "bad_delegation");
    put(&sign(&d.csr, &w.bob.credential)).await.refused(422, "bad_delegation");
    let stranger = super::support::Pki::new(&w.dir.path().join("other-ca")).person("Alice");
    put(&sign(&d.csr, &stranger.credential)).await.refused(422, "bad_delegation");
    w.put(&w.bob, &path, json!({"chain": "x"}).to_string()).await.refused(404, "unknown_delegation");
    let submit = w.submit(&w.alice, d.id, json!({"command": ["true"]})).await;
    submit.refused(422, "delegation_incomplete");
    let good = sign(&d.csr, &w.alice.credential);
    put(&good).await.ok();
    put(&good).await.ok();
    put(&sign(&d.csr, &w.alice.credential)).await.refused(409, "already_signed");
    w.submit(&w.bob, d.id, json!({"command": ["true"]})).await.refused(404, "unknown_delegation");
    w.submit_true(&w.alice, d.id).await;
}

#[tokio::test]
async fn a_proxy_that_does_not_reach_the_pilot_is_refused_when_it_comes() {
    let w = World::new().await;
    for (path_length, reaches) in [(1, false), (2, true), (5, true)] {
        let d: Delegation = w.post(&w.alice, "/v1/delegations", Value::Null).await.json();
        let path = format!("/v1/delegations/{}", d.id);
        let chain = sign(&d.csr, &w.alice.proxy(path_length));
        let reply = w.put(&w.alice, &path, json!({"chain": chain}).to_string()).await;
        if reaches {
            reply.ok();
            continue;
        }
        reply.refused(422, "path_length");
        let title = reply.problem().title;
        for words in ["allows 1 more delegation", "2 are needed", "grid-proxy-init -rfc", "-path-length 2"] {
            assert!(title.contains(words), "{title}");
        }
        let submit = w.submit(&w.alice, d.id, json!({"command": ["true"]})).await;
        submit.refused(422, "delegation_incomplete");
    }
    // What was let in gets as far as promised.
    let d: Delegation = w.post(&w.alice, "/v1/delegations", Value::Null).await.json();
    let chain = sign(&d.csr, &w.alice.proxy(2));
    w.put(&w.alice, &format!("/v1/delegations/{}", d.id), json!({"chain": chain}).to_string()).await.ok();
    w.submit_true(&w.alice, d.id).await;
    let pilot = w.register().await;
    let lease = w.claim(pilot, 1).await.remove(0);
    let (_, csr) = delegation::new_request().unwrap();
    let body = json!({"lease": lease.lease, "csr": csr});
    let signed = w.post(&w.pilot, &format!("/v1/attempts/{}/delegation", lease.attempt), body).await;
    signed.json::<SignedChain>();
}

#[tokio::test]
async fn a_pilot_gets_a_limited_proxy_for_what_it_has_leased() {
    let w = World::new().await;
    let delegation = w.delegate_for(&w.alice, 7 * 3600).await;
    w.submit(&w.alice, delegation, json!({"command": ["true"], "walltime": 600})).await.json::<Submitted>();
    let pilot = w.register().await;
    let lease = w.claim(pilot, 1).await.remove(0);
    let (key, csr) = delegation::new_request().unwrap();
    let path = format!("/v1/attempts/{}/delegation", lease.attempt);
    let body = json!({"lease": lease.lease, "csr": csr});
    let signed: SignedChain = w.post(&w.pilot, &path, body.clone()).await.json();
    assert!(!signed.chain.contains("PRIVATE"));
    delegation::join(&signed.chain, &key).unwrap();
    let blocks = credential::split_pem(signed.chain.as_bytes()).unwrap();
    let certificates = credential::pem::certificates(&blocks).unwrap();
    let now = crate::engine::now() / 1000;
    let identity = credential::verify_chain(&certificates, &w.queue.settings.trust, now).unwrap();
    assert_eq!(identity.subject, w.alice.identity.subject);
    assert!(identity.limited);
    let leaf = X509::from_pem(signed.chain.as_bytes()).unwrap();
    let left = openssl::asn1::Asn1Time::days_from_now(0).unwrap().diff(leaf.not_after()).unwrap();
    let seconds = left.days * 86_400 + left.secs;
    assert!((4100..=4200).contains(&seconds), "walltime and an hour, not {seconds}");
    w.post(&w.pilot, &path, json!({"lease": lease.lease, "csr": "x"})).await.refused(422, "bad_request");
    w.post(&w.alice, &path, body.clone()).await.refused(403, "not_a_pilot");
    let wrong = json!({"lease": uuid::Uuid::now_v7(), "csr": csr});
    w.post(&w.pilot, &path, wrong).await.refused(409, "lease_superseded");
    w.result(&lease, Outcome::Ok).await.ok();
    w.post(&w.pilot, &path, body).await.refused(409, "lease_superseded");
}

#[tokio::test]
async fn a_payload_with_an_expired_proxy_is_held_until_it_gets_a_new_one() {
    let w = World::new().await;
    let delegation = w.delegate_for(&w.alice, 2).await;
    let id = w.submit_true(&w.alice, delegation).await;
    tokio::time::sleep(Duration::from_millis(3100)).await;
    w.submit(&w.alice, delegation, json!({"command": ["x"]})).await.refused(422, "delegation_expired");
    let pilot = w.register().await;
    assert!(w.claim(pilot, 1).await.is_empty());
    let payload = w.show(&w.alice, id).await;
    assert_eq!(payload.state, PayloadState::Held);
    assert!(payload.reason.unwrap().contains("expired"));
    let fresh = w.delegate(&w.alice).await;
    let release = format!("/v1/payloads/{id}/release");
    let foreign = w.delegate(&w.bob).await;
    w.post(&w.alice, &release, json!({"delegation": foreign})).await.refused(404, "unknown_delegation");
    let payload: Payload = w.post(&w.alice, &release, json!({"delegation": fresh})).await.json();
    assert_eq!(payload.state, PayloadState::Waiting);
    assert_eq!(w.claim(pilot, 1).await[0].payload, id);
}

#[tokio::test]
async fn keys_are_of_the_kind_that_the_operator_chose() {
    for (kind, wanted) in [
        (delegation::KeyKind::EcdsaP256, openssl::pkey::Id::EC),
        (delegation::KeyKind::Rsa2048, openssl::pkey::Id::RSA),
    ] {
        let w = World::with(|s| s.proxy_key = kind).await;
        let asked: Delegation = w.post(&w.alice, "/v1/delegations", Value::Null).await.json();
        let request = openssl::x509::X509Req::from_pem(asked.csr.as_bytes()).unwrap();
        assert_eq!(request.public_key().unwrap().id(), wanted);
        let (_, pilot, lease) = w.leased().await;
        let (key, csr) = delegation::new_request().unwrap();
        let path = format!("/v1/attempts/{}/delegation", lease.attempt);
        let signed: SignedChain =
            w.post(&w.pilot, &path, json!({"lease": lease.lease, "csr": csr})).await.json();
        assert!(delegation::join(&signed.chain, &key).is_ok(), "{pilot}");
    }
}
