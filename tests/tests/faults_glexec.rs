//! `glexec` under each fault of `docs/faults.md`. Each test is a cell of its table.

use harness::fault::{Disk, SignalStorm, upgrade};
use harness::{Machine, Run, needs};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const SPOOL: &str = "/var/spool/pilotage/records";
/// The spool holds back 256 KiB for the final events of sessions that run: without them no session is opened, so a disk that
/// cannot have them would refuse for ever.
const SPOOL_DISK: u64 = 512 << 10;
const LIMIT: Duration = Duration::from_secs(60);

fn site() -> Machine {
    let m = Machine::builder().pilot("pilot").account("alice").build();
    m.map("Alice", "alice");
    m
}

fn call(m: &Machine, script: &str) -> Run {
    let proxy = m.proxy("Alice", "pilot");
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy).args(["/bin/sh", "-c", script])
}

fn await_file(path: &str) {
    let end = Instant::now() + LIMIT;
    while !Path::new(path).exists() {
        assert!(Instant::now() < end, "{path} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[needs(root)]
fn full_disk_of_records() {
    let m = site();
    let disk = Disk::small(Path::new(SPOOL), SPOOL_DISK);
    fs::set_permissions(SPOOL, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("it is ours");
    disk.fill();
    call(&m, "echo ran > /tmp/ran").output().refused(202, &["record", "space"]);
    assert!(!Path::new("/tmp/ran").exists(), "no record, no payload");
    disk.free();
    call(&m, "exit 0").output().exits(0);
    assert_eq!(m.records().len(), 1);
}

#[test]
#[needs(root)]
fn full_disk_of_sessions() {
    let m = site();
    let disk = Disk::small(Path::new("/run/glexec"), 64 << 10);
    fs::set_permissions("/run/glexec", std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("it is ours");
    disk.fill();
    call(&m, "echo ran > /tmp/ran").output().refused(202, &["/run/glexec"]);
    assert!(!Path::new("/tmp/ran").exists(), "no session, no payload");
    disk.free();
    call(&m, "exit 0").output().exits(0);
}

#[test]
#[needs(root)]
fn full_disk_while_a_payload_runs() {
    let m = site();
    let disk = Disk::small(Path::new(SPOOL), SPOOL_DISK);
    fs::set_permissions(SPOOL, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("it is ours");
    let running = call(&m, "echo > /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7").spawn();
    await_file("/tmp/begun");
    disk.fill();
    fs::write("/tmp/go", "").expect("/tmp is there");
    running.end_within(LIMIT).exits(7);
    assert_eq!(
        fs::read_dir("/run/glexec/sessions").map(Iterator::count).unwrap_or(0),
        0,
        "a session is left"
    );
}

#[test]
#[needs(root)]
fn full_disk_of_the_log() {
    let m = site();
    let disk = Disk::small(Path::new("/var/log/glexec"), 64 << 10);
    disk.fill();
    call(&m, "exit 7").output().exits(7);
}

#[test]
#[needs(root)]
fn program_replaced() {
    let m = site();
    let running = call(&m, "echo > /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7").spawn();
    await_file("/tmp/begun");
    upgrade(Path::new("/usr/sbin/glexec"));
    fs::write("/tmp/go", "").expect("/tmp is there");
    running.end_within(LIMIT).exits(7);
    // The copy has lost the setuid bit as a package's file would have it set again.
    fs::set_permissions("/usr/sbin/glexec", std::os::unix::fs::PermissionsExt::from_mode(0o4111))
        .expect("it is ours");
    call(&m, "exit 0").output().exits(0);
}

#[test]
#[needs(root)]
fn directory_removed() {
    let m = site();
    fs::create_dir("/tmp/gone").expect("/tmp is there");
    fs::set_permissions("/tmp/gone", std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("it is ours");
    let script = "echo > /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7";
    let running = call(&m, script).cwd("/tmp/gone").spawn();
    await_file("/tmp/begun");
    fs::remove_dir("/tmp/gone").expect("it is empty");
    fs::write("/tmp/go", "").expect("/tmp is there");
    running.end_within(LIMIT).exits(7);
    fs::remove_dir_all(SPOOL).expect("it is there");
    call(&m, "exit 0").output().refused(202, &[SPOOL]);
}

#[test]
#[needs(root)]
fn signal_storm() {
    let m = site();
    let running = call(
        &m,
        "trap '' HUP INT TERM USR1; echo > /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7",
    )
    .spawn();
    await_file("/tmp/begun");
    let signals = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGWINCH,
        libc::SIGCONT,
        libc::SIGURG,
    ];
    let storm = SignalStorm::on(running.pid(), &signals, Duration::from_millis(1));
    storm.wait_for(500);
    drop(storm);
    fs::write("/tmp/go", "").expect("/tmp is there");
    running.end_within(LIMIT).exits(7);
}

#[test]
#[needs(root)]
fn proxy_expired() {
    let m = site();
    let craft = harness::pki::Craft { from: -7200, to: -60, ..harness::pki::Craft::default() };
    let proxy = m.craft(&craft, "Alice", "pilot");
    let ran = m.glexec().env("GLEXEC_CLIENT_CERT", proxy).args(["/bin/true"]).output();
    ran.refused(201, &["expired"]);
}
