//! Pilots that run payloads as their own account: marked where they may, refused where the queue's operator says so.

use end_to_end::contract::eventually;
use end_to_end::site::Site;
use harness::needs;
use serde_json::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[needs("grid-proxy-init")]
fn a_payload_that_ran_without_a_switch_says_so_everywhere() {
    let mut site = Site::closed("30s");
    let alice = site.pki.user("reader", "Alice").expect("a user").dn;
    site.queue_args = vec!["--factory-dn".into(), alice];
    site.start_queue();
    let id = site.submit(&["--", "/bin/true"]);
    let pilot = site.agent("agent", &["--max-idle", "2s"]);
    site.ok(&["wait", &id]);
    drop(pilot);
    let shown = site.show(&id);
    assert_eq!(
        (&shown["switched"], &shown["attempts"][0]["switched"]),
        (&false.into(), &false.into()),
        "{shown}"
    );
    let jobs = site.ok(&["jobs"]);
    assert!(jobs.contains("SWITCH") && jobs.contains(" no "), "{jobs}");
    let told = site.ok(&["show", &id]);
    assert!(told.contains("which did not switch the identity"), "{told}");
    // What the queue was told, as `accounting reconcile` reads it.
    let run: Value = serde_json::from_str(site.ok(&["runs"]).trim()).expect("one line of JSON");
    assert_eq!((&run["payload"], &run["switched"]), (&id.as_str().into(), &false.into()), "{run}");
    assert!(run["session"].is_null() && run["wall_s"].is_number(), "{run}");
}

#[test]
#[needs("grid-proxy-init")]
fn a_pilot_that_must_switch_and_does_not_ends_with_the_reason() {
    let mut site = Site::closed("30s");
    site.queue_args = vec!["--require-switch".into()];
    site.start_queue();
    let id = site.submit(&["--", "/bin/true"]);
    let _pilot = site.agent("agent", &[]);
    let said = eventually("the reason in the pilot's log", PATIENCE, || {
        let log = site.log("agent");
        log.contains("must_switch").then_some(log)
    });
    assert!(said.contains("without --no-switch"), "{said}");
    let why = eventually("the reason in what pilot explain says", PATIENCE, || {
        let told = site.ok(&["explain", &id]);
        told.contains("refused within the last hour").then_some(told)
    });
    assert!(why.contains("require_switch *") && why.contains("no pilot is there now"), "{why}");
    assert_eq!(site.show(&id)["state"], "waiting");
}
