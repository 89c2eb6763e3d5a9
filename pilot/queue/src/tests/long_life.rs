//! What a long life brings: backups, full disks, retention, batches, lost answers.

use super::support::World;
use crate::backup::{Action, run};
use crate::config::Args;
use crate::retention::forget_old;
use crate::upkeep::sweep;
use openssl::sha::sha256;
use pilot_api::*;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use uuid::Uuid;

#[tokio::test]
async fn the_same_id_again_is_the_same_thing() {
    let w = World::new().await;
    let id = Uuid::now_v7();
    let first: Delegation = w.post(&w.alice, "/v1/delegations", json!({"id": id})).await.json();
    let again: Delegation = w.post(&w.alice, "/v1/delegations", json!({"id": id})).await.json();
    assert_eq!((first.id, &first.csr), (again.id, &again.csr));
    w.post(&w.bob, "/v1/delegations", json!({"id": id})).await.refused(409, "id_taken");
    let delegation = w.delegate(&w.alice).await;
    for array in [Value::Null, json!([3, 5])] {
        let body = json!({"id": Uuid::now_v7(), "delegation": delegation, "spec": {"command": ["a"]}, "array": array});
        let first: Submitted = w.post(&w.alice, "/v1/payloads", body.clone()).await.json();
        let again: Submitted = w.post(&w.alice, "/v1/payloads", body.clone()).await.json();
        assert_eq!(first.ids, again.ids);
        let other =
            json!({"id": body["id"], "delegation": delegation, "spec": {"command": ["b"]}, "array": array});
        w.post(&w.alice, "/v1/payloads", other).await.refused(409, "id_taken");
    }
    assert_eq!(w.get(&w.alice, "/v1/payloads").await.json::<Vec<Payload>>().len(), 4);
    let pilot = w.register().await;
    let claim = json!({"id": Uuid::now_v7(), "max": 2, "cores": 4, "memory": null, "time_left": null});
    let path = format!("/v1/pilots/{pilot}/claim");
    let first: Claimed = w.post(&w.pilot, &path, claim.clone()).await.json();
    let again: Claimed = w.post(&w.pilot, &path, claim).await.json();
    let leases = |c: &Claimed| c.leases.iter().map(|l| l.lease).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((leases(&first).len(), leases(&first)), (2, leases(&again)), "a lost answer orphans no lease");
}

#[tokio::test]
async fn after_infra_another_host_comes_first() {
    let w = World::new().await;
    let (id, one, lease) = w.leased().await;
    w.result(&lease, Outcome::Infra).await.ok();
    assert_eq!(w.claim(one, 1).await[0].payload, id, "with no other host it is tried again at once");
    let w = World::new().await;
    let other = json!({"host": "wn2", "slots": 1, "cores": 4, "memory": null, "switches_identity": true, "time_left": null});
    let (id, one, lease) = w.leased().await;
    let two = w.post(&w.pilot, "/v1/pilots", other).await.json::<Registered>().pilot;
    w.result(&lease, Outcome::Infra).await.ok();
    assert!(w.claim(one, 1).await.is_empty());
    assert_eq!(w.claim(two, 1).await[0].payload, id);
}

#[tokio::test]
async fn orderly_ends_of_pilots_do_not_count() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    for number in 1..=4 {
        let pilot = w.register().await;
        assert_eq!(w.claim(pilot, 1).await[0].number, number);
        w.post(&w.pilot, &format!("/v1/pilots/{pilot}/bye"), json!({"reason": "its batch job ends"}))
            .await
            .ok();
        assert_eq!(w.state(id).await, PayloadState::Waiting);
    }
}

#[tokio::test]
async fn many_results_in_one_call() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let body = json!({"delegation": delegation, "spec": {"command": ["a"]}, "array": [1, 3]});
    w.post(&w.alice, "/v1/payloads", body).await.json::<Submitted>();
    let pilot = w.register().await;
    let leases = w.claim(pilot, 3).await;
    let result = |l: &Lease, lease| json!({"attempt": l.attempt, "lease": lease, "outcome": "ok", "report": {"host": "wn1"}});
    let mut results: Vec<Value> = leases.iter().map(|l| result(l, l.lease)).collect();
    results[1] = result(&leases[1], Uuid::now_v7());
    let mut invalid = result(&leases[2], leases[2].lease);
    invalid["outcome"] = json!("lost");
    results.insert(0, invalid);
    let answers: Vec<ResultAnswer> = w.post(&w.pilot, "/v1/results", json!(results)).await.json();
    let refused: Vec<_> = answers.iter().map(|a| a.problem.as_ref().map(|p| p.code.as_str())).collect();
    assert_eq!(refused, [Some("invalid"), None, Some("lease_superseded"), None]);
    assert_eq!(w.state(leases[0].payload).await, PayloadState::Done);
    assert_eq!(w.state(leases[1].payload).await, PayloadState::Matched);
}

