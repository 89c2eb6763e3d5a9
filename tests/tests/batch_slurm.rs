//! Inside a real Slurm: `scancel` ends payloads, limits and counters hold them, exit codes arrive. Slurm finds the
//! processes of a step by the step's own cgroup, and those of a payload are in a leaf below it: the supervisor beside it is what
//! makes the difference.

use end_to_end::contract::{cpu_us, eventually, lives, wait_gone, written};
use end_to_end::security::sessions;
use end_to_end::site::{lonely_pilot, time_left};
use end_to_end::slurm::{ADMIN, Slurm, Tracking};
use harness::{Machine, need, needs};
use serde_json::Value;
use std::fs;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A payload's daemon: forked twice and in a session of its own, with a child that left that session in turn. It uses up
/// two seconds of CPU time.
const DAEMON: &str = r#"#!/bin/sh
echo $$ >/tmp/daemon
setsid sh -c 'echo $$ >/tmp/child; exec sleep 600' &
exec perl -e 'do { $x++ for 1 .. 1e5 } while (times)[0] < 2; system("echo burnt >/tmp/burnt"); sleep 600'
"#;

/// A payload that starts the daemon, and goes on like this.
fn with_daemons(then: &str) -> String {
    let start = "echo $$ >/tmp/first\n(setsid /opt/daemon </dev/null >/dev/null 2>&1 &)\n";
    format!("{start}until [ -s /tmp/daemon ] && [ -s /tmp/child ]; do sleep 0.1; done\n{then}\n")
}

/// What Slurm's plugin cgroup/v1 tracks, limits and counts with.
fn cgroups_of_version_1() -> bool {
    let writable = |name: &str| {
        let meta = fs::metadata(format!("/sys/fs/cgroup/{name}/tasks"));
        meta.is_ok_and(|meta| !meta.permissions().readonly())
    };
    let all = ["freezer", "memory", "cpuacct"].into_iter().all(writable);
    need::that(all, "freezer, memory and cpuacct of cgroup version 1 are needed for Slurm's plugin cgroup/v1")
}

/// A node on which `pilot` may call and Alice is mapped.
fn node() -> Machine {
    let m = Machine::builder().pilot("pilot").service(ADMIN).account("alice").build();
    m.map("Alice", "alice");
    m.write("/opt/daemon", "root", 0o755, DAEMON);
    m
}

/// A job of the pilot that runs this script as a payload of Alice.
fn submit(m: &Machine, slurm: &Slurm<'_>, options: &[&str], payload: &str) -> String {
    m.write("/opt/payload", "root", 0o755, format!("#!/bin/sh\n{payload}"));
    let proxy = m.proxy("Alice", "pilot");
    let call =
        format!("GLEXEC_CLIENT_CERT={proxy} GLEXEC_TARGET_PROXY=/dev/null /usr/sbin/glexec /opt/payload");
    slurm.submit("pilot", options, &format!("#!/bin/sh\n{call}\nexit $?\n"))
}

/// The payload's first process, its daemon and the daemon's child.
fn running_payload() -> [i32; 3] {
    ["/tmp/first", "/tmp/daemon", "/tmp/child"].map(|file| written(file).parse().expect("a process id"))
}

fn freezer_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let line = text.lines().find(|line| line.split(':').nth(1) == Some("freezer"));
    line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_default().to_owned()
}

/// The leaf below Slurm's own directory for the step: where the payload is, and Slurm does not look.
#[track_caller]
fn assert_below_the_step(job: &str, payload: [i32; 3]) {
    for pid in payload {
        let group = freezer_of(pid);
        assert!(group.contains(&format!("/job_{job}/step_batch/glexec-")), "{pid}: {group}");
    }
}

fn the_record(m: &Machine) -> Value {
    let records = m.records();
    assert_eq!(records.len(), 1, "{records:?}");
    records.into_iter().next().unwrap_or_default()
}

fn leaves(slurm: &Slurm<'_>) -> Vec<String> {
    let paths = slurm.cgroups().into_iter().map(|dir| dir.display().to_string());
    paths.filter(|path| path.contains("glexec-")).collect()
}

fn processes_in(slurm: &Slurm<'_>) -> String {
    let read = |dir: std::path::PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    slurm.cgroups().into_iter().map(read).collect()
}

