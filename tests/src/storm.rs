//! A storm of forks with nested calls in the middle of it, and what it does to the monitor.

use std::fmt::Write;
use std::fs;

/// The measure: births a second that the monitor must survive.
pub const STORM: f64 = 20_000.0;
/// The connector's number among the netlink protocols.
const CONNECTOR: &str = "11";

/// What the generators told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Storm {
    /// Births a second, of all generators.
    pub rate: f64,
    /// Calls of `glexec` by children of the storm.
    pub calls: u64,
    /// Calls that were answered with `EPERM` instead of being started.
    pub refused: u64,
    /// How long a call took until it was refused, microseconds: the worst generator's median.
    pub median_us: u64,
    /// The longest one, microseconds.
    pub longest_us: u64,
}

/// A shell script that lets it storm on each CPU, up to four, for so many seconds; `program` is the `fork-storm` to use.
pub fn script(program: &str, seconds: u32) -> String {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    let mut script = String::new();
    for cpu in 0..cpus {
        let _ = write!(script, "{program} {seconds} {cpu} /usr/sbin/glexec & ");
    }
    script + "wait"
}

impl Storm {
    /// Adds up the lines of all generators.
    ///
    /// # Panics
    /// When there is none: then there was no storm.
    pub fn read(text: &str) -> Self {
        let mut storm = Self::default();
        for line in text.lines().filter_map(|l| l.strip_prefix("storm: ")) {
            let field = |name: &str| {
                let word = line.split(' ').find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
                word.and_then(|w| w.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {name} in {line:?}"))
            };
            storm.rate += field("born") as f64 * 1000.0 / field("millis").max(1) as f64;
            storm.calls += field("calls");
            storm.refused += field("refused");
            storm.median_us = storm.median_us.max(field("median_us"));
            storm.longest_us = storm.longest_us.max(field("longest_us"));
        }
        assert!(storm.calls > 0, "no storm: {text:?}");
        storm
    }
}

/// The socket on which a process hears of births: bytes that wait in it, and events that were dropped since it was made.
///
/// # Panics
/// When it has none.
pub fn queue(pid: i32) -> (u64, u64) {
    let table = fs::read_to_string("/proc/net/netlink").expect("every host has netlink");
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    let rows = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|r| r[1] == CONNECTOR && r[2] == pid.to_string());
    let row = row.unwrap_or_else(|| panic!("process {pid} has no connector socket:\n{table}"));
    (row[4].parse().expect("a number"), row[8].parse().expect("a number"))
}

/// CPU time that a process has used, nanoseconds.
///
/// # Panics
/// When there is no such process.
pub fn cpu_ns(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process lives");
    text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}
