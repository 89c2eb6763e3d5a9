//! One cgroup (version 2) per machine, so that all its processes can be found and ended together.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// All cgroups of machines are named like this, followed by the slot's number.
pub(crate) const PREFIX: &str = "pilotage-test-";

/// The leaf of a session is named like this, followed by the session's id.
pub(crate) const LEAF: &str = "glexec-";
/// How deep below a hierarchy's root callers of `glexec` may sit: two levels of the batch system, and ours.
const LEAF_DEPTH: u32 = 5;

/// A machine's cgroup; it is below the cgroup of the test itself.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: PathBuf,
    /// Keeps the way to it open: a test may mount something over the hierarchy.
    parent: fs::File,
}

impl Cgroup {
    /// Makes the cgroup; `None` where there is no writable cgroup version 2 hierarchy.
    /// What a killed test left under the same name is ended first.
    pub(crate) fn make(name: &str) -> Option<Self> {
        let this = Self::named(name)?;
        this.remove();
        fs::create_dir(&this.dir).ok()?;
        Some(this)
    }

    /// Removes the cgroup of this name with all that is inside; false when there was none.
    pub(crate) fn sweep(name: &str) -> bool {
        let left = Self::named(name).filter(|c| c.dir.exists());
        left.inspect(Self::remove).is_some()
    }

    fn named(name: &str) -> Option<Self> {
        let parent = own_directory()?;
        Some(Self { dir: parent.join(name), parent: fs::File::open(parent).ok()? })
    }

    /// A process that writes `0` to this file moves itself into the cgroup.
    pub(crate) fn door(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Ends everything inside and removes the cgroup with all that were made below it.
    pub(crate) fn remove(&self) {
        let name = self.dir.file_name().unwrap_or_default();
        let dir = PathBuf::from(format!("/proc/self/fd/{}", self.parent.as_raw_fd())).join(name);
        if !dir.exists() {
            return;
        }
        // Kernels before 5.14 have no such file; there the search by uid has to do.
        let _ = fs::write(dir.join("cgroup.kill"), "1");
        let end = Instant::now() + Duration::from_secs(5);
        while remove_tree(&dir).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Removes the leaves of these sessions from every hierarchy, version 1 and 2: a `glexec` that was killed could not do it,
/// and it may have been called from outside of the machine's own cgroup.
pub(crate) fn remove_leaves(is_ours: impl Fn(&str) -> bool + Copy) {
    mount_points().iter().for_each(|(_, dir)| remove_leaves_in(dir, LEAF_DEPTH, is_ours));
}

fn remove_leaves_in(dir: &Path, depth: u32, is_ours: impl Fn(&str) -> bool + Copy) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        if name.to_str().and_then(|n| n.strip_prefix(LEAF)).is_some_and(is_ours) {
            // Its processes have been killed; what the kernel still keeps shows up as left behind.
            let _ = remove_tree(&entry.path());
        } else if depth > 1 {
            remove_leaves_in(&entry.path(), depth - 1, is_ours);
        }
    }
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Directory of the calling process's cgroup in the version 2 hierarchy.
fn own_directory() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|l| l.strip_prefix("0::/"))?.to_owned();
    Some(mount_point()?.join(own))
}

/// Where the version 2 hierarchy is mounted.
pub(crate) fn mount_point() -> Option<PathBuf> {
    mount_points().into_iter().find(|(kind, _)| kind == "cgroup2").map(|(_, dir)| dir)
}

/// File system type and mount point of each cgroup hierarchy, both versions.
pub(crate) fn mount_points() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let groups = fields.filter(|f| f.len() > 2 && f[2].starts_with("cgroup"));
    groups.map(|f| (f[2].to_owned(), PathBuf::from(f[1]))).collect()
}
