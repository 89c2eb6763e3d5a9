//! What the security tests share: a site with hostile children, and looking at processes.

use crate::contract::{eventually, lives};
use harness::Machine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Makes `from` visible at `to`, in this machine only.
///
/// # Panics
/// When it cannot be mounted.
pub fn bind(from: &str, to: &str) {
    let status = Command::new("mount").args(["--bind", from, to]).status();
    assert!(status.is_ok_and(|s| s.success()), "cannot bind {from} on {to}");
}

/// Puts a program in the place of both children of `glexec`.
pub fn replace_children(program: &str) {
    let program = crate::contract::seen_inside(program);
    bind(&program, "/usr/libexec/pilotage/glexec-verify");
    bind(&program, "/usr/libexec/pilotage/glexec-map");
}

/// Takes the cgroups away, so that sessions are without a leaf.
///
/// # Panics
/// When the mounts cannot be changed.
pub fn without_cgroups() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("every host has /proc");
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    for place in fields.filter(|f| f[2].starts_with("cgroup")).map(|f| f[1].to_owned()) {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "none", &place]).status();
        assert!(status.is_ok_and(|s| s.success()), "cannot cover {place}");
    }
}

/// A number from the environment, or this one.
pub fn rounds(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// All processes with this real uid, zombies included: pid, state and name.
pub fn processes_with_uid(uid: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("every host has /proc");
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let status = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/status")).ok();
    pids.filter_map(|pid| {
        let text = status(pid)?;
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim();
        let real = field("Uid:").split_whitespace().next()?.parse::<u32>().ok()?;
        (real == uid).then(|| format!("{pid} {} {}", field("State:"), field("Name:")))
    })
    .collect()
}

/// Names of the sessions that stand in `/run/glexec/sessions`.
pub fn sessions() -> Vec<String> {
    names("/run/glexec/sessions")
}

/// The process of root that supervises a session.
///
/// # Panics
/// When there is none.
pub fn supervisor_of(session: &str) -> i32 {
    let state = fs::read_to_string(format!("/run/glexec/sessions/{session}/state")).unwrap_or_default();
    let number = state.lines().find_map(|line| line.strip_prefix("supervisor=")?.parse().ok());
    number.expect("a session names its supervisor")
}

/// Waits for supervisors and reapers that are closing sessions in the place of an ended call.
///
/// # Panics
/// When one takes longer than 10 seconds.
#[track_caller]
pub fn supervisors_are_done() {
    let comm =
        |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let here = fs::read_link("/proc/thread-self/ns/mnt").ok();
    let is_ours = |pid: &String| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == here;
    let is_alone = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1).map(str::to_owned));
        parent.is_some_and(|parent| comm(&parent) != "glexec") && lives(pid.parse().unwrap_or(0))
    };
    eventually("the end of the supervisors at work", Duration::from_secs(60), || {
        let all = names("/proc").into_iter().filter(|pid| pid.parse::<i32>().is_ok());
        let named = |pid: &String| ["glexec-super", "glexec-reaper"].contains(&comm(pid).as_str());
        let at_work = all.filter(|pid| named(pid) && is_ours(pid) && is_alone(pid));
        (at_work.count() == 0).then_some(())
    });
}

/// Kills the supervisors of all sessions, as root, for tests of what happens without one.
///
/// # Panics
/// When a session has none.
pub fn kill_supervisors() {
    for supervisor in sessions().iter().map(|id| supervisor_of(id)) {
        let _ = kill(Pid::from_raw(supervisor), Signal::SIGKILL);
    }
}

/// Names in a directory; none when there is no such directory.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Paths of the cgroup leaves that are left below this machine's own cgroups.
pub fn leaves(m: &Machine) -> Vec<String> {
    let dirs = m.groups().into_iter().map(|(_, dir)| dir);
    let leaves = |dir: PathBuf| {
        let found = names(&dir).into_iter().filter(|name| name.starts_with("glexec-"));
        found.map(|name| dir.join(name).display().to_string()).collect::<Vec<_>>()
    };
    dirs.flat_map(leaves).collect()
}
