//! Whatever moment the server is killed at: every answer that it gave still holds afterwards.

use end_to_end::site::Site;
use end_to_end::talker::{Talker, delegation, new_id};
use harness::needs;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the server is killed: `PILOTAGE_KILLS`, 4 otherwise.
fn kills() -> u32 {
    std::env::var("PILOTAGE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// What the queue has answered.
#[derive(Default)]
struct Promises {
    submitted: Vec<String>,
    held: Vec<String>,
    leased: Vec<(String, String)>,
    done: Vec<String>,
}

fn submit_on_and_on(mut talker: Talker, delegation: &str, told: &Mutex<Promises>, over: &AtomicBool) {
    for round in 0u32.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let id = new_id();
        let body = json!({"id": id, "delegation": delegation, "spec": {"command": ["/bin/true"]}});
        if talker.ask("POST", "/v1/payloads", &body).is_none_or(|(status, _)| status != 201) {
            continue;
        }
        told.lock().expect("nobody panics").submitted.push(id.clone());
        if round % 5 == 0 {
            let hold = talker.ask("POST", &format!("/v1/payloads/{id}/hold"), &Value::Null);
            if hold.is_some_and(|(status, payload)| status == 200 && payload["state"] == "held") {
                told.lock().expect("nobody panics").held.push(id);
            }
        }
    }
}

fn run_on_and_on(mut talker: Talker, told: &Mutex<Promises>, over: &AtomicBool) {
    let host = json!({"id": new_id(), "host": "wn1", "slots": 64, "cores": 64, "memory": null,
                      "switches_identity": true, "time_left": null});
    let (status, registered) = talker.surely("POST", "/v1/pilots", &host);
    assert_eq!(status, 201, "{registered}");
    let claim = format!("/v1/pilots/{}/claim", registered["pilot"].as_str().expect("an id"));
    while !over.load(Ordering::Relaxed) {
        let wanted = json!({"id": new_id(), "max": 8, "cores": 64, "memory": null, "time_left": null});
        // The same claim again gets the same leases.
        let (status, claimed) = talker.surely("POST", &claim, &wanted);
        assert_eq!(status, 200, "{claimed}");
        let leases = claimed["leases"].as_array().expect("leases").clone();
        let text = |lease: &Value, key: &str| lease[key].as_str().expect("an id").to_owned();
        let given = leases.iter().map(|lease| (text(lease, "payload"), text(lease, "attempt")));
        told.lock().expect("nobody panics").leased.extend(given);
        let results: Vec<Value> = leases
            .iter()
            .map(|l| json!({"attempt": l["attempt"], "lease": l["lease"], "outcome": "ok", "report": {"host": "wn1"}}))
            .collect();
        let (status, answers) = talker.surely("POST", "/v1/results", &json!(results));
        assert_eq!(status, 200, "{answers}");
        for (lease, answer) in leases.iter().zip(answers.as_array().expect("answers")) {
            assert!(answer.get("problem").is_none(), "{answer}");
            told.lock().expect("nobody panics").done.push(text(lease, "payload"));
        }
    }
}

/// Ends the load, also when the test fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[needs("grid-proxy-init")]
fn every_answer_still_holds() {
    let mut site = Site::new("60s");
    let mut alice = Talker::new(&site, &site.alice);
    let delegation = delegation(&mut alice, &site.alice);
    let (told, over) = (Mutex::<Promises>::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = SetAtEnd(&over);
        for _ in 0..3 {
            let (talker, delegation) = (Talker::new(&site, &site.alice), delegation.as_str());
            scope.spawn(|| submit_on_and_on(talker, delegation, &told, &over));
        }
        for _ in 0..2 {
            let talker = Talker::new(&site, &site.pilot);
            scope.spawn(|| run_on_and_on(talker, &told, &over));
        }
        for kill in 0..kills() {
            // Moments that no two runs share.
            let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let moment = u64::from(moment.map_or(0, |d| d.subsec_nanos()) % 700);
            std::thread::sleep(Duration::from_millis(100 + moment));
            site.kill_queue();
            site.start_queue();
            assert!(site.queue.as_mut().is_some_and(|queue| queue.is_running()), "after kill {kill}");
        }
        std::thread::sleep(Duration::from_millis(500));
    });
    let told = told.into_inner().expect("nobody panics");
    assert!(!told.done.is_empty() && !told.held.is_empty(), "the load was none");
    let mut state = |id: &String| {
        let (status, payload) = alice.surely("GET", &format!("/v1/payloads/{id}"), &Value::Null);
        assert_eq!(status, 200, "{id} was accepted: {payload}");
        payload
    };
    for id in &told.submitted {
        state(id);
    }
    for id in &told.held {
        assert_eq!(state(id)["state"], "held", "{id}");
    }
    for (id, attempt) in &told.leased {
        let payload = state(id);
        let known =
            payload["attempts"].as_array().expect("attempts").iter().any(|a| a["id"] == attempt.as_str());
        assert!(known, "attempt {attempt} was given: {payload}");
    }
    for id in &told.done {
        let payload = state(id);
        assert_eq!(
            (&payload["state"], payload["attempts"].as_array().map(Vec::len)),
            (&json!("done"), Some(1))
        );
    }
}
