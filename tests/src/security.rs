//! What the security tests share: a site with hostile children, and looking at processes.

use harness::Machine;
use std::path::Path;
use std::process::Command;

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

/// Names in a directory; none when there is no such directory.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Paths of the cgroup leaves that are left below this machine's own cgroup.
pub fn leaves(m: &Machine) -> Vec<String> {
    let own = m.command("/bin/cat").arg("/proc/self/cgroup").output().ok();
    let Some(group) = own.lines().find_map(|l| l.strip_prefix("0::")) else { return Vec::new() };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let point = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
    let Some(point) = point.and_then(|l| l.split(' ').nth(1)) else { return Vec::new() };
    let dir = format!("{point}{group}");
    let found = names(&dir).into_iter().filter(|n| n.starts_with("glexec-"));
    found.map(|n| format!("{dir}/{n}")).collect()
}
