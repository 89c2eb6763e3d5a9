//! Inside the batch system: on every hierarchy the payload stays below the caller's own groups, and whatever the host offers
//! to end it with, nothing of it survives.

use end_to_end::contract::{self, cpu_us};
use end_to_end::security::{kill_supervisors, leaves, names, sessions, without_cgroups};
use harness::{Machine, Ran, Run, Running, need, needs};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Forks as fast as it can, at the limit that [`bounded`] sets: whoever is killed makes room for the next one.
const BOMB: &str = "setsid perl -e 'fork while 1' >/dev/null 2>&1 & ";

#[track_caller]
fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    contract::eventually(what, SOON, ask)
}

/// A site whose callers sit in a group of their own in each hierarchy, as a batch system has them.
fn site() -> Machine {
    let m = Machine::builder().pilot("pilot").service("guest").account("alice").batch_groups().build();
    m.map("Alice", "alice");
    m
}

fn sh(m: &Machine, script: &str) -> Run {
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    run.args(["/bin/sh", "-c", script]).limit(Duration::from_secs(120))
}

/// The machine's own group in the hierarchy of a controller.
fn group(m: &Machine, controller: &str) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|c| c == controller);
    m.groups().into_iter().find(|(controllers, _)| has(controllers)).map(|(_, dir)| dir)
}

/// The machine's groups of these version 1 controllers, and one of version 2; `None` when the host lacks one.
fn groups<const N: usize>(m: &Machine, controllers: [&str; N]) -> Option<[PathBuf; N]> {
    let found: Vec<_> = controllers.iter().filter_map(|c| group(m, c)).collect();
    let met = found.len() == N && group(m, "").is_some();
    need::that(met, &format!("version 2 and {controllers:?} of version 1 have to be mounted and writable"));
    found.try_into().ok().filter(|_| met)
}

/// Hides version 2: what is left is a host of version 1.
fn without_version_2() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("every host has /proc");
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    for place in fields.filter(|f| f[2] == "cgroup2").map(|f| f[1].to_owned()) {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "none", &place]).status();
        assert!(status.is_ok_and(|s| s.success()), "cannot cover {place}");
    }
}

/// Not more processes than these, so that a bomb is one for itself only.
fn bounded(m: &Machine, most: u32) {
    let pids = group(m, "pids").expect("asked for before");
    fs::write(pids.join("pids.max"), most.to_string()).expect("root may limit");
}

/// Starts a payload that says its session in a file and then does as the script says.
fn start(m: &Machine, script: &str) -> (Running, String) {
    let running = sh(m, &format!("echo $PILOT_SESSION > /tmp/s; {script}")).spawn();
    let said = || fs::read_to_string("/tmp/s").ok().filter(|id| id.trim().len() == 36);
    let id = eventually("the payload", said).trim().to_owned();
    fs::remove_file("/tmp/s").expect("it was read");
    (running, id)
}

/// What `accounting` says about one session.
#[track_caller]
fn record(m: &Machine, id: &str) -> Value {
    m.records().into_iter().find(|r| r["record_id"] == id).expect("there is a record")
}

fn ladder(record: &Value) -> Vec<String> {
    let rungs = record["ladder"].as_array().cloned().unwrap_or_default();
    rungs.iter().filter_map(|r| r.as_str().map(str::to_owned)).collect()
}

/// No session, no leaf in any hierarchy, no process of the account.
#[track_caller]
fn nothing_is_left(m: &Machine) {
    assert_eq!((sessions(), leaves(m)), (vec![], vec![]));
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
}

