//! The session's cgroup leaf: made below the caller's own group, so that the batch system still holds the payload.
//!
//! Works on the v2 hierarchy, also beside v1 ones (hybrid hosts), without any controller: cgroup v2 counts CPU time and
//! kills in one stroke everywhere. Hosts without a writable one get along with the subreaper alone, and the record says so.

use crate::sys::process;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Leaves are named by this and the session's id.
const PREFIX: &str = "glexec-";
/// How long the kernel may take to end every process of a leaf.
const PATIENCE: Duration = Duration::from_secs(10);

/// A leaf of this session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf(PathBuf);

/// What a leaf has counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    /// CPU time in user mode.
    pub(crate) user_us: u64,
    /// CPU time in the kernel.
    pub(crate) system_us: u64,
    /// Most memory at a time, page cache included, where the memory controller is at hand.
    pub(crate) memory_peak: Option<u64>,
}

impl Leaf {
    /// Where the leaf of a session would be, below the caller's group; `None` where the host has no v2 hierarchy.
    pub(crate) fn planned(id: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        Some(Self(own_group(&mounts, &own)?.join(format!("{PREFIX}{id}"))))
    }

    /// Makes it; `None` where the host does not let us. Its session must be on record before, or nobody would remove it.
    pub(crate) fn make(self) -> Option<Self> {
        fs::create_dir(&self.0).is_ok().then_some(self)
    }

    /// The leaf that a state file names.
    pub(crate) fn existing(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Moves the calling process in; its children follow.
    pub(crate) fn enter(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0")
    }

    /// Forks a child inside it; `None` where the kernel cannot, and the child must [`Leaf::enter`] by itself.
    pub(crate) fn fork(&self) -> Option<process::Fork> {
        let directory = fs::File::open(&self.0).ok()?;
        process::fork_into(directory.as_fd()).ok()
    }

    /// How many processes are in it.
    pub(crate) fn population(&self) -> usize {
        fs::read_to_string(self.0.join("cgroup.procs")).map_or(0, |text| text.lines().count())
    }

    /// Ends every process in it and waits until none is left. `false` when some would not go in time.
    pub(crate) fn kill_all(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.is_populated() {
            if fs::write(self.0.join("cgroup.kill"), "1").is_err() {
                self.kill_each();
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// As [`Leaf::kill_all`] without waiting; a caller who is in it gets out first, to tell the tale.
    pub(crate) fn kill_all_but_self(&self) {
        let out = self.0.parent().map(|group| fs::write(group.join("cgroup.procs"), "0"));
        if matches!(out, Some(Ok(()))) && fs::write(self.0.join("cgroup.kill"), "1").is_err() {
            self.kill_each();
        }
    }

    /// For kernels before 5.14, which lack cgroup.kill. Who forks faster than this runs into the deadline.
    fn kill_each(&self) {
        let pids = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn is_populated(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|l| l == "populated 1"))
    }

    /// What it has counted since it was made.
    pub(crate) fn counted(&self) -> Option<Counted> {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).ok()?;
        let value = |key: &str| stat.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok());
        let peak = fs::read_to_string(self.0.join("memory.peak")).ok();
        Some(Counted {
            user_us: value("user_usec ")?,
            system_us: value("system_usec ")?,
            memory_peak: peak.and_then(|text| text.trim().parse().ok()),
        })
    }

    /// Removes it; works only once it is empty.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for _ in 0..50 {
            result = fs::remove_dir(&self.0);
            match &result {
                // The last process may still be on its way out.
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                _ => return result,
            }
        }
        result
    }
}

/// Whether `/proc/<pid>/cgroup` shows a place inside the leaf of some session.
pub(crate) fn is_in_leaf(proc_cgroup: &str) -> bool {
    leaf_id(proc_cgroup).is_some()
}

/// The session whose leaf `/proc/<pid>/cgroup` shows.
pub(crate) fn leaf_id(proc_cgroup: &str) -> Option<&str> {
    let mut parts = proc_cgroup.lines().flat_map(|line| line.split('/'));
    parts.find_map(|part| part.strip_prefix(PREFIX).filter(|id| id.len() == 36))
}

/// The directory of the caller's own v2 group, from the texts of `mountinfo` and `cgroup` in `/proc/self`.
fn own_group(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if !kind.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = if root == "/" { group } else { group.strip_prefix(root)? };
        Some(Path::new(point).join(below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 29 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                          39 29 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_on_a_hybrid_host() {
        let own = "4:memory:/x\n0::/slurm/job_1\n";
        assert_eq!(own_group(HYBRID, own), Some("/sys/fs/cgroup/unified/slurm/job_1".into()));
        assert_eq!(own_group(HYBRID, "4:memory:/x\n"), None);
        assert_eq!(own_group("", own), None);
    }

    #[test]
    fn a_container_s_partial_mount_is_respected() {
        let mounts = "39 29 0:35 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(own_group(mounts, "0::/docker/abc/job\n"), Some("/sys/fs/cgroup/job".into()));
        assert_eq!(own_group(mounts, "0::/elsewhere\n"), None);
    }

    #[test]
    fn leaves_are_recognised_at_any_depth() {
        let id = "01890000-0000-7000-8000-000000000000";
        assert!(is_in_leaf(&format!("0::/slurm/job_1/glexec-{id}\n")));
        assert!(is_in_leaf(&format!("4:memory:/x\n0::/glexec-{id}/sub\n")));
        assert!(!is_in_leaf("0::/user/glexec-tests\n"));
    }
}
