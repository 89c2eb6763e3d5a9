//! `make bench`: what an identity switch costs, next to what others take for theirs.
//!
//! The programs take turns, so that whatever else happens on this host happens to all of them. Nothing is asserted:
//! times depend on the host, the ratio between the programs much less. The clock starts when a program has been executed: what
//! the machine does before, such as moving it into a cgroup, is not its own. System calls are counted by `strace -f`, peak
//! memory is the largest single process (`wait4(2)`, `ru_maxrss`). Then: what queue and pilot cost, see `bench_queue` and `bench_pilot`; what the queue alone does, see `bench_server`; what
//! `glexec-monitor` costs, see `bench_monitor`. In the end one table of all that has a goal, kept as JSON: `bench_report`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

mod bench_monitor;
mod bench_pilot;
mod bench_queue;
mod bench_report;
mod bench_server;

use bench_report::{Goal, Measure};
use harness::{Machine, Run, need};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 400;
const WARM_UP: usize = 5;
const SUDOERS: &str = "pilot ALL=(alice) NOPASSWD: /bin/true\n";
const LCMAPS_DB: &str = "path = /usr/lib/lcmaps\nverify = \"lcmaps_verify_proxy.mod -certdir /etc/grid-security/certificates\"\n\
                         map = \"lcmaps_localaccount.mod -gridmapfile /etc/grid-security/grid-mapfile\"\n\
                         p:\nverify -> map\n";

/// A program to measure, and what was measured.
struct Contender {
    name: &'static str,
    user: &'static str,
    program: String,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// Forget before each run what glexec keeps for `cache_ttl`.
    cold: bool,
    times: Vec<Duration>,
    peak_kib: i64,
    calls: Option<u64>,
}

