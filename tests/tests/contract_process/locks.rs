//! Locks on the proxies that come in and go out: glexec waits for whoever has them, for a while.

use end_to_end::contract::{set_conf, sh, site};
use harness::{Machine, needs};
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(700);

fn call(m: &Machine, proxy: &str) -> harness::Ran {
    m.glexec()
        .env("GLEXEC_CLIENT_CERT", proxy)
        .env("GLEXEC_TARGET_PROXY", "/dev/null")
        .arg("/usr/bin/whoami")
        .output()
}

/// The payload ran, as the account.
#[track_caller]
fn ran(called: &harness::Ran) {
    assert_eq!(called.ok(), "alice");
}

/// Holds an exclusive lock of a kind until the returned value is dropped.
fn hold(proxy: &str, kind: &str) -> Box<dyn Send> {
    let file = File::options().read(true).write(true).open(proxy).unwrap();
    if kind == "flock" {
        return Box::new(Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap());
    }
    let whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_SETLK(&whole)).unwrap();
    Box::new(file)
}

fn waits(m: &Machine, kind: &str) -> bool {
    let proxy = m.proxy("Alice", "pilot");
    let held = hold(&proxy, kind);
    let release = std::thread::spawn(move || {
        std::thread::sleep(PAUSE);
        drop(held);
    });
    let start = Instant::now();
    ran(&call(m, &proxy));
    let took = start.elapsed();
    release.join().unwrap();
    took > PAUSE / 2
}

#[test]
#[needs(root)]
fn flock_is_the_default() {
    let m = site();
    sh(&m, "exit 0").output().ok();
    assert!(waits(&m, "flock"));
}

#[test]
#[needs(root)]
fn fcntl_for_nfs() {
    let m = site();
    set_conf(&m, "input_lock_mechanism", "fcntl");
    sh(&m, "exit 0").output().ok();
    assert!(waits(&m, "fcntl"));
}

#[test]
#[needs(root)]
fn disabled_waits_for_nobody() {
    let m = site();
    set_conf(&m, "input_lock_mechanism", "disabled");
    sh(&m, "exit 0").output().ok();
    let proxy = m.proxy("Alice", "pilot");
    let _held = (hold(&proxy, "flock"), hold(&proxy, "fcntl"));
    ran(&call(&m, &proxy));
}

#[test]
#[needs(root)]
fn a_lock_that_is_never_released_is_not_waited_for_for_ever() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let _held = hold(&proxy, "flock");
    call(&m, &proxy).refused(202, &[&proxy, "locked"]);
}

#[test]
#[needs(root)]
fn readers_do_not_wait_for_readers() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let file = File::open(&proxy).unwrap();
    let _shared = Flock::lock(file, FlockArg::LockSharedNonblock).unwrap();
    let start = Instant::now();
    ran(&call(&m, &proxy));
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// How long renewing the copy takes while a reader has it locked for a moment.
fn renewal_under_lock(m: &Machine, kind: &'static str) -> Duration {
    let renew = || {
        m.glexec()
            .env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"))
            .env("GLEXEC_TARGET_PROXY", "/tmp/copy")
    };
    renew().output().ok();
    let before = std::fs::metadata("/tmp/copy").unwrap().ino();
    let held = hold("/tmp/copy", kind);
    let release = std::thread::spawn(move || {
        std::thread::sleep(PAUSE);
        drop(held);
    });
    let run = renew();
    let start = Instant::now();
    run.output().ok();
    let took = start.elapsed();
    release.join().unwrap();
    assert_ne!(std::fs::metadata("/tmp/copy").unwrap().ino(), before, "it is renewed in the end");
    took
}

#[test]
#[needs(root)]
fn readers_of_the_copy_are_waited_for() {
    let m = site();
    assert!(renewal_under_lock(&m, "flock") > PAUSE / 2, "flock is the default");
    set_conf(&m, "target_lock_mechanism", "fcntl");
    assert!(renewal_under_lock(&m, "fcntl") > PAUSE / 2);
}

/// Whoever can open the copy is the payload's account: its caller can end it, or name another place.
#[test]
#[needs(root)]
fn a_copy_that_stays_locked_is_left_as_it_is() {
    let m = site();
    let renew = || {
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        run.env("GLEXEC_TARGET_PROXY", "/tmp/copy").output()
    };
    renew().ok();
    let before = std::fs::metadata("/tmp/copy").unwrap().ino();
    let _held = hold("/tmp/copy", "flock");
    renew().refused(201, &["/tmp/copy", "locked"]);
    assert_eq!(std::fs::metadata("/tmp/copy").unwrap().ino(), before);
}

/// `lock_mechanism` is the old name of the key.
#[test]
#[needs(root)]
fn the_lock_on_the_copy_can_be_disabled() {
    for key in ["target_lock_mechanism", "lock_mechanism"] {
        let m = site();
        set_conf(&m, key, "disabled");
        let proxy = m.proxy("Alice", "pilot");
        let renew =
            || m.glexec().env("GLEXEC_CLIENT_CERT", &proxy).env("GLEXEC_TARGET_PROXY", "/tmp/copy").output();
        renew().ok();
        let _held = hold("/tmp/copy", "flock");
        renew().ok();
    }
}

#[test]
#[needs(root)]
fn a_mechanism_that_does_not_exist_is_a_mistake_of_the_site() {
    let m = site();
    set_conf(&m, "input_lock_mechanism", "hope");
    sh(&m, "exit 0").output().refused(202, &["input_lock_mechanism", "flock, fcntl or disabled"]);
}
