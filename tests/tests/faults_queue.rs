//! The queue under each fault of `docs/faults.md`. Each test is a cell of its table.

use end_to_end::site::{LIMIT, Site};
use harness::fault::{Clock, FaultyCalls, SignalStorm, upgrade};
use harness::needs;
use std::fs;
use std::time::{Duration, Instant};

/// Repeats a command of Alice until it succeeds.
#[track_caller]
fn eventually(site: &Site, args: &[&str]) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let out = site.alice(args);
        if out.status.success() {
            return String::from_utf8_lossy(&out.stdout).trim().to_owned();
        }
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(Instant::now() < end, "{args:?}: {errors}\n{}", site.log("queue.log"));
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Submitted, run and done: the queue works.
#[track_caller]
fn works(site: &Site) {
    let _agent = site.agent("agent", &[]);
    let id = eventually(site, &["submit", "--", "/bin/true"]);
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
}

#[test]
#[needs("cc", "grid-proxy-init")]
fn slow_fsync() {
    let mut site = Site::closed("30s");
    let faults = FaultyCalls::new(site.dir.path());
    site.queue_env = faults.env().map(|(name, value)| (name.into(), value.into())).to_vec();
    site.start_queue();
    faults.delay("fsync", Duration::from_millis(300), "queue.db");
    works(&site);
    assert!(!faults.met().is_empty(), "nothing is synced");
}

#[test]
#[needs(faketime, "grid-proxy-init")]
fn stepped_clock() {
    let mut site = Site::closed("10s");
    let clock = Clock::new(site.dir.path());
    site.queue_env = clock.env().map(|(name, value)| (name.into(), value.into())).to_vec();
    site.start_queue();
    let _agent = site.agent("agent", &[]);
    let go = site.path("go");
    let id = site.shell(&format!("while [ ! -e {go} ]; do sleep 0.1; done"));
    site.await_state(&id, "running");
    clock.step("+2h");
    std::thread::sleep(Duration::from_secs(2));
    fs::write(&go, "").expect("the site's directory is there");
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    let attempts = site.show(&id)["attempts"].as_array().map_or(0, Vec::len);
    assert!(attempts <= 2, "a step costs one lease at most: {}", site.show(&id));
    // Further back, the users' proxies would not be valid yet, and be refused with that reason.
    clock.step("-3m");
    let next = eventually(&site, &["submit", "--", "/bin/true"]);
    assert_eq!(site.wait(&next), Some(0), "{}\n{}", site.show(&next), site.log("agent"));
}

#[test]
#[needs("grid-proxy-init")]
fn program_replaced() {
    let mut site = Site::closed("30s");
    let copy = site.dir.path().join("pilot-copy");
    fs::copy(&site.program, &copy).expect("a copy of the program");
    let original = std::mem::replace(&mut site.program, copy.clone());
    site.start_queue();
    upgrade(&copy);
    site.program = original;
    works(&site);
}

#[test]
#[needs("grid-proxy-init")]
fn signal_storm() {
    let mut site = Site::new("30s");
    let queue = site.queue.as_ref().expect("the queue runs").pid();
    let signals = [libc::SIGHUP, libc::SIGPIPE, libc::SIGWINCH, libc::SIGCHLD, libc::SIGCONT, libc::SIGURG];
    let storm = SignalStorm::on(queue, &signals, Duration::from_millis(2));
    works(&site);
    assert!(storm.sent() > 100, "{}", storm.sent());
    drop(storm);
    assert!(site.queue.as_mut().is_some_and(|queue| queue.is_running()));
}

#[test]
#[needs("grid-proxy-init")]
fn crash() {
    let mut site = Site::new("30s");
    let ids: Vec<String> = (0..5).map(|_| site.submit(&["--", "/bin/true"])).collect();
    site.kill_queue();
    site.start_queue();
    for id in &ids {
        assert_eq!(site.show(id)["state"], "waiting", "accepted is accepted");
    }
    works(&site);
}