/// Slurm killed the front; the supervisor was not in the step's own group and closed everything.
#[track_caller]
fn assert_closed(record: &Value) {
    let found = (&record["state"], &record["exit"]["killed_by"]);
    assert_eq!(found, (&"closed".into(), &"the glexec that waited was killed".into()), "{record}");
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip", "perl", self::cgroups_of_version_1)]
fn scancel_ends_every_process_of_a_payload_and_its_session() {
    let m = node();
    let slurm = Slurm::start(&m, Tracking::Cgroup);
    let job = submit(&m, &slurm, &["--mem=100"], &with_daemons("exec sleep 600"));
    let payload = running_payload();
    assert_below_the_step(&job, payload);
    eventually("sstat shows the daemon's CPU time", PATIENCE, || {
        (slurm.counted(&job, "AveCPU").as_str() >= "00:00:02").then_some(())
    });
    slurm.ask("scancel", &[&job]).ok();
    payload.into_iter().for_each(wait_gone);
    // Nobody has called or asked since.
    eventually("the session is closed", PATIENCE, || sessions().is_empty().then_some(()));
    let record = the_record(&m);
    assert_closed(&record);
    assert!(record["exit"]["leftovers"].as_u64() >= Some(2), "daemon and child: {record}");
    assert!(
        cpu_us(&record) >= 1_000_000,
        "the daemon's two seconds, as far as the kernel's clocks agree: {record}"
    );
    assert_eq!((&record["batch"]["lrms"], &record["batch"]["jobid"]), (&"slurm".into(), &job.clone().into()));
    assert_eq!(leaves(&slurm), Vec::<String>::new());
    assert_eq!(slurm.ended(&job).0, "CANCELLED");
    eventually("nobody is in Slurm's cgroups", PATIENCE, || processes_in(&slurm).is_empty().then_some(()));
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip", "perl", self::cgroups_of_version_1)]
fn a_job_that_ends_by_itself_has_the_payload_s_exit_code_and_leaves_nothing() {
    let m = node();
    let slurm = Slurm::start(&m, Tracking::Cgroup);
    let job = submit(&m, &slurm, &[], &with_daemons("exit 7"));
    let payload = running_payload();
    assert_eq!(slurm.ended(&job), ("FAILED".into(), "7:0".into()));
    assert!(payload.into_iter().all(|pid| !lives(pid)), "nothing outlives the job");
    let record = the_record(&m);
    assert_eq!((&record["state"], &record["exit"]["code"]), (&"closed".into(), &7.into()), "{record}");
    assert!(record["exit"]["leftovers"].as_u64() >= Some(2), "daemon and child: {record}");
    assert!(sessions().is_empty() && leaves(&slurm).is_empty());
    let of_jobs = || slurm.cgroups().into_iter().filter(|dir| dir.display().to_string().contains("/job_"));
    eventually("Slurm's own directories go as well", PATIENCE, || of_jobs().next().is_none().then_some(()));
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip", "perl", self::cgroups_of_version_1)]
fn the_job_s_memory_limit_holds_the_payload() {
    let m = node();
    let slurm = Slurm::start(&m, Tracking::Cgroup);
    // A program of Alice's that the shell outlives, to tell by which signal it ended.
    let take = "perl -e '$x = \"x\" x (300 << 20)'\ncode=$?\necho $code >/tmp/taken\nexit $code\n";
    for (limit, code) in [("--mem=900", "0"), ("--mem=60", "137")] {
        let _ = fs::remove_file("/tmp/taken");
        let job = submit(&m, &slurm, &[limit], take);
        let (state, exit) = slurm.ended(&job);
        assert_eq!(
            (written("/tmp/taken").as_str(), exit.as_str()),
            (code, &*format!("{code}:0")),
            "{limit}: {state}"
        );
    }
    assert!(sessions().is_empty() && leaves(&slurm).is_empty());
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip", "perl")]
fn scancel_follows_parents_where_slurm_tracks_by_them() {
    let m = node();
    let slurm = Slurm::start(&m, Tracking::Linuxproc);
    let job = submit(&m, &slurm, &[], &with_daemons("exec sleep 600"));
    let payload = running_payload();
    // Its orphans are the supervisor's children, and the supervisor is the front's.
    slurm.ask("scancel", &[&job]).ok();
    payload.into_iter().for_each(wait_gone);
    assert_eq!(slurm.ended(&job).0, "CANCELLED");
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
}

/// A pilot that meets no queue ends with 3 after it has looked around.
#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip")]
fn a_pilot_takes_time_cores_and_memory_from_its_job() {
    let m = node();
    let slurm = Slurm::start(&m, Tracking::Linuxproc);
    let script = lonely_pilot(&m.proxy("Pilot", "pilot"));
    let job = slurm.submit("pilot", &["--time=3", "--cpus-per-task=1", "--mem=300"], &script);
    let (state, exit) = slurm.ended(&job);
    let said = fs::read_to_string(format!("{}/job.out", m.account("pilot").home)).expect("the job's output");
    assert_eq!((state.as_str(), exit.as_str()), ("FAILED", "3:0"), "{said}");
    assert!(said.contains(" cores=1 "), "{said}");
    assert!(said.contains(&format!(" memory={} ", 300 << 20)), "{said}");
    let left = time_left(&said);
    assert!((1..=180).contains(&left), "{left}: {said}");
}