impl Contender {
    fn new(name: &'static str, user: &'static str, words: &[&str]) -> Self {
        let (program, arguments) = words.split_first().expect("a program has a name");
        Self {
            name,
            user,
            program: (*program).to_owned(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            environment: Vec::new(),
            cold: false,
            times: Vec::with_capacity(ROUNDS),
            peak_kib: 0,
            calls: None,
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn run(&self, machine: &Machine) -> Run {
        let run = machine.command(&self.program).as_user(self.user).args(&self.arguments);
        self.environment.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    fn forget(&self) {
        if self.cold {
            let _ = std::fs::remove_dir_all("/run/glexec/cache");
        }
    }

    #[expect(clippy::zombie_processes, reason = "wait_for waits for it, and learns more than wait() would")]
    fn once(&mut self, machine: &Machine) -> Duration {
        self.forget();
        let mut run = self.run(machine);
        run.raw().stdout(std::process::Stdio::null());
        let child = run.start();
        let start = Instant::now();
        let (status, peak_kib) = wait_for(child.id());
        let took = start.elapsed();
        assert!(status == 0, "{} failed; run it by hand in a machine to see why", self.name);
        self.peak_kib = self.peak_kib.max(peak_kib);
        took
    }

    /// Runs it once under strace, as root's child that becomes the user, so that setuid programs keep their bit.
    fn count_calls(&mut self, machine: &Machine) {
        self.forget();
        let counts = "/tmp/bench.calls";
        let strace =
            machine.command("/usr/bin/strace").args(["-f", "-qq", "-c", "-o", counts, "-u", self.user]);
        let run = strace.arg(&self.program).args(&self.arguments);
        let run = self.environment.iter().fold(run, |run, (name, value)| run.env(name, value));
        if run.output().code() == Some(0) {
            self.calls = std::fs::read_to_string(counts).ok().and_then(|text| total_calls(&text));
        }
    }
}

/// The fourth column of strace's last line: `100.00    0.001234           3       582        61 total`.
fn total_calls(table: &str) -> Option<u64> {
    let total = table.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}

/// Waits for a child; its raw status and its peak memory in KiB.
fn wait_for(pid: u32) -> (i32, i64) {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals; the child is ours, and nobody else waits for it.
    let waited = unsafe { libc::wait4(pid.cast_signed(), &mut status, 0, &mut usage) };
    assert!(waited > 0, "the child is gone");
    (status, usage.ru_maxrss)
}

fn main() {
    if !need::root() {
        return;
    }
    // `pilotage-bench monitor` leaves the rest out, `pilotage-bench quick` the monitor, `pilotage-bench pilot` all but
    // queue and pilot, `pilotage-bench server` all but the queue by itself.
    let only = std::env::args().nth(1).unwrap_or_default();
    let host = bench_report::machine();
    let mut measures = Vec::new();
    if only != "monitor" {
        if only != "pilot" && only != "server" {
            measures.extend(switches());
        }
        if only != "server" {
            measures.extend(bench_queue::measures());
            measures.extend(bench_pilot::measures());
        }
        measures.extend(bench_server::measures());
    }
    if !["quick", "pilot", "server"].contains(&only.as_str()) {
        bench_monitor::run();
    }
    if !measures.is_empty() {
        let file = harness::bin_dir().with_file_name("bench.json");
        bench_report::publish(&host, &measures, &file).expect("the result can be written");
    }
}

fn switches() -> Option<Measure> {
    if !need::tool("sudo") || !need::tool("setpriv") {
        return None;
    }
    let machine = Machine::builder().pilot("pilot").account("alice").build();
    machine.map("Alice", "alice");
    let proxy = machine.proxy("Alice", "pilot");
    machine.write("/etc/sudoers.d/bench", "root", 0o440, SUDOERS);
    let mut contenders = contenders(&machine, &proxy);
    measure(&machine, &mut contenders);
    print(&mut contenders);
    let median = |name: &str| {
        let contender = contenders.iter().find(|c| c.name == name);
        contender.map(|c| c.times[ROUNDS / 2].as_secs_f64() * 1e3).unwrap_or_default()
    };
    Some(Measure {
        name: "identity switch, plain proxy, median",
        value: median("glexec"),
        unit: "ms",
        beside: Some(("sudo".to_owned(), median("sudo"))),
        goal: Some(Goal::AtMost(0.9)),
    })
}

fn contenders(machine: &Machine, proxy: &str) -> Vec<Contender> {
    let uid = machine.uid("alice").to_string();
    let setpriv = ["/usr/bin/setpriv", "--reuid", &uid, "--regid", &uid, "--init-groups", "/bin/true"];
    let glexec = |name| {
        Contender::new(name, "pilot", &["/usr/sbin/glexec", "/bin/true"])
            .with("GLEXEC_CLIENT_CERT", proxy)
            .with("GLEXEC_TARGET_PROXY", "/dev/null")
    };
    let mut all = vec![
        glexec("glexec"),
        Contender { cold: true, ..glexec("glexec, proxy not seen before") },
        Contender::new("sudo", "pilot", &["/usr/bin/sudo", "-n", "-u", "alice", "/bin/true"]),
        Contender::new("setpriv (no decision)", "root", &setpriv),
        Contender::new("/bin/true (no switch)", "pilot", &["/bin/true"]),
    ];
    if Path::new("/usr/bin/sudo-rs").exists() {
        all.push(Contender::new("sudo-rs", "pilot", &["/usr/bin/sudo-rs", "-n", "-u", "alice", "/bin/true"]));
    }
    all.extend(lcmaps(machine, proxy));
    all
}

/// The library that did gLExec's work: verifying the same proxy and looking it up in the same map file, without a switch.
fn lcmaps(machine: &Machine, proxy: &str) -> Option<Contender> {
    let installed = ["verify_proxy", "localaccount"]
        .iter()
        .all(|name| Path::new(&format!("/usr/lib/lcmaps/lcmaps_{name}.mod")).exists());
    let driver = "/usr/bin/bench-lcmaps";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle/lcmaps.c");
    let built = installed
        && Command::new("cc").args(["-O2", "-o", driver]).arg(source).arg("-ldl").status().ok()?.success();
    machine.write("/etc/bench-lcmaps.db", "root", 0o644, LCMAPS_DB);
    built.then(|| {
        Contender::new("LCMAPS (verify, map; no switch)", "pilot", &[driver, "pem", "p", proxy])
            .with("LCMAPS_DB_FILE", "/etc/bench-lcmaps.db")
            .with("LCMAPS_LOG_FILE", "/tmp/bench-lcmaps.log")
            .with("X509_CERT_DIR", "/etc/grid-security/certificates")
    })
}

fn measure(machine: &Machine, contenders: &mut [Contender]) {
    for contender in contenders.iter_mut() {
        for _ in 0..WARM_UP {
            contender.once(machine);
        }
        contender.peak_kib = 0;
    }
    for _ in 0..ROUNDS {
        for contender in contenders.iter_mut() {
            let took = contender.once(machine);
            contender.times.push(took);
        }
    }
    if Path::new("/usr/bin/strace").exists() {
        contenders.iter_mut().for_each(|c| c.count_calls(machine));
    }
}

fn print(contenders: &mut [Contender]) {
    let millis = |d: Duration| d.as_secs_f64() * 1e3;
    contenders.iter_mut().for_each(|c| c.times.sort_unstable());
    let ours = millis(contenders[0].times[ROUNDS / 2]);
    println!("{ROUNDS} rounds, taking turns; wall time in ms, memory of the largest process\n");
    println!(
        "{:<32} {:>8} {:>8} {:>12} {:>8} {:>9}",
        "program", "median", "p99", "glexec takes", "calls", "peak MiB"
    );
    for Contender { name, times, calls, peak_kib, .. } in contenders {
        let (median, p99) = (millis(times[ROUNDS / 2]), millis(times[ROUNDS * 99 / 100]));
        let calls = calls.map_or_else(|| "-".into(), |n| n.to_string());
        let peak = *peak_kib as f64 / 1024.0;
        println!("{name:<32} {median:>8.2} {p99:>8.2} {:>10.2} x {calls:>8} {peak:>9.1}", ours / median);
    }
}