#[tokio::test]
async fn lists_filter_first_and_status_counts_in_the_store() {
    let w = World::new().await;
    let delegation = w.delegate(&w.alice).await;
    let held = w.submit_true(&w.alice, delegation).await;
    w.post(&w.alice, &format!("/v1/payloads/{held}/hold"), Value::Null).await.json::<Payload>();
    for _ in 0..3 {
        w.submit_true(&w.alice, delegation).await;
    }
    let found: Vec<Payload> = w.get(&w.alice, "/v1/payloads?limit=2&state=held").await.json();
    assert_eq!(found.iter().map(|p| p.id).collect::<Vec<_>>(), [held]);
    w.get(&w.alice, "/v1/payloads?state=heldd").await.refused(400, "invalid");
    let status: Status = w.get(&w.alice, "/v1/status").await.json();
    assert_eq!((status.payloads["held"], status.payloads["waiting"]), (1, 3));
    assert!(w.get(&w.bob, "/v1/status").await.json::<Status>().payloads.is_empty());
}

#[tokio::test]
async fn a_nearly_full_disk_takes_no_new_inputs() {
    let w = World::with(|s| s.high_water = 0).await;
    let hash: String = sha256(b"data").iter().map(|b| format!("{b:02x}")).collect();
    let refused = w.put(&w.alice, &format!("/v1/blobs/{hash}"), "data").await;
    refused.refused(503, "storage_unavailable");
    assert!(refused.problem().retryable);
    assert!(w.get(&w.alice, "/v1/status").await.json::<Status>().storage.full);
}