fn id_of(ran: &Ran) -> String {
    ran.text().lines().next().unwrap_or_default().to_owned()
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn in_every_hierarchy_the_payload_sits_below_the_caller_s_own_group() {
    let m = site();
    let Some(_) = groups(&m, ["memory", "freezer", "pids", "cpuset"]) else { return };
    let script = "echo $PILOT_SESSION; cat /proc/self/cgroup; echo; cat /run/glexec/sessions/*/state";
    let own = m.command("/bin/cat").as_user("pilot").arg("/proc/self/cgroup").output().ok();
    let ran = sh(&m, script).output();
    let (id, text) = (id_of(&ran), ran.text());
    let lines: Vec<_> = own.lines().filter(|line| line.contains("pilotage-test-")).collect();
    assert_eq!(lines.len(), m.groups().len(), "the caller has groups of its own: {own}");
    assert!(lines.len() > 4, "{own}");
    for line in lines {
        assert!(text.lines().any(|l| l == format!("{line}/glexec-{id}")), "not below {line}: {text}");
    }
    nothing_is_left(&m);
    let record = record(&m, &id);
    assert_eq!(ladder(&record), ["cgroup.kill", "subreaper", "pdeathsig"], "{record}");
    assert_eq!(record["usage"]["mem_kind"], "cgroup_peak", "{record}");
    assert_eq!(record["usage"]["cpu_source"], "cgroup-v2", "{record}");
}

/// A caller in the root of a hierarchy is held by nobody there; a leaf would only let the payload weigh as one process.
#[test]
#[needs(root, "grid-proxy-init")]
fn roots_of_hierarchies_get_no_leaf_but_for_our_own_use() {
    let m = Machine::builder().pilot("pilot").account("alice").build();
    m.map("Alice", "alice");
    let own = m.command("/bin/cat").arg("/proc/self/cgroup").output().ok();
    let ran = sh(&m, "cat /proc/self/cgroup").output().ok();
    for line in own.lines().filter(|l| l.ends_with(":/") && !l.contains(":memory:") && !l.starts_with("0::"))
    {
        assert!(ran.lines().any(|l| l == line), "{line} in {ran}");
    }
    assert!(ran.lines().any(|l| l.starts_with("0::") && l.contains("/glexec-")), "{ran}");
    nothing_is_left(&m);
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn the_batch_system_s_limits_and_accounts_reach_the_payload() {
    let m = site();
    let Some([memory, pids, cpu]) = groups(&m, ["memory", "pids", "cpuacct"]) else { return };
    let number = |path: PathBuf| fs::read_to_string(path).unwrap().trim().parse::<u64>().unwrap();
    // One that sorts keeps all of its input in memory.
    let eat = "head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null";
    sh(&m, eat).output().ok();
    assert!(number(memory.join("memory.max_usage_in_bytes")) > 80_000_000);
    assert!(number(cpu.join("cpuacct.usage")) > 10_000_000, "at least 10 ms");
    let used = m.records().pop().unwrap();
    assert!(used["usage"]["mem_peak_bytes"].as_u64().unwrap() > 80_000_000, "{used}");
    fs::write(memory.join("memory.limit_in_bytes"), "50000000").unwrap();
    let starved = sh(&m, &format!("{eat}; echo code $?")).output().text();
    assert!(starved.contains("Killed") || starved.contains("code 1"), "no limit: {starved}");
    fs::write(memory.join("memory.limit_in_bytes"), "-1").unwrap();
    bounded(&m, 30);
    let many = "perl -e 'for (1..60) { my $p = fork; next unless defined $p; $p or (sleep(1), exit); $n++ } print $n'";
    let forked: u64 = sh(&m, many).output().text().trim().parse().unwrap();
    assert!((1..30).contains(&forked), "{forked} of 60 children under a limit of 30");
    assert!(fs::read_to_string(pids.join("pids.events")).unwrap().contains("max "));
    nothing_is_left(&m);
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn what_the_batch_system_kills_in_its_own_group_is_dead() {
    let m = site();
    let Some([freezer, _]) = groups(&m, ["freezer", "pids"]) else { return };
    let (_running, id) = start(&m, "setsid sleep 1000 & sleep 1000");
    eventually("three processes", || (m.processes_of("alice").len() >= 3).then_some(()));
    // As batch systems do with version 1: freeze, kill, thaw.
    fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    let frozen = || fs::read_to_string(freezer.join("freezer.state")).ok().filter(|s| s.trim() == "FROZEN");
    eventually("the freeze", frozen);
    let leaf = freezer.join(format!("glexec-{id}"));
    let in_it = |dir: &PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let all = in_it(&freezer) + &in_it(&leaf);
    for pid in all.lines().map(|l| l.parse().unwrap()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    fs::write(freezer.join("freezer.state"), "THAWED").unwrap();
    eventually("the end of all", || m.processes_of("alice").is_empty().then_some(()));
    sh(&m, "true").output().ok();
    eventually("the session is closed", || sessions().is_empty().then_some(()));
    nothing_is_left(&m);
    // The front was killed with the payload; its supervisor, beside the leaf, was met by nobody.
    assert_eq!(record(&m, &id)["state"], "closed");
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn who_closes_the_session_is_not_met_by_a_batch_system_that_kills_in_its_own_group_only() {
    let m = site();
    let Some([freezer]) = groups(&m, ["freezer"]) else { return };
    let (_running, id) = start(&m, "setsid sleep 1000 & sleep 1000");
    eventually("three processes", || (m.processes_of("alice").len() >= 3).then_some(()));
    // As Slurm does: whoever is in the job's own directory, again and again, and nobody below it.
    let end = std::time::Instant::now() + Duration::from_millis(500);
    while std::time::Instant::now() < end {
        let found = fs::read_to_string(freezer.join("cgroup.procs")).expect("the machine has it");
        for pid in found.lines().filter_map(|l| l.parse().ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    eventually("the session is closed", || sessions().is_empty().then_some(()));
    nothing_is_left(&m);
    // The front was killed; its supervisor was met by nobody.
    assert_eq!(record(&m, &id)["state"], "closed");
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn where_limits_do_not_hold_further_down_the_payload_stays_in_the_caller_s_group() {
    let m = site();
    let Some([disks, _]) = groups(&m, ["blkio", "freezer"]) else { return };
    let device = fs::read_to_string("/proc/partitions").unwrap();
    let device = device.lines().nth(2).map(|l| l.split_whitespace().take(2).collect::<Vec<_>>().join(":"));
    let throttle =
        device.map(|d| fs::write(disks.join("blkio.throttle.read_bps_device"), format!("{d} 1000000000")));
    if !need::that(matches!(throttle, Some(Ok(()))), "a disk that can be throttled is needed") {
        return;
    }
    let ran = sh(&m, "echo $PILOT_SESSION; grep -E ':(blkio|freezer):' /proc/self/cgroup").output();
    let (id, text) = (id_of(&ran), ran.ok());
    let line =
        |controller: &str| text.lines().find(|l| l.contains(controller)).unwrap_or_default().to_owned();
    assert!(!line(":blkio:").contains("glexec-") && line(":blkio:").contains("pilotage-test-"), "{text}");
    assert!(line(":freezer:").ends_with(&format!("glexec-{id}")), "{text}");
    nothing_is_left(&m);
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn on_version_1_alone_the_freezer_ends_a_bomb() {
    let m = site();
    let Some([freezer, _, _]) = groups(&m, ["freezer", "pids", "cpuacct"]) else { return };
    without_version_2();
    bounded(&m, 200);
    let script = format!("echo $PILOT_SESSION; {BOMB} setsid sleep 1000 >/dev/null 2>&1 & sleep 1; exit 3");
    let ran = sh(&m, &script).output();
    ran.exits(3);
    nothing_is_left(&m);
    let record = record(&m, &id_of(&ran));
    assert_eq!(ladder(&record), ["freezer", "subreaper", "pdeathsig"], "{record}");
    assert_eq!(record["usage"]["cpu_source"], "cgroup-v1", "{record}");
    assert_eq!(record["usage"]["mem_kind"], "cgroup_peak", "{record}");
    assert!(record["cgroup"].as_str().unwrap().starts_with(freezer.to_str().unwrap()), "{record}");
    assert!(record["exit"]["leftovers"].as_u64().unwrap() > 10, "{record}");
    assert!(cpu_us(&record) > 200_000, "a bomb of one second: {record}");
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn on_version_1_alone_a_session_is_looked_at_and_ended_by_its_opener() {
    let m = site();
    let Some(_) = groups(&m, ["freezer", "pids"]) else { return };
    without_version_2();
    let (running, id) = start(&m, "setsid sleep 1000 & sleep 1000");
    let status = || m.glexec().args(["--session", &id, "--status"]).output().ok();
    eventually("three processes", || status().contains("processes=3").then_some(()));
    m.glexec().args(["--session", &id, "--end"]).output().ok();
    running.end_within(SOON).exits(137);
    nothing_is_left(&m);
}

/// What it leaves behind still holds its output.
fn kill(front: &mut Running) {
    front.signal(9);
    eventually("the front's end", || (!front.is_running()).then_some(()));
}

/// The supervisor is killed while a bomb goes off; `close` is whatever closes the lost session.
fn lost(m: &Machine, close: impl FnOnce()) -> Value {
    bounded(m, 200);
    let (mut running, id) = start(m, &format!("{BOMB} sleep 1000"));
    eventually("a bomb", || (m.processes_of("alice").len() > 50).then_some(()));
    kill_supervisors();
    eventually("the front's end", || (!running.is_running()).then_some(()));
    close();
    eventually("the end of the session", || sessions().is_empty().then_some(()));
    nothing_is_left(m);
    record(m, &id)
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn on_version_1_alone_the_next_call_ends_what_a_killed_supervisor_left() {
    let m = site();
    let Some(_) = groups(&m, ["freezer", "pids", "cpuacct"]) else { return };
    without_version_2();
    let record = lost(&m, || {
        // The bomb leaves no room for another process in the batch system's group, so the next call comes from outside.
        let mut next = Command::new("/usr/sbin/glexec");
        next.env("GLEXEC_CLIENT_CERT", "/nonexistent").arg("/bin/true");
        assert_eq!(next.output().unwrap().status.code(), Some(203), "root is no caller, but sweeps");
    });
    assert_eq!((&record["state"], &record["exit"]["lost"]), (&"lost".into(), &"helper_died".into()));
    assert_eq!(record["usage"]["cpu_source"], "cgroup-v1", "{record}");
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn on_version_1_alone_the_monitor_ends_what_a_killed_supervisor_left() {
    let m = site();
    let Some(_) = groups(&m, ["freezer", "pids"]) else { return };
    without_version_2();
    let monitor = Command::new("/usr/sbin/glexec-monitor").spawn().unwrap();
    eventually("the monitor", || m.log().contains("watching /usr/sbin/glexec").then_some(()));
    assert_eq!(lost(&m, || {})["state"], "lost");
    end(monitor);
}

fn end(mut monitor: std::process::Child) {
    let pid = nix::unistd::Pid::from_raw(monitor.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    assert!(monitor.wait().expect("it is ours").success());
}

/// The leaf is there, but not to be seen: covered by another mount, as in a container.
#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn leaves_that_are_hidden_are_emptied_all_the_same() {
    let m = site();
    let Some(_) = groups(&m, ["freezer", "pids"]) else { return };
    let (mut running, _) = start(&m, "setsid sleep 1000 & setsid setsid sleep 1000 & sleep 1000");
    eventually("four processes", || (m.processes_of("alice").len() >= 4).then_some(()));
    without_cgroups();
    kill(&mut running);
    sh(&m, "true").output().ok();
    let left = || (sessions(), m.processes_of("alice"));
    eventually("the end of session and processes", || (left() == (vec![], vec![])).then_some(()));
}

#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn without_any_hierarchy_the_subreaper_is_the_ladder() {
    let m = site();
    without_cgroups();
    let ran = sh(&m, "echo $PILOT_SESSION; setsid sleep 1000 >/dev/null 2>&1 & exit 0").output();
    ran.exits(0);
    nothing_is_left(&m);
    let record = record(&m, &id_of(&ran));
    assert_eq!(ladder(&record), ["subreaper", "pdeathsig"], "{record}");
    assert_eq!((&record["cgroup"], &record["usage"]["cpu_source"]), (&Value::Null, &"subreaper".into()));
}

/// Anybody in a session's leaf, in whatever hierarchy, is of that session.
#[test]
#[needs(root, "grid-proxy-init", "perl", "setpriv")]
fn a_leaf_of_any_hierarchy_marks_a_payload() {
    let m = site();
    let Some([_, _]) = groups(&m, ["memory", "pids"]) else { return };
    let (running, id) = start(&m, "sleep 1000");
    for controller in ["", "memory", "pids"] {
        let leaf = group(&m, controller).unwrap().join(format!("glexec-{id}"));
        let door = leaf.join(if controller.is_empty() { "cgroup.procs" } else { "tasks" });
        let call = "exec setpriv --reuid pilot --regid pilot --clear-groups /usr/sbin/glexec /bin/true";
        let script = format!("echo 0 > {}; {call}", door.display());
        let proxy = m.proxy("Alice", "pilot");
        let run = m.command("/bin/sh").args(["-c", &script]).env("GLEXEC_CLIENT_CERT", proxy);
        run.output().refused(203, &["session_cgroup"]);
    }
    m.glexec().args(["--session", &id, "--end"]).output().ok();
    running.end_within(SOON).exits(137);
    assert!(names("/run/glexec/sessions").is_empty());
    nothing_is_left(&m);
}

/// A payload without a fork of its own: says where it is and whose child, kills its parent if it can, leaves a daemon.
const ESCAPING: &str = r#"
open(my $f, ">", shift) or die; $f->autoflush;
open(my $c, "<", "/proc/self/cgroup"); print $f join("", <$c>);
my $parent = getppid; my $name = "\n";
if (open(my $p, "<", "/proc/$parent/comm")) { $name = <$p> }
print $f "parent $name";
kill 9, $parent if $parent > 1;
my $child = fork;
if (defined $child && $child == 0) { exec "/bin/sleep", "300" }
print $f defined $child ? "forked\n" : "alone\n";
"#;

/// Rule 3: with few processes left in the job's group the payload once ran without its reaper, ended its supervisor, and its
/// daemon lived on. Now it has all of its walls, or does not exist.
#[test]
#[needs(root, "grid-proxy-init", "perl")]
fn rule_3_with_few_free_processes_the_walls_stand_or_nothing_runs() {
    let m = site();
    let Some([pids]) = groups(&m, ["pids"]) else { return };
    let policy = fs::read_to_string(contract::POLICY).expect("every machine has a policy");
    for walls in ["", "[payload]\npid_namespace = true\n"] {
        m.write(contract::POLICY, "root", 0o644, format!("{policy}\n{walls}"));
        let mut ran_with = Vec::new();
        for free in 0..=5 {
            let told = format!("/tmp/told.{free}");
            let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
            // The call itself is one.
            bounded(&m, free + 1);
            let ran = run
                .args(["/usr/bin/perl", "-MIO::Handle", "-e", ESCAPING, &told])
                .limit(Duration::from_secs(120))
                .output();
            let gone = || fs::read_to_string(pids.join("pids.current")).ok().filter(|n| n.trim() == "0");
            eventually("the end of all processes", gone);
            fs::write(pids.join("pids.max"), "max").expect("root may limit");
            // What could not be closed with so few processes is closed by the next call.
            sh(&m, "true").output().exits(0);
            eventually("the end of the session", || sessions().is_empty().then_some(()));
            nothing_is_left(&m);
            let Ok(told) = fs::read_to_string(&told) else {
                ran.exits(202);
                continue;
            };
            ran_with.push(free);
            let version_2 = told.lines().find(|line| line.starts_with("0::")).unwrap_or_default();
            let (_, id) =
                version_2.rsplit_once("/glexec-").unwrap_or_else(|| panic!("{free}: no leaf: {told}"));
            let record = record(&m, id.trim());
            assert_eq!(ladder(&record)[0], "cgroup.kill", "{free}: {record}");
            if walls.is_empty() {
                assert!(told.contains("parent glexec-super"), "{free}: {told}");
            } else {
                assert_eq!(ladder(&record)[1], "pid_namespace", "{free}: {record}");
            }
        }
        eprintln!("payloads ran with {ran_with:?} free processes");
        assert!(!ran_with.contains(&0) && ran_with.contains(&5), "{walls}: {ran_with:?}");
        fs::read_dir("/tmp").expect("a machine has one").flatten().for_each(|entry| {
            if entry.file_name().to_string_lossy().starts_with("told.") {
                let _ = fs::remove_file(entry.path());
            }
        });
    }
}
