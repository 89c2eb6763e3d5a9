//! What this worker node is and whether payloads can be started on it.

use super::batch::{Allocation, ThisJob};
use anyhow::{Context, Result, bail};
use dns_lookup::AddrInfoHints;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

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
    /// The host's full name, when it has one.
    pub canonical: Option<String>,
    /// Time left in the batch slot, when the batch system tells.
    pub time_left: Option<Duration>,
    /// The batch job, where `glexec` cannot know it from variables.
    pub batch_job: Option<String>,
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
    /// Looks around. The batch system's own clients are only asked for the time where nobody has told it.
    pub fn inspect(ask_for_time: bool) -> Result<Self> {
        let host =
            nix::unistd::gethostname().context("cannot read the host's name")?.to_string_lossy().into_owned();
        let given = Allocation::find(&ThisJob { ask: ask_for_time });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = u32::try_from(cores).unwrap_or(u32::MAX).min(given.cores.unwrap_or(u32::MAX));
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid).context("cannot read the user database")?;
        let account = user.map_or_else(
            || Account { name: uid.to_string(), home: "/".to_owned() },
            |u| Account { name: u.name, home: u.dir.display().to_string() },
        );
        Ok(Self {
            canonical: canonical(&host),
            host,
            cores,
            memory: memory().into_iter().chain(given.memory).min(),
            account,
            time_left: given.time_left,
            batch_job: given.job,
        })
    }
}

/// The name that the host's resolver gives first (getaddrinfo(3), `AI_CANONNAME`).
fn canonical(host: &str) -> Option<String> {
    let hints =
        AddrInfoHints { flags: libc::AI_CANONNAME, socktype: libc::SOCK_STREAM, ..AddrInfoHints::default() };
    dns_lookup::getaddrinfo(Some(host), None, Some(hints)).ok()?.flatten().find_map(|found| found.canonname)
}

/// What callers outside should dial for a payload of this node: the site's word, else the host's full name.
///
/// # Errors
/// When there is only a name that means every host itself.
pub fn dial_name(policy: Option<&str>, canonical: Option<&str>, host: &str) -> Result<String> {
    let own = |name: &&str| {
        let name = name.trim_end_matches('.');
        name.is_empty()
            || name.split('.').any(|label| label.eq_ignore_ascii_case("localhost"))
            || name.starts_with("ip6-")
    };
    if let Some(name) = policy.filter(|name| !name.is_empty()) {
        anyhow::ensure!(
            !own(&name),
            "[ports] hostname = {name:?} in policy.toml is every host itself; write the name that callers outside dial"
        );
        return Ok(name.to_owned());
    }
    let known = [canonical, Some(host)].into_iter().flatten().find(|name| !own(name));
    let known = known.with_context(|| {
        format!(
            "payloads with ports would be told to be dialled as {:?}, which is every host itself; \
             set [ports] hostname in policy.toml, or give this host a name",
            canonical.unwrap_or(host)
        )
    })?;
    Ok(known.to_owned())
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
    fn callers_are_never_told_to_dial_localhost() {
        let name = |policy, canonical, host| dial_name(policy, canonical, host).ok();
        assert_eq!(name(Some("nat.example.org"), None, "localhost").as_deref(), Some("nat.example.org"));
        assert_eq!(name(None, Some("wn1.example.org"), "wn1").as_deref(), Some("wn1.example.org"));
        assert_eq!(name(Some(""), Some("localhost.localdomain"), "wn1").as_deref(), Some("wn1"));
        for host in ["localhost", "localhost.localdomain", "LOCALHOST", ""] {
            assert_eq!(host.is_empty(), name(Some(host), None, "wn1").is_some(), "{host}");
            let error = dial_name(None, Some(host), host).unwrap_err().to_string();
            assert!(error.contains("[ports] hostname"), "{error}");
        }
    }

    #[test]
    fn a_missing_or_failing_glexec_is_named() {
        for bad in ["glexec", "/nowhere/glexec", "/bin/false"] {
            let error = check_glexec(Path::new(bad)).expect_err("accepted");
            assert!(format!("{error:#}").contains(bad), "{error:#}");
        }
    }
}
