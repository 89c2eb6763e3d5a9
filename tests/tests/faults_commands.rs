//! Users' commands under each fault of `docs/faults.md`. Each test is a cell of its table.

use end_to_end::site::{LIMIT, Site};
use harness::fault::{Answer, Disk, private_mounts};
use harness::needs;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// Alice's command through a server that spoils its calls: exit code and standard error.
fn spoilt(site: &Site, args: &[&str], answer: &Answer) -> (Option<i32>, String) {
    let between = site.between_alice();
    between.spoil("", "", answer.clone());
    let out = site.alice_at(between.url(), args);
    assert!(!between.seen().is_empty(), "the command asked nothing");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
#[needs("grid-proxy-init")]
fn wrong_answers() {
    let site = Site::new("30s");
    site.submit(&["--", "/bin/true"]);
    for answer in
        [Answer::Status(404), Answer::Status(500), Answer::Status(502), Answer::Half, Answer::Nothing]
    {
        let (code, errors) = spoilt(&site, &["jobs"], &answer);
        assert_eq!(code, Some(3), "{answer:?}: {errors}");
        assert!(errors.contains("queue") && errors.lines().count() <= 3, "{answer:?}: {errors}");
    }
    let (code, errors) = spoilt(&site, &["jobs"], &Answer::Late(Duration::from_secs(2)));
    assert_eq!(code, Some(0), "{errors}");
}

/// The queue does what it is asked for, and nobody hears of it: the command asks again, and one is one.
#[test]
#[needs("grid-proxy-init")]
fn answers_lost_to_calls_that_create() {
    let site = Site::new("30s");
    let between = site.between_alice();
    let lost = |calls: &[(&str, &str)], args: &[&str]| {
        calls.iter().for_each(|(method, path)| between.spoil_next(1, method, path, Answer::Lost));
        let out = site.alice_at(between.url(), args);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {errors}");
        assert!(between.seen().iter().any(|call| call.contains("Lost")), "{:?}", between.seen());
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    fs::write(site.path("in.txt"), "abc").expect("the site's directory is there");
    let calls =
        [("POST", "/delegations"), ("PUT", "/delegations/"), ("PUT", "/blobs/"), ("POST", "/payloads")];
    let id = lost(&calls, &["submit", "--input", "in.txt", "--", "/bin/true"]).trim().to_owned();
    let jobs: serde_json::Value = serde_json::from_str(&site.ok(&["jobs", "--json"])).expect("JSON");
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "one submission is one payload: {jobs}");
    assert_eq!(lost(&[("POST", "/hold")], &["hold", &id]), format!("{id} held\n"));
    assert_eq!(lost(&[("POST", "/release")], &["release", &id]), format!("{id} waiting\n"));
    assert_eq!(lost(&[("POST", "/cancel")], &["cancel", &id]), format!("{id} cancelled\n"));
    let array = lost(&[("POST", "/payloads")], &["submit", "--array", "1-3", "--", "/bin/true"]);
    let jobs: serde_json::Value = serde_json::from_str(&site.ok(&["jobs", "--json"])).expect("JSON");
    assert_eq!((jobs.as_array().map(Vec::len), array.lines().count()), (Some(4), 3), "{jobs}");
}

#[test]
#[needs("grid-proxy-init")]
fn queue_restarts_under_wait() {
    let mut site = Site::new("60s");
    let _agent = site.agent("agent", &[]);
    let go = site.path("go");
    let id = site.shell(&format!("while [ ! -e {go} ]; do sleep 0.1; done; exit 5"));
    site.await_state(&id, "running");
    let mut command = site.command();
    command.env("X509_USER_PROXY", &site.alice).env("PILOT_QUEUE", &site.url).args(["wait", &id]);
    let mut waiting = end_to_end::site::Guard(command.stderr(Stdio::null()).spawn().expect("it runs"));
    std::thread::sleep(Duration::from_secs(1));
    site.kill_queue();
    site.start_queue();
    fs::write(&go, "").expect("the site's directory is there");
    assert_eq!(waiting.code_within(LIMIT), Some(5), "{}", site.log("agent"));
}

#[test]
#[needs("grid-proxy-init")]
fn proxy_expired() {
    let mut site = Site::new("30s");
    let alice = site.pki.user("alice", "Alice").expect("a user");
    site.alice = site.pki.short_proxy(&alice, &site.dir.path().join("old.pem"), -60).expect("a proxy");
    let out = site.alice(&["jobs"]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{errors}");
    assert!(errors.contains("expired") && errors.contains("grid-proxy-init"), "{errors}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn full_disk_at_home() {
    private_mounts();
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    // Zeros would become a hole, which fits anywhere.
    let id = site.submit(&["--output", "big", "--", "/bin/sh", "-c", "head -c 300000 /dev/urandom > big"]);
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    let disk = Disk::small(&site.dir.path().join("home"), 200 << 10);
    let to = disk.path().display().to_string();
    let out = site.alice(&["output", &id, "--to", &to]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{errors}");
    assert!(errors.contains("big") && errors.contains("space"), "{errors}");
}
