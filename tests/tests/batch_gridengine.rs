//! Inside a real Grid Engine: `qdel` ends payloads, `qmod` stops them and the accounting counts them, because they keep the
//! group that the job is tracked by. The same without `keep_gids` shows that nothing else of Grid Engine's does it. What
//! Grid Engine misses, the supervisor of the session ends.

use end_to_end::contract::{cpu_us, eventually, lives, wait_gone, written};
use end_to_end::gridengine::{ADMIN, GridEngine};
use end_to_end::security::{kill_supervisors, leaves, sessions};
use end_to_end::site::{lonely_pilot, time_left};
use harness::{Machine, needs};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// CPU seconds that the payload's daemon uses up before it sleeps.
const BURNT: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(60);

/// A payload's daemon: forked twice and in a session of its own, with a child that left that session in turn. The process
/// that uses CPU time lives on: Grid Engine looks once a second, and would miss the last part of one that ends.
const DAEMON: &str = r#"#!/bin/sh
echo $$ >/tmp/daemon
setsid sh -c 'echo $$ >/tmp/child; exec sleep 600' &
exec perl -e 'do { $x++ for 1 .. 1e5 } while (times)[0] < @BURNT@; system("echo burnt >/tmp/burnt"); sleep 600'
"#;

/// A node on which `pilot` may call and Alice is mapped; with or without the tracking groups in its policy.
fn node(keeps_gids: bool) -> Machine {
    let m = Machine::builder().pilot("pilot").service(ADMIN).account("alice").build();
    m.map("Alice", "alice");
    if keeps_gids {
        let keep = format!("[accounts]\nkeep_gids = [\"{}\"]", GridEngine::gid_range(&m));
        m.edit_policy(|text| text.replace("[accounts]", &keep));
    }
    m
}

/// A job of the pilot that runs a payload of Alice: it starts the daemon, waits until that has used its CPU time, and
/// goes on with these lines.
fn submit(m: &Machine, engine: &GridEngine<'_>, then: &str) -> String {
    m.write("/opt/daemon", "root", 0o755, DAEMON.replace("@BURNT@", &BURNT.to_string()));
    let start = "echo $$ >/tmp/first\n(setsid /opt/daemon </dev/null >/dev/null 2>&1 &)\n\
                   until [ -s /tmp/burnt ] && [ -s /tmp/child ]; do sleep 0.1; done\n";
    m.write("/opt/payload", "root", 0o755, format!("#!/bin/sh\n{start}{then}\n"));
    let proxy = m.proxy("Alice", "pilot");
    let call =
        format!("GLEXEC_CLIENT_CERT={proxy} GLEXEC_TARGET_PROXY=/dev/null /usr/sbin/glexec /opt/payload");
    engine.submit("pilot", &format!("#!/bin/sh\n{call}\nexit $?\n"))
}

/// The payload's first process, its daemon and the daemon's child, once the CPU time is used up.
fn running_payload() -> [i32; 3] {
    eventually("the daemon has used its CPU time", PATIENCE, || fs::metadata("/tmp/burnt").ok());
    ["/tmp/first", "/tmp/daemon", "/tmp/child"].map(|file| written(file).parse().expect("a process id"))
}

