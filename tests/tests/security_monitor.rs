//! `glexec-monitor`: a payload does not get as far as executing `glexec`, and a lost session is closed without any call.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

use end_to_end::contract;
use end_to_end::security::{kill_supervisors, supervisor_of, without_cgroups};
use end_to_end::storm::{self, Storm};
use harness::{Machine, Run, Running, need, needs};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// The setuid bit counts inside of the payload, so that nothing but the monitor stands before `glexec`.
const OLD_RIGHTS: &str = "[payload]\nno_new_privs = false\n";
const KILL: &str = "[payload]\nno_new_privs = false\nnested = \"kill\"\n";
/// What a shell says when execve(2) is answered with EPERM, and its exit code.
const STOPPED: [&str; 2] = ["Operation not permitted", "code 126"];

#[track_caller]
fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    contract::eventually(what, SOON, ask)
}

fn site(policy: &str) -> Machine {
    let m = Machine::builder().pilot("pilot").account("alice").policy_add(policy).build();
    m.map("Alice", "alice");
    m
}

/// Starts the monitor and waits until it guards `glexec`.
fn monitor(m: &Machine) -> Running {
    let mut running = m.command("/usr/sbin/glexec-monitor").arg("--foreground").spawn();
    let watches = || m.log().contains("watching /usr/sbin/glexec");
    let end = Instant::now() + SOON;
    while !watches() {
        assert!(running.is_running() && Instant::now() < end, "the monitor does not start: {}", m.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    running
}

fn end(running: Running) {
    running.signal(15);
    running.end_within(SOON).exits(0);
}

/// Alice's payload, called by the pilot.
fn payload(m: &Machine, script: &str) -> Run {
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    run.args(["/bin/sh", "-c", script]).limit(Duration::from_secs(120))
}

#[track_caller]
fn stopped(said: &str) {
    for word in STOPPED {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
}

fn call(program: &str) -> String {
    format!("{program} -v 2>&1; echo code $?")
}

fn refusals(m: &Machine) -> Vec<Value> {
    m.records().into_iter().filter(|r| r["state"] == "denied").collect()
}

#[track_caller]
fn logged(m: &Machine, words: &str) {
    let end = Instant::now() + SOON;
    while !m.log().contains(words) {
        assert!(Instant::now() < end, "not in the log: {words}\n{}", m.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_payload_is_stopped_before_glexec_starts() {
    let m = site(OLD_RIGHTS);
    let monitor = monitor(&m);
    stopped(&payload(&m, &call("/usr/sbin/glexec")).output().ok());
    let record = eventually("the refusal's record", || refusals(&m).pop());
    let session = m.records().into_iter().find(|r| r["state"] == "closed").unwrap();
    assert_eq!(record["caller_uid"], m.uid("alice"), "{record}");
    assert_eq!(record["payload"]["dn"], m.dn("Alice"), "{record}");
    let signs = record["nested_signs"].to_string();
    assert!(signs.contains("session_cgroup") && signs.contains("supervisor_ancestor"), "{signs}");
    let reason = record["reason"].as_str().unwrap();
    assert!(reason.contains(session["record_id"].as_str().unwrap()), "{reason}");
    logged(&m, "nested call of /usr/sbin/glexec by session");
    // The pilot calls as before.
    assert_eq!(payload(&m, "id -u").output().ok(), m.uid("alice").to_string());
    assert_eq!(refusals(&m).len(), 1);
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn whoever_may_call_is_not_taken_for_a_payload() {
    let m = site(KILL);
    let monitor = monitor(&m);
    let lasting: Vec<_> = (0..4).map(|_| payload(&m, "sleep 2; id -u").spawn()).collect();
    for _ in 0..20 {
        assert_eq!(payload(&m, "id -u").output().ok(), m.uid("alice").to_string());
    }
    // A supervisor runs glexec under the account's real uid, also after an upgrade and when all processes are looked at.
    let copied =
        Command::new("cp").args(["-p", "/usr/sbin/glexec", "/usr/sbin/glexec.new"]).status().unwrap();
    assert!(copied.success());
    fs::rename("/usr/sbin/glexec.new", "/usr/sbin/glexec").unwrap();
    end(monitor);
    fs::write(harness::GLEXEC_LOG, "").unwrap();
    let monitor = self::monitor(&m);
    for running in lasting {
        assert_eq!(running.end_within(SOON).ok(), m.uid("alice").to_string());
    }
    end(monitor);
    assert!(refusals(&m).is_empty());
    assert!(!m.log().contains("nested call"), "{}", m.log());
}

#[test]
#[needs(root, "grid-proxy-init")]
fn other_names_of_glexec_are_stopped_as_well() {
    let m = site(OLD_RIGHTS);
    fs::hard_link("/usr/sbin/glexec", "/usr/sbin/other-name").unwrap();
    std::os::unix::fs::symlink("/usr/sbin/glexec", "/home/alice/link").unwrap();
    let monitor = monitor(&m);
    for name in ["/usr/sbin/other-name", "/home/alice/link", "/proc/self/root/usr/sbin/glexec"] {
        stopped(&payload(&m, &call(name)).output().ok());
    }
    stopped(&payload(&m, &format!("setsid sh -c '({}) & wait'", call("/usr/sbin/glexec"))).output().ok());
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_new_version_is_guarded_as_soon_as_it_is_there() {
    let m = site(OLD_RIGHTS);
    let monitor = monitor(&m);
    let copied =
        Command::new("cp").args(["-p", "/usr/sbin/glexec", "/usr/sbin/glexec.new"]).status().unwrap();
    assert!(copied.success());
    let inode = |file: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(file).unwrap());
    fs::hard_link("/usr/sbin/glexec", "/usr/sbin/glexec.old").unwrap();
    let new = inode("/usr/sbin/glexec.new");
    fs::rename("/usr/sbin/glexec.new", "/usr/sbin/glexec").unwrap();
    logged(&m, &format!("watching /usr/sbin/glexec (inode {new})"));
    stopped(&payload(&m, &call("/usr/sbin/glexec")).output().ok());
    stopped(&payload(&m, &call("/usr/sbin/glexec.old")).output().ok());
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_second_installation_is_guarded_when_it_is_named() {
    let m = site(OLD_RIGHTS);
    fs::create_dir_all("/opt/glite/sbin").unwrap();
    let copied =
        Command::new("cp").args(["-p", "/usr/sbin/glexec", "/opt/glite/sbin/glexec"]).status().unwrap();
    assert!(copied.success());
    let monitor = m.command("/usr/sbin/glexec-monitor").args(["--glexec", "/opt/glite/sbin/glexec"]).spawn();
    logged(&m, "watching /opt/glite/sbin/glexec");
    stopped(&payload(&m, &call("/opt/glite/sbin/glexec")).output().ok());
    stopped(&payload(&m, &call("/usr/sbin/glexec")).output().ok());
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_copy_is_noticed_though_it_can_do_nothing() {
    let m = site(OLD_RIGHTS);
    m.write("/home/alice/mine", "alice", 0o755, fs::read("/usr/sbin/glexec").unwrap());
    let monitor = monitor(&m);
    let said = payload(&m, "sleep 0.5; for i in 1 2 3 4 5 6 7 8 9 10; do ./mine /usr/bin/id -u; done; pwd")
        .cwd("/home/alice");
    let said = said.output().ok();
    assert!(said.ends_with("/home/alice"), "{said}");
    logged(&m, "copy of /usr/sbin/glexec");
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn other_setuid_programs_are_named_in_the_log_and_run() {
    let m = site(OLD_RIGHTS);
    m.write("/opt/suid/sleep", "root", 0o4755, fs::read("/usr/bin/sleep").unwrap());
    let monitor = monitor(&m);
    payload(&m, "exec /opt/suid/sleep 1").output().ok();
    logged(&m, "executes /opt/suid/sleep, which is setuid root");
    assert!(refusals(&m).is_empty());
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_site_may_end_payloads_that_try() {
    let m = site(KILL);
    let monitor = monitor(&m);
    let script = "setsid sleep 300 & /usr/sbin/glexec -v; sleep 300";
    payload(&m, script).spawn().end_within(SOON).exits(137);
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    logged(&m, "its payload called glexec and is ended");
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_changed_policy_counts_after_a_hangup() {
    let m = site(OLD_RIGHTS);
    let monitor = monitor(&m);
    m.edit_policy(|old| old.replace(OLD_RIGHTS, "nonsense = 1\n"));
    monitor.signal(1);
    logged(&m, "configuration kept as it was");
    m.edit_policy(|old| old.replace("nonsense = 1\n", KILL));
    monitor.signal(1);
    logged(&m, "configuration read");
    payload(&m, "/usr/sbin/glexec -v; sleep 300").spawn().end_within(SOON).exits(137);
    end(monitor);
}

/// Starts a payload with a grandchild that nobody waits for; returns the call and its session.
fn lasting(m: &Machine) -> (Running, String) {
    let script = "(setsid sh -c 'sleep 300 & sleep 301' &) ; echo $PILOT_SESSION > /tmp/s.new; mv /tmp/s.new /tmp/s; sleep 302";
    let running = payload(m, script).spawn();
    let id = eventually("the payload's session", || fs::read_to_string("/tmp/s").ok());
    (running, id.trim().to_owned())
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_lost_session_is_closed_without_any_call() {
    let m = site("");
    let monitor = monitor(&m);
    let (_running, id) = lasting(&m);
    kill_supervisors();
    let dir = Path::new("/run/glexec/sessions").join(&id);
    eventually("the end of the session", || (!dir.exists()).then_some(()));
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    let record = m.records().into_iter().find(|r| r["record_id"] == id.as_str()).unwrap();
    assert_eq!((&record["state"], &record["exit"]["lost"]), (&"lost".into(), &"helper_died".into()));
    assert!(record["exit"]["leftovers"].as_u64().unwrap() > 0, "{record}");
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn sessions_that_were_lost_before_it_started_are_closed_too() {
    let m = site("");
    let (mut running, id) = lasting(&m);
    kill_supervisors();
    eventually("the supervisor's end", || (!running.is_running()).then_some(()));
    let monitor = monitor(&m);
    eventually("the end of the session", || {
        (!Path::new("/run/glexec/sessions").join(&id).exists()).then_some(())
    });
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn without_cgroups_a_lost_session_s_processes_are_found_by_birth() {
    let m = site(OLD_RIGHTS);
    without_cgroups();
    let monitor = monitor(&m);
    stopped(&payload(&m, &call("/usr/sbin/glexec")).output().ok());
    // Another session of the same account, whose processes must stay.
    let (other, other_id) = lasting(&m);
    let sorted = |mut pids: Vec<i32>| {
        pids.sort_unstable();
        pids
    };
    let of_other =
        eventually("its five", || Some(sorted(m.processes_of("alice"))).filter(|pids| pids.len() == 5));
    fs::remove_file("/tmp/s").unwrap();
    let (_running, id) = lasting(&m);
    let sessions = Path::new("/run/glexec/sessions");
    let state = fs::read_to_string(sessions.join(&id).join("state")).unwrap();
    assert!(state.contains("cgroup=\n"), "the session has no leaf: {state}");
    eventually("as many more", || (m.processes_of("alice").len() == 10).then_some(()));
    // Sessions are looked at when they have settled; who dies before that leaves no trace of its children.
    std::thread::sleep(Duration::from_millis(200));
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(supervisor_of(&id)),
        nix::sys::signal::Signal::SIGKILL,
    );
    eventually("the end of the session", || (!sessions.join(&id).exists()).then_some(()));
    logged(&m, "processes without a cgroup leaf ended");
    eventually("only the other session's", || (sorted(m.processes_of("alice")) == of_other).then_some(()));
    assert!(sessions.join(&other_id).exists(), "the other session lives");
    other.signal(9);
    eventually("the end of everything", || m.processes_of("alice").is_empty().then_some(()));
    end(monitor);
}

fn forks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").expect("/proc is there");
    stat.lines()
        .find_map(|l| l.strip_prefix("processes "))
        .expect("it counts forks")
        .parse()
        .expect("a number")
}

/// Sums of `monitor: uid N: COUNT more events like these` and of `COUNT events could not be written down`.
fn counted_only(log: &str) -> u64 {
    let before = |words: &str| {
        let heads = log.lines().filter_map(|l| l.split_once(words).map(|(head, _)| head.rsplit(' ').next()));
        heads.map(|n| n.and_then(|n| n.parse::<u64>().ok()).expect("a number")).sum::<u64>()
    };
    before(" more events like these") + before(" events could not be written down")
}

/// Storms inside of payloads until one reached the rate of the issue; each of them calls `glexec` in the middle of it.
/// Returns whether one did: what must hold holds at any rate, but a slow host has not shown it.
fn storms(m: &Machine, monitor: &Running) -> bool {
    let program = contract::install_tool(m, env!("CARGO_BIN_EXE_fork-storm"));
    let (mut calls, mut best) = (0, 0_f64);
    for _ in 0..6 {
        let storm = Storm::read(&payload(m, &storm::script(&program, 4)).output().ok());
        let dropped = storm::queue(monitor.pid()).1;
        println!("{storm:?}, {dropped} events dropped so far");
        assert_eq!(storm.refused, storm.calls, "calls that were not stopped");
        calls += storm.calls;
        best = best.max(storm.rate);
        if best >= storm::STORM {
            break;
        }
    }
    // Each of them is written down: one by one up to the limit of a minute, then as a number.
    let written = |log: &str| refusals(m).len() as u64 + counted_only(log);
    contract::eventually("a word about each call", Duration::from_secs(60), || {
        (written(&m.log()) >= calls).then_some(())
    });
    assert_eq!(written(&m.log()), calls, "{}", m.log());
    let dropped = storm::queue(monitor.pid()).1;
    assert_eq!(m.log().contains("some were lost; looking at all"), dropped > 0, "{dropped} were dropped");
    need::that(best >= storm::STORM, &format!("this host made {best:.0} forks a second, 20,000 are needed"))
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_storm_of_forks_hides_no_call() {
    let m = site(OLD_RIGHTS);
    let monitor = monitor(&m);
    storms(&m, &monitor);
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_storm_of_forks_hides_no_call_without_cgroups_either() {
    let m = site(OLD_RIGHTS);
    without_cgroups();
    let monitor = monitor(&m);
    storms(&m, &monitor);
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn events_that_were_lost_are_made_good() {
    let m = site(OLD_RIGHTS);
    without_cgroups();
    m.write("/opt/suid/sleep", "root", 0o4755, fs::read("/usr/bin/sleep").unwrap());
    let program = contract::install_tool(&m, env!("CARGO_BIN_EXE_fork-storm"));
    let monitor = monitor(&m);
    let script = format!(
        "echo ready > /tmp/s; until [ -e /tmp/go ]; do sleep 0.1; done; \
         for cpu in 0 1; do {program} 5 $cpu /bin/true & done; /opt/suid/sleep 300 & wait %1 %2; sleep 300"
    );
    let running = payload(&m, &script).spawn();
    eventually("the payload", || fs::metadata("/tmp/s").ok());
    // Births are followed from now on; stopped, the monitor cannot take them, and the kernel drops what it has no room for.
    std::thread::sleep(Duration::from_millis(200));
    monitor.signal(19);
    m.write("/tmp/go", "root", 0o644, "");
    eventually("dropped events", || (storm::queue(monitor.pid()).1 > 0).then_some(()));
    assert!(!m.log().contains("executes"), "it is stopped");
    monitor.signal(18);
    logged(&m, "some were lost; looking at all processes");
    logged(&m, "executes /opt/suid/sleep, which is setuid root");
    // Whose session it is was not lost either.
    running.signal(9);
    eventually("the end of the payload", || m.processes_of("alice").is_empty().then_some(()));
    assert_eq!(m.log().matches("some were lost").count(), 1);
    end(monitor);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn thousands_of_attempts_leave_a_bounded_number_of_records_and_lines() {
    let m = site(OLD_RIGHTS);
    let monitor = monitor(&m);
    payload(&m, "i=0; while [ $i -lt 1000 ]; do /usr/sbin/glexec; i=$((i+1)); done 2>/dev/null")
        .output()
        .ok();
    end(monitor);
    let (records, lines) = (refusals(&m).len(), m.log().matches("nested call of").count());
    // 60 a minute; the minute may turn once or twice meanwhile.
    assert!((1..=180).contains(&records) && lines == records, "{records} records, {lines} lines");
    assert!(m.log().contains("more events like these"), "the rest is counted");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn after_its_end_glexec_refuses_by_itself() {
    let m = site(OLD_RIGHTS);
    let monitor = monitor(&m);
    end(monitor);
    logged(&m, "monitor: ended by a signal");
    let said = payload(&m, "/usr/sbin/glexec /bin/true 2>&1; echo code $?").output().ok();
    assert!(said.contains("nested call refused") && said.contains("code 203"), "{said}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn when_it_is_killed_nobody_waits_at_its_gate() {
    let m = site(OLD_RIGHTS);
    let monitor = monitor(&m);
    monitor.signal(9);
    let said = payload(&m, "/usr/sbin/glexec /bin/true 2>&1; echo code $?").output().ok();
    assert!(said.contains("code 203"), "{said}");
    monitor.end_within(SOON);
    fs::write(harness::GLEXEC_LOG, "").unwrap();
    end(self::monitor(&m));
}

#[test]
#[needs(root, "grid-proxy-init")]
fn one_monitor_per_host_and_only_as_root() {
    let m = site("");
    let monitor = monitor(&m);
    m.command("/usr/sbin/glexec-monitor").output().refused(1, &["another one runs"]);
    m.command("/usr/sbin/glexec-monitor").as_user("pilot").output().refused(2, &["needs root"]);
    m.command("/usr/sbin/glexec-monitor").arg("--nonsense").output().refused(2, &["--nonsense", "--help"]);
    m.command("/usr/sbin/glexec-monitor").arg("--help").output().ok();
    end(monitor);
    m.write("/etc/pilotage/policy.toml", "root", 0o644, "nonsense = 1\n");
    m.command("/usr/sbin/glexec-monitor").output().refused(3, &["policy.toml", "nonsense"]);
}

/// Voluntary context switches.
fn wakes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|n| n.trim().parse().ok()).expect("proc(5) holds")
}

#[test]
#[needs(root, "grid-proxy-init")]
fn an_idle_monitor_sleeps() {
    let m = site("");
    let monitor = monitor(&m);
    std::thread::sleep(Duration::from_millis(500));
    let writer = fs::read_to_string(format!("/proc/{0}/task/{0}/children", monitor.pid())).unwrap();
    let writer = writer.split_whitespace().next().expect("the writer").parse().unwrap();
    let cpu = || storm::cpu_ns(monitor.pid()) + storm::cpu_ns(writer);
    let (before, writer_before, cpu_before, born) = (wakes(monitor.pid()), wakes(writer), cpu(), forks());
    let seconds = std::env::var("PILOTAGE_IDLE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    std::thread::sleep(Duration::from_secs(seconds));
    let (wakes, writer_wakes) = (wakes(monitor.pid()) - before, wakes(writer) - writer_before);
    let (percent, born) = ((cpu() - cpu_before) as f64 / (seconds as f64 * 1e7), forks() - born);
    println!(
        "idle for {seconds} s: {wakes} + {writer_wakes} wake-ups, {percent:.4} % of one CPU, {born} births on the host"
    );
    assert!(percent < 0.1, "{percent:.4} % of one CPU when idle");
    // A round every five seconds. What others on the host do must not wake it while there is no session.
    assert!(wakes <= seconds / 2 + 2, "{wakes} wake-ups in {seconds} s, {born} births");
    assert!(writer_wakes <= 2, "{writer_wakes} wake-ups of the writer");
    end(monitor);
}
