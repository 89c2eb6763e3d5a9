//! The queue under each fault of `docs/faults.md`. Each test is a cell of its table.

use end_to_end::site::{LIMIT, Site};
use harness::fault::{Clock, Disk, FaultyCalls, SignalStorm, private_mounts, upgrade};
use harness::needs;
use std::fs;
use std::os::unix::fs::PermissionsExt;
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
#[needs(root, "grid-proxy-init")]
fn full_disk() {
    private_mounts();
    let mut site = Site::closed("30s");
    let disk = Disk::small(&site.dir.path().join("disk"), 4 << 20);
    site.store = disk.path().to_owned();
    site.start_queue();
    let before = site.submit(&["--", "/bin/true"]);
    disk.fill();
    let environment = format!("FILLER={}", "x".repeat(100_000));
    let submit = ["submit", "--env", &environment, "--", "/bin/true"];
    // A few pages are left inside of the store's own files. Each refused command has tried for a while, so one is enough.
    let refused = (0..50).map(|_| site.alice(&submit)).find(|out| !out.status.success());
    let refused = refused.expect("50 submissions of 100 kB fit on a full disk");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("the queue cannot write at the moment"), "{errors}");
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    assert_eq!(site.health(), 503, "{}", site.log("queue.log"));
    assert_eq!(site.show(&before)["state"], "waiting", "what was accepted can be read");
    let input = site.path("input");
    fs::write(&input, [0xff; 9000]).expect("the site's directory is there");
    let upload = site.alice(&["submit", "--input", &input, "--", "/usr/bin/cmp", "input", &input]);
    assert!(!upload.status.success(), "an upload that is not on disk was acknowledged");
    disk.free();
    let end = Instant::now() + LIMIT;
    while site.health() != 200 {
        assert!(Instant::now() < end, "{}", site.log("queue.log"));
        std::thread::sleep(Duration::from_millis(100));
    }
    works(&site);
    let _agent = site.agent("agent", &[]);
    let again = site.submit(&["--input", &input, "--", "/usr/bin/cmp", "input", &input]);
    assert_eq!(site.wait(&again), Some(0), "{}\n{}", site.show(&again), site.log("agent"));
    assert!(site.queue.as_mut().is_some_and(|queue| queue.is_running()));
}

#[test]
#[needs("cc", "grid-proxy-init")]
fn failing_fsync() {
    let mut site = Site::closed("30s");
    let faults = FaultyCalls::new(site.dir.path());
    site.queue_env = faults.env().map(|(name, value)| (name.into(), value.into())).to_vec();
    site.start_queue();
    site.submit(&["--", "/bin/true"]);
    faults.fail("fsync", libc::EIO, "queue.db");
    let end = Instant::now() + LIMIT;
    while faults.met().is_empty() {
        assert!(Instant::now() < end, "nothing is synced");
        let out = site.alice(&["submit", "--", "/bin/true"]);
        assert!(!out.status.success() || faults.met().is_empty(), "acknowledged and not synced");
    }
    faults.heal();
    works(&site);
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
    // Back by less than proxies are dated back: nobody notices.
    clock.step("-3m");
    let next = eventually(&site, &["submit", "--", "/bin/true"]);
    assert_eq!(site.wait(&next), Some(0), "{}\n{}", site.show(&next), site.log("agent"));
    // Further back, no proxy of today is valid yet: a queue that believes its clock has to say so. What is kept does not
    // suffer: the same clock put right serves at once, and what waited runs.
    let waiting = eventually(&site, &["submit", "--cores", "64", "--", "/bin/true"]);
    clock.step("-1h");
    let refused = site.alice(&["jobs"]);
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
    assert!(site.log("queue.log").contains("check the clocks"), "{}", site.log("queue.log"));
    clock.step("+0");
    let last = eventually(&site, &["submit", "--", "/bin/true"]);
    assert_eq!(site.wait(&last), Some(0), "{}\n{}", site.show(&last), site.log("agent"));
    assert_eq!(site.show(&waiting)["state"], "waiting", "{}", site.show(&waiting));
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
    storm.wait_for(100);
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

#[test]
#[needs("grid-proxy-init")]
fn second_server() {
    let mut site = Site::new("30s");
    let first = site.queue.as_ref().expect("the queue runs").pid();
    let store = format!("sqlite:{}", site.store.join("queue.db").display());
    let mut command = site.command();
    command.args(["queue", "--listen", "127.0.0.1:0", "--store", &store, "--pilot-dn", &site.pilot_dn]);
    let out = command.arg("--cert").arg(&site.host.0).arg("--key").arg(&site.host.1).output();
    let out = out.expect("the second queue can be started");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{errors}");
    assert!(errors.contains("is in use by") && errors.contains(&format!("process {first} ")), "{errors}");
    // A backup may be taken meanwhile, and is nobody else's; a store in use is not restored.
    let backup = site.path("backup.tar");
    let ask = |action: &str| {
        let mut command = site.command();
        command.args(["queue", action, &backup, "--store", &store]).output().expect("pilot can be run")
    };
    let id = site.submit(&["--", "/bin/true"]);
    let out = ask("backup");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mode = fs::metadata(&backup).expect("a backup").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let out = ask("restore");
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stderr).contains("is in use by"));
    site.kill_queue();
    for name in ["queue.db", "queue.db-wal", "queue.db-shm", "queue.db.lock"] {
        fs::remove_file(site.store.join(name)).ok();
    }
    fs::remove_dir_all(site.store.join("queue.db.d")).expect("the queue has files");
    let out = {
        let mut command = site.command();
        command.args(["queue", "restore", &backup, "--store", &store]).output().expect("pilot can be run")
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    site.start_queue();
    assert_eq!(site.show(&id)["state"], "waiting");
    works(&site);
}
