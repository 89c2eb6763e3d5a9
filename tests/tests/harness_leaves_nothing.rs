//! The harness itself: machines are private, independent of each other, and leave nothing behind.

use harness::left::Traces;
use harness::{Machine, needs};
use std::time::Duration;

/// Other tests of this run, and other people on this host, leave traces in the meantime: files without our names in
/// them, and the processes and cgroups of living machines.
fn of_others(trace: &str, my_uid: u32) -> bool {
    let my_cgroup = format!("pilotage-test-{}", my_uid % 10_000 / 100);
    match trace.split_once(": ") {
        Some(("process", process)) => !process.contains(&my_uid.to_string()),
        Some(("mount", _)) => false,
        Some(("cgroup", dir)) => !dir.ends_with(&my_cgroup),
        Some(_) => !trace.contains("glexec-left"),
        None => false,
    }
}

fn furnished() -> Machine {
    Machine::builder().pilot("pilot").account("alice").account("bob").build()
}

#[test]
#[needs(root)]
fn nothing_is_left_after_a_machine() {
    let before = Traces::now();
    let m = furnished();
    let alice = m.uid("alice");
    m.write("/usr/sbin/glexec-left", "root", 0o4755, "x");
    m.write("/tmp/glexec-left", "alice", 0o644, "x");
    m.write("/home/glexec-left", "alice", 0o644, "x");
    // A process that leaves its parent, session and group, as payloads do.
    let escape = "setsid sh -c 'exec >/dev/null 2>&1; exec sleep 1000' & exit 0";
    m.command("/bin/sh").as_user("alice").args(["-c", escape]).output().ok();
    assert_eq!(m.processes_of("alice").len(), 1, "the escaped process runs");

    let seen = Traces::now().since(&before, |trace| of_others(trace, alice)).join("\n");
    for expected in ["process: ", "cgroup: ", "setuid file: /usr/sbin/gl", "file: /tmp/gl", "file: /home/gl"]
    {
        assert!(seen.contains(expected), "the comparison sees {expected}: {seen}");
    }

    drop(m);
    assert_eq!(Traces::now().since(&before, |trace| of_others(trace, alice)), Vec::<String>::new());
}

#[test]
#[needs(root)]
fn two_machines_do_not_see_each_other() {
    let one = || {
        let m = furnished();
        m.write("/tmp/mine", "alice", 0o600, m.uid("alice").to_string());
        m.write("/etc/grid-security/mine", "root", 0o644, "x");
        let mut sleeper = m.command("/bin/sleep").as_user("alice").arg("1000").spawn();
        std::thread::sleep(Duration::from_millis(200));
        let read = m.command("/bin/cat").as_user("alice").arg("/tmp/mine").output().ok();
        assert_eq!(read, m.uid("alice").to_string());
        assert!(sleeper.is_running());
        (m.uid_range(), m.ports())
    };
    let other = std::thread::spawn(one);
    let (mine, theirs) = (one(), other.join().unwrap());
    assert_ne!(mine.0, theirs.0);
    assert_ne!(mine.1, theirs.1);
    assert!(!std::path::Path::new("/etc/grid-security/mine").exists());
}

#[test]
#[needs(root)]
fn programs_run_as_the_account_with_a_clean_environment() {
    let m = furnished();
    let gid = m.add_group("grid", 90, &["alice"]);
    let id = m.command("/usr/bin/id").as_user("alice").output().ok();
    let (uid, name) = (m.uid("alice"), "alice");
    assert_eq!(id, format!("uid={uid}({name}) gid={uid}({name}) groups={uid}({name}),{gid}(grid)"));
    let env = m.command("/usr/bin/env").as_user("alice").env("A", "b").output().ok();
    let mut names: Vec<_> = env.lines().filter_map(|l| l.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "HOME", "LOGNAME", "PATH", "USER"]);
    assert_eq!(m.command("/bin/pwd").as_user("bob").output().ok(), "/home/bob");
}

#[test]
#[needs(root)]
fn input_output_codes_and_signals_arrive() {
    let m = furnished();
    let big = vec![b'x'; 1 << 20];
    assert_eq!(m.command("/bin/cat").as_user("bob").input(big.clone()).output().stdout, big);
    let ran = m.command("/bin/sh").args(["-c", "echo no >&2; exit 7"]).output();
    ran.refused(7, &["NO"]);
    assert_eq!(m.command("/bin/sh").args(["-c", "kill -9 $$"]).output().signal(), Some(9));
}

#[test]
#[needs(root)]
fn threads_that_a_test_starts_live_in_its_machine() {
    let m = furnished();
    m.write("/etc/grid-security/here", "root", 0o644, "x");
    std::thread::scope(|s| {
        let seen = s.spawn(|| m.command("/bin/ls").arg("/etc/grid-security").output().ok()).join().unwrap();
        assert_eq!(seen, "certificates\nhere\nvomsdir");
    });
}

#[test]
#[needs(root)]
fn a_late_program_is_killed() {
    let m = furnished();
    let late =
        || m.command("/bin/sleep").as_user("bob").arg("1000").limit(Duration::from_millis(50)).output();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(late)).is_err());
    assert!(m.processes_of("bob").is_empty());
}