/// Suspends the job, and resumes it when the first process of the payload stands still; says which processes did.
fn stopped_by_qmod(engine: &GridEngine<'_>, job: &str, payload: [i32; 3]) -> [bool; 3] {
    let state = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let stopped = || payload.map(|pid| state(pid).rsplit_once(") ").is_some_and(|(_, s)| s.starts_with('T')));
    engine.ask("qmod", &["-sj", job]).ok();
    eventually("the payload is stopped", PATIENCE, || stopped()[0].then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    let found = stopped();
    engine.ask("qmod", &["-usj", job]).ok();
    eventually("the payload goes on", PATIENCE, || (stopped() == [false; 3]).then_some(()));
    found
}

fn groups_of(pid: i32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:")).expect("the process lives");
    line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

fn the_record(m: &Machine) -> Value {
    let records = m.records();
    assert_eq!(records.len(), 1, "{records:?}");
    records.into_iter().next().unwrap_or_default()
}

/// The pilot's next call, which closes what it finds; returns the record of the first session.
fn after_the_next_call(m: &Machine) -> Value {
    let first = the_record(m)["record_id"].clone();
    m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot")).arg("/bin/true").output().ok();
    assert!(sessions().is_empty() && leaves(m).is_empty(), "{:?} {:?}", sessions(), leaves(m));
    m.records().into_iter().find(|r| r["record_id"] == first).expect("records do not go away")
}

#[test]
#[needs(root, "sge_qmaster", "sge_execd", "qsub", "ip", "perl")]
fn qdel_and_qmod_reach_every_process_of_a_payload_by_the_tracking_group() {
    let m = node(true);
    let engine = GridEngine::start(&m);
    let job = submit(&m, &engine, "exec sleep 600");
    let payload = running_payload();
    let gid = engine.tracking_gid(&job);
    for pid in payload {
        assert_eq!(groups_of(pid), [gid], "the account's groups, which are none, and the job's");
    }
    eventually("qstat shows the payload's CPU time", PATIENCE, || {
        (engine.cpu_so_far(&job) >= u64::from(BURNT)).then_some(())
    });
    assert_eq!(stopped_by_qmod(&engine, &job, payload), [true; 3]);
    engine.ask("qdel", &[&job]).ok();
    payload.into_iter().for_each(wait_gone);
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    assert!(engine.accounted(&job, "cpu") >= f64::from(BURNT));
    // The front was killed with the rest; the supervisor has no group of the job's and closes the session.
    eventually("the supervisor has closed the session", PATIENCE, || sessions().is_empty().then_some(()));
    let record = the_record(&m);
    assert_eq!(record["groups"], serde_json::json!([gid]), "{record}");
    assert_eq!((&record["batch"]["lrms"], &record["batch"]["jobid"]), (&"gridengine".into(), &job.into()));
    assert_eq!(record["state"], "closed", "{record}");
    // Half of it: the kernel's clocks for a process and for a group do not quite agree.
    let enough = cpu_us(&record) >= u64::from(BURNT) * 500_000;
    assert!(enough, "the leaf has counted what the supervisor could not: {record}");
}

#[test]
#[needs(root, "sge_qmaster", "sge_execd", "qsub", "ip", "perl")]
fn without_the_tracking_group_qdel_qmod_and_accounting_miss_the_payload() {
    let m = node(false);
    let engine = GridEngine::start(&m);
    let job = submit(&m, &engine, "exec sleep 600");
    let [first, daemon, child] = running_payload();
    for pid in [first, daemon, child] {
        assert_eq!(groups_of(pid), Vec::<u32>::new(), "the caller's groups are gone");
    }
    assert_eq!(stopped_by_qmod(&engine, &job, [first, daemon, child]), [true, false, false]);
    kill_supervisors();
    // The first process dies with its supervisor, and the job ends with the front. Nobody closes the session yet.
    wait_gone(first);
    assert!(engine.accounted(&job, "cpu") < f64::from(BURNT) / 2.0, "the daemon's CPU time is not the job's");
    // Grid Engine looks at its processes once a second; it does not know of these.
    std::thread::sleep(Duration::from_secs(3));
    assert!(lives(daemon) && lives(child), "then the group is not what makes the difference");
    let record = after_the_next_call(&m);
    assert!(!lives(daemon) && !lives(child), "what Grid Engine leaves, the next call ends");
    assert_eq!(record["exit"]["lost"], "helper_died", "{record}");
    assert!(record["exit"]["leftovers"].as_u64() >= Some(2), "{record}");
}

#[test]
#[needs(root, "sge_qmaster", "sge_execd", "qsub", "ip", "perl")]
fn without_the_tracking_group_the_supervisor_ends_what_qdel_misses() {
    let m = node(false);
    let engine = GridEngine::start(&m);
    let job = submit(&m, &engine, "exec sleep 600");
    let payload = running_payload();
    engine.ask("qdel", &[&job]).ok();
    payload.into_iter().for_each(wait_gone);
    eventually("the supervisor has closed the session", PATIENCE, || sessions().is_empty().then_some(()));
    let record = the_record(&m);
    assert_eq!(record["state"], "closed", "{record}");
    assert!(record["exit"]["leftovers"].as_u64() >= Some(2), "{record}");
    assert!(leaves(&m).is_empty());
}

#[test]
#[needs(root, "sge_qmaster", "sge_execd", "qsub", "ip", "perl")]
fn a_job_that_ends_by_itself_has_the_payload_s_exit_code_and_cpu_time() {
    let m = node(true);
    let engine = GridEngine::start(&m);
    let job = submit(&m, &engine, "exit 7");
    let payload = running_payload();
    assert!((engine.accounted(&job, "exit_status") - 7.0).abs() < f64::EPSILON);
    assert!(engine.accounted(&job, "cpu") >= f64::from(BURNT));
    assert!(payload.into_iter().all(|pid| !lives(pid)), "nothing outlives the job");
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    let record = the_record(&m);
    assert_eq!((&record["state"], &record["exit"]["code"]), (&"closed".into(), &7.into()), "{record}");
    assert!(record["exit"]["leftovers"].as_u64() >= Some(2), "daemon and child: {record}");
    assert!(sessions().is_empty() && leaves(&m).is_empty());
}

/// A pilot that meets no queue ends with 3 after it has looked around.
#[test]
#[needs(root, "sge_qmaster", "sge_execd", "qsub", "ip")]
fn a_pilot_takes_time_cores_and_memory_from_its_job() {
    let m = node(false);
    let engine = GridEngine::start(&m);
    let script = lonely_pilot(&m.proxy("Pilot", "pilot"));
    let wishes = "#!/bin/sh\n#$ -l h_rt=180,h_vmem=6G";
    let job = engine.submit("pilot", &script.replace("#!/bin/sh", wishes));
    let code = engine.accounted(&job, "exit_status");
    let said = fs::read_to_string(format!("{}/job.out", m.account("pilot").home)).expect("the job's output");
    assert!((code - 3.0).abs() < f64::EPSILON, "{code}: {said}");
    assert!(said.contains(" cores=1 "), "{said}");
    assert!(said.contains(&format!(" memory={} ", 6_u64 << 30)), "{said}");
    let left = time_left(&said);
    assert!((1..=180).contains(&left), "{left}: {said}");
}
