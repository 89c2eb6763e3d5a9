//! What one pilot costs: how soon a payload starts and hears of its cancellation, how much a sleeping one takes, and no-op
//! payloads beside HyperQueue's worker, where its package is installed for `python3`.

use crate::bench_report::{Goal, Measure};
use end_to_end::site::{Guard, Site};
use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Payloads that latencies are taken from.
const SAMPLES: usize = 20;
/// For so long the CPU time of a pilot with a sleeping payload is counted.
const WATCHED: Duration = Duration::from_secs(20);
/// The same no-op tasks as HyperQueue runs them: tasks, then workers' cores.
const HYPERQUEUE: &str = "
import sys, time
from hyperqueue import LocalCluster, Job
from hyperqueue.cluster import WorkerConfig
tasks, cores = int(sys.argv[1]), int(sys.argv[2])
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=cores))
    client, job = cluster.client(), Job()
    for _ in range(tasks):
        job.program(['/bin/true'])
    began = time.monotonic()
    client.wait_for_jobs([client.submit(job)])
    print(tasks / (time.monotonic() - began))
";

/// Latencies and sizes of a pilot that has nothing else to do.
pub fn measures() -> Vec<Measure> {
    let site = Site::new("60s");
    let agent = site.agent("agent", &["--slots", "2"]);
    let warm = site.shell("true");
    assert_eq!(site.wait(&warm), Some(0), "{}", site.log("agent"));
    let mut all = vec![
        latency("submit to the payload's first instruction, p95", 50.0, p95(|| started(&site))),
        latency("cancel to SIGTERM in the payload, p95", 200.0, p95(|| cancelled(&site))),
    ];
    all.extend(sleeping(&site, &agent));
    all
}

/// No-op tasks per second of HyperQueue's worker; `None` where it is not installed.
pub fn hyperqueue(tasks: u32, cores: usize) -> Option<f64> {
    let (tasks, cores) = (tasks.to_string(), cores.to_string());
    // It leaves files for each task in its working directory.
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut python = Command::new("python3");
    let out = python.args(["-c", HYPERQUEUE, &tasks, &cores]).current_dir(dir.path()).output().ok()?;
    String::from_utf8_lossy(&out.stdout).trim().lines().last()?.parse().ok()
}

fn latency(name: &'static str, goal: f64, value: f64) -> Measure {
    Measure { name, value, unit: "ms", beside: None, goal: Some(Goal::Value(goal)) }
}

fn p95(sample: impl Fn() -> f64) -> f64 {
    let mut all: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    all.sort_by(f64::total_cmp);
    all[SAMPLES * 95 / 100 - 1]
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64() * 1e3
}

/// Milliseconds since the epoch that a payload has written into a file as `date +%s%N`.
fn written(site: &Site, name: &str) -> f64 {
    let text = site.await_file(name);
    let nanoseconds: f64 = text.trim().parse().expect("date writes a number");
    fs::remove_file(site.path(name)).expect("it is there");
    nanoseconds / 1e6
}

fn started(site: &Site) -> f64 {
    let began = now_ms();
    let id = site.shell(&format!("date +%s%N > {}", site.path("began")));
    let took = written(site, "began") - began;
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("agent"));
    took
}

fn cancelled(site: &Site) -> f64 {
    let (ready, ended) = (site.path("ready"), site.path("ended"));
    let script = format!(
        "trap 'date +%s%N > {ended}; exit 0' TERM; date +%s%N > {ready}; while :; do sleep 0.01; done"
    );
    let id = site.shell(&script);
    written(site, "ready");
    let began = now_ms();
    site.ok(&["cancel", &id]);
    let took = written(site, "ended") - began;
    site.wait(&id);
    took
}

/// Memory and CPU of a pilot whose payload sleeps, and memory of its runner.
fn sleeping(site: &Site, agent: &Guard) -> Vec<Measure> {
    let id = site.shell("exec sleep 1000");
    site.await_state(&id, "running");
    let before = cpu_ms(agent.pid());
    std::thread::sleep(WATCHED);
    let used = (cpu_ms(agent.pid()) - before) / (WATCHED.as_secs_f64() * 1e3) * 100.0;
    let runner = child_of(agent.pid()).map_or(0.0, resident_mib);
    let of =
        |name, value, unit, goal| Measure { name, value, unit, beside: None, goal: Some(Goal::Value(goal)) };
    let all = vec![
        of("memory of a pilot whose payload sleeps", resident_mib(agent.pid()), "MiB", 15.0),
        of("CPU of a pilot whose payload sleeps", used, "%", 0.1),
        of("memory of its runner, without a switch", runner, "MiB", 2.0),
    ];
    site.ok(&["cancel", &id]);
    site.wait(&id);
    all
}

/// Resident set of a process.
pub fn resident_mib(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

/// User and system time; the kernel counts in hundredths of a second.
fn cpu_ms(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10.0
}

fn child_of(pid: i32) -> Option<i32> {
    let text = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().find_map(|task| {
        let children = fs::read_to_string(task.path().join("children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    })?;
    text.parse().ok()
}
