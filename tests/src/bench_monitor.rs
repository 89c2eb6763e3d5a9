//! What `glexec-monitor` costs: idle, and in storms of forks with nested calls in the middle of them.
//!
//! A storm is one generator on each CPU, up to four, so the monitor has to take its time from them. With a cgroup leaf
//! the kernel keeps births from it; without one each birth and each end is an event that it reads.

use end_to_end::contract::{eventually, install_tool};
use end_to_end::security::without_cgroups;
use end_to_end::storm::{self, Storm};
use harness::{Machine, Running};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(60);
const STORM_SECONDS: u32 = 10;
const STORMS: usize = 3;

/// Prints one line for the idle monitor and one for each storm.
pub fn run() {
    println!("\nglexec-monitor, {} CPUs\n", std::thread::available_parallelism().map_or(1, usize::from));
    idle();
    println!(
        "\n{:<10} {:>8} {:>6} {:>8} {:>10} {:>11} {:>8} {:>10} {:>8}",
        "sessions", "forks/s", "calls", "stopped", "median ms", "longest ms", "CPU %", "queue KiB", "dropped"
    );
    for name in ["with leaf", "without"] {
        let machine = site();
        if name == "without" {
            without_cgroups();
        }
        let monitor = monitor(&machine);
        (0..STORMS).for_each(|_| print_storm(name, &machine, &monitor));
        end(monitor);
    }
}

fn site() -> Machine {
    let policy = "[payload]\nno_new_privs = false\n";
    let machine = Machine::builder().pilot("pilot").account("alice").policy_add(policy).build();
    machine.map("Alice", "alice");
    machine
}

fn monitor(machine: &Machine) -> Running {
    let running = machine.command("/usr/sbin/glexec-monitor").spawn();
    let watches = || machine.log().contains("watching /usr/sbin/glexec").then_some(());
    eventually("the monitor", Duration::from_secs(60), watches);
    running
}

fn end(monitor: Running) {
    monitor.signal(15);
    monitor.end_within(Duration::from_secs(60)).exits(0);
}

/// CPU time of loop and writer, nanoseconds.
fn both_ns(monitor: &Running) -> u64 {
    let children = format!("/proc/{0}/task/{0}/children", monitor.pid());
    let children = std::fs::read_to_string(children).expect("the monitor lives");
    let writer = children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(storm::cpu_ns);
    storm::cpu_ns(monitor.pid()) + writer.sum::<u64>()
}

fn percent(cpu_ns: u64, took: Duration) -> f64 {
    cpu_ns as f64 / took.as_nanos() as f64 * 100.0
}

fn idle() {
    let machine = site();
    let monitor = monitor(&machine);
    std::thread::sleep(Duration::from_secs(1));
    let (before, began) = (both_ns(&monitor), Instant::now());
    std::thread::sleep(IDLE);
    let (used, took) = (both_ns(&monitor) - before, began.elapsed());
    println!("idle for {} s: {:.4} % of one CPU", took.as_secs(), percent(used, took));
    end(monitor);
}

fn print_storm(name: &str, machine: &Machine, monitor: &Running) {
    let program = std::env::current_exe().expect("the kernel knows the running program");
    let program = install_tool(machine, &program.with_file_name("fork-storm").to_string_lossy());
    let script = storm::script(&program, STORM_SECONDS);
    let run = machine.glexec().env("GLEXEC_CLIENT_CERT", machine.proxy("Alice", "pilot"));
    let run = run.args(["/bin/sh", "-c", &script]);
    let over = AtomicBool::new(false);
    let (before, dropped, began) = (both_ns(monitor), storm::queue(monitor.pid()).1, Instant::now());
    let (ran, peak) = std::thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(storm::queue(monitor.pid()).0);
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let ran = run.output();
        over.store(true, Ordering::Relaxed);
        (ran, peak.join().expect("it only reads"))
    });
    let (used, took) = (both_ns(monitor) - before, began.elapsed());
    let dropped = storm::queue(monitor.pid()).1 - dropped;
    let Storm { rate, calls, refused, median_us, longest_us } = Storm::read(&ran.ok());
    let (median, longest) = (median_us as f64 / 1000.0, longest_us as f64 / 1000.0);
    println!(
        "{name:<10} {rate:>8.0} {calls:>6} {refused:>8} {median:>10.2} {longest:>11.2} {:>8.1} {:>10} {dropped:>8}",
        percent(used, took),
        peak / 1024
    );
}
