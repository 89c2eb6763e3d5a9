//! What this worker node is and whether payloads can be started on it.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Facts about the node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub host: String,
    /// Cores that this process may use.
    pub cores: u32,
    /// Memory that this process may use, in bytes.
    pub memory: Option<u64>,
    /// The account of the pilot.
    pub account: Account,
}

/// The account that the pilot runs under.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its home directory.
    pub home: String,
}

impl Node {
    /// Looks around.
    pub fn inspect() -> Result<Self> {
        let host =
            nix::unistd::gethostname().context("cannot read the host's name")?.to_string_lossy().into_owned();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid).context("cannot read the user database")?;
        let account = user.map_or_else(
            || Account { name: uid.to_string(), home: "/".to_owned() },
            |u| Account { name: u.name, home: u.dir.display().to_string() },
        );
        Ok(Self { host, cores: u32::try_from(cores).unwrap_or(u32::MAX), memory: memory(), account })
    }
}

/// The smaller of the node's memory and the limit of the batch job's cgroup.
fn memory() -> Option<u64> {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
    let limit = own_cgroup().and_then(|path| {
        let limits = path.ancestors().filter_map(|dir| std::fs::read_to_string(dir.join("memory.max")).ok());
        limits.filter_map(|text| text.trim().parse::<u64>().ok()).min()
    });
    total.into_iter().chain(limit).min()
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The directory of the own cgroup on the unified hierarchy (cgroups(7)).
fn own_cgroup() -> Option<std::path::PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(path))
}

/// Asks `glexec` for its version, as a first sign that it can be started at all.
pub fn check_glexec(glexec: &Path) -> Result<String> {
    let name = glexec.display();
    if !glexec.is_absolute() {
        bail!("--glexec {name}: give an absolute path");
    }
    let answer = Command::new(glexec).arg("-v").env_clear().output();
    let answer = answer.with_context(|| {
        format!("cannot start {name}; install it, name it with --glexec, or use --no-switch")
    })?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let version = text.lines().next().unwrap_or_default().trim().to_owned();
    if !answer.status.success() || version.is_empty() {
        bail!(
            "{name} -v fails ({}): {}; reinstall it",
            answer.status,
            String::from_utf8_lossy(&answer.stderr).trim()
        );
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(total_memory("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert_eq!(total_memory("MemTotal: much\n"), None);
    }

    #[test]
    fn a_missing_or_failing_glexec_is_named() {
        for bad in ["glexec", "/nowhere/glexec", "/bin/false"] {
            let error = check_glexec(Path::new(bad)).expect_err("accepted");
            assert!(format!("{error:#}").contains(bad), "{error:#}");
        }
    }
}
