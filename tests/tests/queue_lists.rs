//! What users ask of the queue costs it little memory, whatever it holds; and arrays are named by their own id.

use end_to_end::site::Site;
use harness::needs;
use std::fs;
use std::process::{Command, Stdio};

/// Elements of the array, and bytes of its argument.
const ELEMENTS: usize = 2000;
const ARGUMENT: usize = 90_000;

/// Most memory that the process has had, in kB.
fn peak(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
#[needs("grid-proxy-init")]
fn lists_of_large_specifications_are_small() {
    let site = Site::new("30s");
    let queue = site.queue.as_ref().expect("the queue runs").pid();
    let argument = "x".repeat(ARGUMENT);
    let array = format!("1-{ELEMENTS}");
    let ids = site.submit(&["--array", &array, "--", "/bin/echo", &argument]);
    assert_eq!(ids.lines().count(), ELEMENTS);
    let before = peak(queue);
    let ask = |args: &[&str]| {
        let mut command: Command = site.command();
        command.env("X509_USER_PROXY", &site.alice).env("PILOT_QUEUE", &site.url).args(args);
        command.stdout(Stdio::piped()).spawn().expect("pilot can be run")
    };
    let listings: Vec<_> = (0..4).map(|_| ask(&["jobs", "--json", "--limit", "100000"])).collect();
    for listing in listings {
        let out = listing.wait_with_output().expect("pilot ends");
        let listed: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let listed = listed.as_array().expect("a list");
        assert_eq!(listed.len(), ELEMENTS, "all pages are there");
        let ids: Vec<&str> = ids.lines().collect();
        assert!(listed.iter().map(|p| p["id"].as_str()).eq(ids.iter().map(|id| Some(*id))), "in order");
    }
    let status: serde_json::Value = serde_json::from_str(&site.ok(&["status", "--json"])).expect("JSON");
    assert_eq!(status["payloads"]["waiting"], ELEMENTS, "{status}");
    // All specifications together are 180 MB; before, one such list took 572 MB.
    let grown = peak(queue).saturating_sub(before);
    assert!(grown < 50_000, "the queue took {grown} kB more for four lists");
}

#[test]
#[needs("grid-proxy-init")]
fn an_array_is_named_by_its_own_id_and_the_state_is_chosen_first() {
    let site = Site::new("30s");
    let first = site.submit(&["--", "/bin/true"]);
    site.ok(&["hold", &first]);
    let ids = site.submit(&["--array", "1-3", "--", "/bin/true"]);
    let element = ids.lines().next().expect("an id");
    let array = site.show(element)["array"].as_str().expect("an array has an id").to_owned();
    let held = site.ok(&["jobs", "--state", "held", "--limit", "1"]);
    assert!(held.contains(&first) && !held.contains(element), "{held}");
    site.ok(&["cancel", &array]);
    for id in ids.lines() {
        assert_eq!(site.show(id)["state"], "killed");
    }
    assert_eq!(site.show(&first)["state"], "held", "the array alone was meant");
    let status = site.ok(&["status"]);
    assert!(
        status.contains("3 killed") && status.contains("storage ") && status.contains(" free"),
        "{status}"
    );
}
