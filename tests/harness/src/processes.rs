//! Finding and ending the processes of a machine, also those that left their parents.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

/// A process and its real, effective, saved and file system uid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) uids: Vec<u32>,
    pub(crate) name: String,
}

/// All living processes that `/proc` shows. Zombies have ended already and do not count; neither does one on its way there.
/// It has given back its memory, so it executes nothing any more, but between leaving its cgroup (which is then empty, and
/// may be removed) and becoming a zombie it is still shown as running: a short time, unless a busy machine stops it there.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(one).collect()
}

fn one(pid: i32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    if field("State:")?.starts_with(['Z', 'X']) || field("VmSize:").is_none() {
        return None;
    }
    let uids = field("Uid:")?.split_whitespace().filter_map(|u| u.parse().ok()).collect();
    Some(Process { pid, uids, name: field("Name:")?.to_owned() })
}

/// Kills every process that has one of the uids, again and again until none is left.
///
/// # Panics
/// When some survive for ten seconds: the test has then found something worth knowing.
pub(crate) fn kill_all_with(uid: impl Fn(u32) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<_> = all().into_iter().filter(|p| p.uids.iter().any(|u| uid(*u))).collect();
        if left.is_empty() {
            return;
        }
        for process in &left {
            // It may have ended by itself meanwhile; the next round tells.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        let over = Instant::now() > end;
        if over && std::thread::panicking() {
            eprintln!("processes survive SIGKILL: {left:?}");
            return;
        }
        assert!(!over, "processes survive SIGKILL: {left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