#[tokio::test]
async fn what_is_over_is_forgotten_in_time() {
    let w = World::new().await;
    let (id, _, lease) = w.leased().await;
    let log = format!("/v1/attempts/{}/logs/stdout?offset=0&lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &log, "text").await.ok();
    let logs = || std::fs::read_dir(w.queue.settings.files.join("logs")).unwrap().count();
    w.result(&lease, Outcome::Ok).await.ok();
    let now = crate::engine::now() / 1000;
    assert_eq!(forget_old(&w.queue, now).await.unwrap(), 0, "younger than its retention");
    let later = now + w.queue.settings.retention.as_secs() + 5;
    assert_eq!((logs(), forget_old(&w.queue, later).await.unwrap(), logs()), (1, 1, 0));
    w.get(&w.alice, &format!("/v1/payloads/{id}")).await.refused(404, "unknown_payload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_private_and_brings_everything_back() {
    let w = World::new().await;
    let (id, pilot, lease) = w.leased().await;
    let log = format!("/v1/attempts/{}/logs/stdout?offset=0&lease={}", lease.attempt, lease.lease);
    w.put(&w.pilot, &log, "text").await.ok();
    let file = w.dir.path().join("backup.tar");
    let at = |dir: &std::path::Path| Args {
        store: Some(format!("sqlite:{}", dir.join("queue.db").display())),
        config: Some("/dev/null".into()),
        ..Args::default()
    };
    let backup = Action::Backup { file: file.clone() };
    run(&backup, &at(w.dir.path())).await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(run(&backup, &at(w.dir.path())).await.unwrap_err().to_string().contains("exists"));
    let restore = Action::Restore { file: file.clone() };
    assert!(run(&restore, &at(w.dir.path())).await.unwrap_err().to_string().contains("exists"));
    let elsewhere = tempfile::tempdir().unwrap();
    let whole = std::fs::read(&file).unwrap();
    for cut in [0, 700, 4096 + 512, whole.len() - 2048] {
        let part = w.dir.path().join("part.tar");
        std::fs::write(&part, &whole[..cut]).unwrap();
        let refused = run(&Action::Restore { file: part }, &at(elsewhere.path())).await.unwrap_err();
        assert!(format!("{refused:#}").contains("cut"), "{refused:#}");
        assert!(!elsewhere.path().join("queue.db").exists() && !elsewhere.path().join("queue.db.d").exists());
    }
    run(&restore, &at(elsewhere.path())).await.unwrap();
    let place = elsewhere.path().to_owned();
    let w = w.restart(move |s| (s.store, s.files) = (place.join("queue.db"), place.join("queue.db.d"))).await;
    sweep(&w.queue).await;
    assert!(w.sync(pilot, &[&lease], "running").await.json::<HeartbeatReply>().lost.is_empty());
    assert_eq!(w.get(&w.alice, &format!("/v1/payloads/{id}/logs/stdout")).await.body, "text");
    let mode = std::fs::metadata(elsewhere.path().join("queue.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_limited_proxy_never_acts_as_a_pilot() {
    let w = World::new().await;
    let (_, pilot, lease) = w.leased().await;
    let limited = w.pilot.limited();
    for path in [
        "/v1/pilots".to_owned(),
        format!("/v1/pilots/{pilot}/claim"),
        format!("/v1/pilots/{pilot}/sync"),
        format!("/v1/pilots/{pilot}/bye"),
        format!("/v1/attempts/{}/delegation", lease.attempt),
        format!("/v1/attempts/{}/result", lease.attempt),
        "/v1/results".to_owned(),
    ] {
        w.post(&limited, &path, json!({})).await.refused(403, "limited_proxy");
    }
}

#[tokio::test]
async fn only_the_pilot_with_the_secret_moves_its_leases() {
    let w = World::new().await;
    let ask = async |secret: Option<&str>, method: &str, path: &str, body: Value| {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        if let Some(secret) = secret {
            request = request.header(SECRET_HEADER, secret);
        }
        let mut request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        request.extensions_mut().insert(transport::Peer { identity: w.pilot.identity.clone() });
        w.raw(request).await
    };
    let (own, other) = ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee");
    let body = json!({"id": Uuid::now_v7(), "host": "wn1", "slots": 4, "cores": 4, "memory": null,
                      "switches_identity": true, "time_left": null});
    ask(Some("short"), "POST", "/v1/pilots", body.clone()).await.refused(400, "invalid");
    let pilot = ask(Some(own), "POST", "/v1/pilots", body.clone()).await.json::<Registered>().pilot;
    assert_eq!(ask(Some(own), "POST", "/v1/pilots", body.clone()).await.json::<Registered>().pilot, pilot);
    ask(Some(other), "POST", "/v1/pilots", body).await.refused(409, "id_taken");
    let delegation = w.delegate(&w.alice).await;
    let id = w.submit_true(&w.alice, delegation).await;
    let claim = json!({"max": 1, "cores": 4, "memory": null, "time_left": null});
    let path = |word: &str| format!("/v1/pilots/{pilot}/{word}");
    ask(Some(other), "POST", &path("claim"), claim.clone()).await.refused(403, "not_that_pilot");
    let lease = ask(Some(own), "POST", &path("claim"), claim).await.json::<Claimed>().leases.remove(0);
    let result = json!({"lease": lease.lease, "outcome": "ok", "report": {"host": "wn1"}});
    let attempt = |word: &str| format!("/v1/attempts/{}/{word}", lease.attempt);
    for foreign in [None, Some(other)] {
        let sync = json!({"leases": [], "state": "draining"});
        ask(foreign, "POST", &path("sync"), sync).await.refused(403, "not_that_pilot");
        ask(foreign, "POST", &path("bye"), json!({"reason": "x"})).await.refused(403, "not_that_pilot");
        ask(foreign, "POST", &attempt("result"), result.clone()).await.refused(403, "not_that_pilot");
        let log = format!("{}?offset=0&lease={}", attempt("logs/stdout"), lease.lease);
        ask(foreign, "PUT", &log, json!("x")).await.refused(403, "not_that_pilot");
        let csr = json!({"lease": lease.lease, "csr": "x"});
        ask(foreign, "POST", &attempt("delegation"), csr).await.refused(403, "not_that_pilot");
        let mut named = result.clone();
        named["attempt"] = json!(lease.attempt);
        let answers: Vec<ResultAnswer> = ask(foreign, "POST", "/v1/results", json!([named])).await.json();
        assert_eq!(answers[0].problem.as_ref().unwrap().code, "not_that_pilot");
        assert_eq!(w.state(id).await, PayloadState::Matched);
    }
    ask(Some(own), "POST", &attempt("result"), result).await.ok();
    assert_eq!(w.state(id).await, PayloadState::Done);
}

#[tokio::test]
async fn every_answer_says_the_version_and_the_oldest_are_refused() {
    let w = World::new().await;
    let answer = w.get(&w.alice, "/v1/payloads").await;
    assert_eq!(answer.headers[VERSION_HEADER].to_str().unwrap(), VERSION.to_string());
    let mut request = axum::http::Request::builder().uri("/v1/payloads").header(VERSION_HEADER, "0");
    request.extensions_mut().unwrap().insert(transport::Peer { identity: w.alice.identity.clone() });
    let refused = w.raw(request.body(axum::body::Body::empty()).unwrap()).await;
    refused.refused(426, "too_old");
    assert!(refused.problem().title.contains("install the pilot program"));
}
