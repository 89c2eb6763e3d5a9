//! One cgroup per machine, so that all its processes can be found and ended together.

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

/// A machine's cgroup: a directory below the test's own group of version 2, and one below that of version 1's memory
/// controller, so that whatever programs make below their own groups can be told from what other machines make.
/// With `everywhere` there is one in each hierarchy, as batch systems have them.
#[derive(Debug)]
pub(crate) struct Cgroup(Vec<Group>);

#[derive(Debug)]
struct Group {
    /// Controllers of a version 1 hierarchy; empty for version 2.
    controllers: String,
    dir: PathBuf,
    /// Keeps the way to it open: a test may mount something over the hierarchy.
    parent: fs::File,
}

impl Cgroup {
    /// Makes the cgroup; `None` where there is no writable cgroup version 2 hierarchy.
    /// What a killed test left under the same name is ended first.
    pub(crate) fn make(name: &str, everywhere: bool) -> Option<Self> {
        Self::sweep(name);
        let mut this = Self::named(name);
        this.0.retain(|group| everywhere || ["", "memory"].contains(&group.controllers.as_str()));
        this.0.retain(|group| group.make().is_ok());
        this.0.iter().any(|group| group.controllers.is_empty()).then_some(this)
    }

    /// Removes all cgroups of this name with all that is inside; false when there was none. Who left them may have had
    /// other groups than we have.
    pub(crate) fn sweep(name: &str) -> bool {
        let mut left = Vec::new();
        mount_points().iter().for_each(|(_, dir)| find(dir, LEAF_DEPTH, |found| found == name, &mut left));
        left.iter().for_each(|dir| drop(fs::write(dir.join("cgroup.kill"), "1")));
        left.iter().for_each(|dir| remove_in_time(dir));
        !left.is_empty()
    }

    fn named(name: &str) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?.to_owned(), fields.next()?.trim_start_matches('/'));
            let parent = hierarchy(&controllers)?.join(path);
            Some(Group { controllers, dir: parent.join(name), parent: fs::File::open(parent).ok()? })
        };
        Self(own.lines().filter_map(group).collect())
    }

    /// A process that writes `0` to these files moves itself into the cgroup.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        // One thread that moves itself through the latter does not stop all others for that.
        let file = |group: &Group| if group.controllers.is_empty() { "cgroup.procs" } else { "tasks" };
        self.0.iter().map(|group| group.dir.join(file(group))).collect()
    }

    /// Controllers and directory in each hierarchy, as [`crate::Machine::groups`] tells them.
    pub(crate) fn groups(&self) -> Vec<(String, PathBuf)> {
        self.0.iter().map(|group| (group.controllers.clone(), group.dir.clone())).collect()
    }

    /// Ends everything inside, without waiting. Kernels before 5.14 have no such file; there the search by uid has to do.
    pub(crate) fn kill(&self) {
        self.0.iter().for_each(|group| drop(fs::write(group.way().join("cgroup.kill"), "1")));
    }

    /// Ends everything inside and removes the cgroup with all that were made below it.
    pub(crate) fn remove(&self) {
        self.kill();
        self.0.iter().for_each(Group::remove);
    }
}

impl Group {
    fn make(&self) -> std::io::Result<()> {
        fs::create_dir(&self.dir)?;
        let parent = self.dir.parent().filter(|_| self.controllers.split(',').any(|c| c == "cpuset"));
        let Some(parent) = parent else { return Ok(()) };
        ["cpuset.cpus", "cpuset.mems"]
            .into_iter()
            .try_for_each(|file| fs::write(self.dir.join(file), fs::read(parent.join(file))?))
    }

    fn way(&self) -> PathBuf {
        let name = self.dir.file_name().unwrap_or_default();
        PathBuf::from(format!("/proc/self/fd/{}", self.parent.as_raw_fd())).join(name)
    }

    fn remove(&self) {
        let dir = self.way();
        if !dir.exists() {
            return;
        }
        remove_in_time(&dir);
    }
}

/// Removes the leaves of these sessions from every hierarchy, version 1 and 2: a `glexec` that was killed could not do it,
/// and it may have been called from outside of the machine's own cgroup.
pub(crate) fn remove_leaves(is_ours: impl Fn(&str) -> bool + Copy) {
    let is_leaf = |name: &str| name.strip_prefix(LEAF).is_some_and(is_ours);
    let mut leaves = Vec::new();
    mount_points().iter().for_each(|(_, dir)| find(dir, LEAF_DEPTH, is_leaf, &mut leaves));
    // Their processes have been killed; what the kernel still keeps shows up as left behind.
    leaves.iter().for_each(|dir| drop(remove_tree(dir)));
}

/// Collects the directories whose name is wanted, down to a depth.
fn find(dir: &Path, depth: u32, wanted: impl Fn(&str) -> bool + Copy, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if entry.file_name().to_str().is_some_and(wanted) {
            found.push(entry.path());
        } else if depth > 1 {
            find(&entry.path(), depth - 1, wanted, found);
        }
    }
}

fn remove_in_time(dir: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    while remove_tree(dir).is_err() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
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

/// Where the hierarchy of these controllers is mounted.
fn hierarchy(controllers: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).filter(|f| f.len() > 3);
    let has = |options: &str| controllers.split(',').all(|c| options.split(',').any(|option| option == c));
    let wanted = |f: &Vec<&str>| {
        if controllers.is_empty() { f[2] == "cgroup2" } else { f[2] == "cgroup" && has(f[3]) }
    };
    fields.find(wanted).map(|f| PathBuf::from(f[1]))
}

/// File system type and mount point of each cgroup hierarchy, both versions.
pub(crate) fn mount_points() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let groups = fields.filter(|f| f.len() > 2 && f[2].starts_with("cgroup"));
    groups.map(|f| (f[2].to_owned(), PathBuf::from(f[1]))).collect()
}
