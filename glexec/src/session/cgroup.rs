//! The session's cgroup leaf: one directory below each of the caller's own groups, so that the batch system still holds
//! the payload.
//!
//! | looking for | see |
//! |---|---|
//! | which hierarchies there are, and where the caller stands in them | [`membership`] |
//! | ending all processes of a leaf | [`kill_method`] |
//! | where the supervisor stands | [`post`] |
//!
//! Version 2 needs no controller: it counts CPU time and kills in one stroke everywhere, also beside version 1 (hybrid
//! hosts). Where it is missing, freezer, cpuacct and memory of version 1 do the same work. On a host without any writable
//! hierarchy only the subreaper finds what the payload started; the record then names no cgroup.

pub(crate) mod kill_method;
pub(crate) mod membership;
mod post;

use crate::run::child_processes;
use crate::session::usage::CpuTime;
use crate::sys::process;
pub(crate) use kill_method::KillMethod;
use membership::{Hierarchy, Membership};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
pub(crate) use post::Post;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Leaves are named by this and the session's id.
const PREFIX: &str = "glexec-";

/// A leaf of a session: its directories, those that can end processes in front. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf(Vec<Group>);

/// The leaf's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    hierarchy: Hierarchy,
    dir: PathBuf,
}

impl Leaf {
    /// Where the leaf of a session would be; `None` where the host has no hierarchy that we could write to.
    /// An error where the host does not even say which there are. `counts_pids` asks for the controller of process numbers.
    pub(crate) fn planned(id: &str, counts_pids: bool) -> io::Result<Option<Self>> {
        let mounts = fs::read("/proc/self/mountinfo")?;
        let own = fs::read("/proc/self/cgroup")?;
        let name = format!("{PREFIX}{id}");
        let mut groups: Vec<Group> = Vec::new();
        for membership in membership::memberships(&mounts, &own) {
            let known = |hierarchy: &Hierarchy| groups.iter().any(|group| group.hierarchy == *hierarchy);
            let wanted = !known(&membership.hierarchy)
                && (membership.is_wanted(known(&Hierarchy::Two))
                    || counts_pids && membership.hierarchy.has("pids"));
            let parent = Group { hierarchy: membership.hierarchy.clone(), dir: membership.dir.clone() };
            if wanted && parent.is_cgroup() && keeps_limits(&membership) {
                groups.push(Group { dir: membership.dir.join(&name), ..parent });
            }
        }
        Ok(Self::of(groups))
    }

    /// Makes it, as far as the host lets us. Its session must be on record before, or nobody would remove it.
    pub(crate) fn make(self) -> Option<Self> {
        let mut made: Vec<Group> = Vec::new();
        for group in self.0 {
            // Another way to end processes is of no use once there is a better one.
            let needless = group.is_in_root_freezer() && made.iter().any(Group::can_freeze_or_kill);
            if !needless && group.make().is_ok() {
                made.push(group);
            }
        }
        Self::of(made)
    }

    fn of(groups: Vec<Group>) -> Option<Self> {
        (!groups.is_empty()).then_some(Self(groups))
    }

    /// As lines of a session's state file.
    pub(crate) fn to_state(leaf: Option<&Self>) -> Vec<u8> {
        let Some(Self(groups)) = leaf else { return b"cgroup=\n".to_vec() };
        let line = |group: &Group| {
            let name = match &group.hierarchy {
                Hierarchy::Two => "cgroup=".to_owned(),
                Hierarchy::One(controllers) => format!("cgroup1={controllers}:"),
            };
            [name.as_bytes(), group.dir.as_os_str().as_bytes(), b"\n"].concat()
        };
        groups.iter().flat_map(line).collect()
    }

    /// The leaf that a state file names; it need not have been made.
    pub(crate) fn from_state(text: &[u8]) -> Option<Self> {
        let dir = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let group = |line: &[u8]| {
            if let Some(two) = line.strip_prefix(b"cgroup=").filter(|dir| !dir.is_empty()) {
                return Some(Group { hierarchy: Hierarchy::Two, dir: dir(two) });
            }
            let line = line.strip_prefix(b"cgroup1=")?;
            let colon = line.windows(2).position(|pair| pair == b":/")?;
            let controllers = std::str::from_utf8(&line[..colon]).ok()?.to_owned();
            Some(Group { hierarchy: Hierarchy::One(controllers), dir: dir(&line[colon + 1..]) })
        };
        Self::of(membership::lines(text).filter_map(group).collect())
    }

    /// The directory by which the session is known: where its processes are ended.
    pub(crate) fn path(&self) -> &Path {
        &self.strongest().dir
    }

    fn strongest(&self) -> &Group {
        // Never empty; see `of`.
        self.0.iter().find(|group| group.dir.is_dir()).unwrap_or(&self.0[0])
    }

    /// A directory of it that is still there.
    pub(crate) fn remains(&self) -> Option<&Path> {
        self.0.iter().map(|group| group.dir.as_path()).find(|dir| dir.exists())
    }

    /// Its directory of version 2.
    pub(crate) fn version_2(&self) -> Option<fs::File> {
        let group = self.0.iter().find(|group| group.hierarchy == Hierarchy::Two)?;
        fs::File::open(&group.dir).ok()
    }

    /// The way in, for a process that stands outside of all of it.
    pub(crate) fn door(&self) -> Door<'_> {
        Door(&self.0)
    }

    /// Forks a child inside its version 2 directory; the child enters the others. `None` where the kernel cannot.
    fn fork(&self) -> Option<(process::Fork, Door<'_>)> {
        let (group, others) = self.0.split_first().filter(|(group, _)| group.hierarchy == Hierarchy::Two)?;
        let directory = fs::File::open(&group.dir).ok()?;
        Some((process::fork_into(directory.as_fd()).ok()?, Door(others)))
    }

    /// How many processes of the payload are in it: those of root are ours.
    pub(crate) fn population(&self) -> usize {
        self.members().len()
    }

    /// The processes of the payload that are in it; those of root are ours.
    pub(crate) fn members(&self) -> Vec<i32> {
        let mut pids = self.strongest().pids();
        pids.retain(|pid| child_processes::real_uid_of(*pid) != Some(0));
        pids
    }

    /// Lets the kernel hold a limit of memory, bytes; `false` where no controller is at hand.
    pub(crate) fn limit_memory(&self, bytes: u64) -> bool {
        let file = |group: &Group| match group.hierarchy {
            Hierarchy::Two => "memory.max",
            Hierarchy::One(_) => "memory.limit_in_bytes",
        };
        let held = self.0.iter().any(|group| group.write_existing(file(group), &bytes.to_string()).is_ok());
        // Swapped out is used as well. Kernels that do not count it have no such file.
        for group in self.0.iter().filter(|_| held) {
            let _ = group.write_existing("memory.swap.max", "0");
            let _ = group.write_existing("memory.memsw.limit_in_bytes", &bytes.to_string());
        }
        held
    }

    /// Lets the kernel hold a number of processes and threads; `false` where no controller is at hand.
    pub(crate) fn limit_pids(&self, number: u64) -> bool {
        self.0.iter().any(|group| group.write_existing("pids.max", &number.to_string()).is_ok())
    }

    /// CPU time since it was made.
    pub(crate) fn cpu_time(&self) -> Option<CpuTime> {
        self.0.iter().find_map(Group::cpu_time)
    }

    /// Where it counts CPU time, in the record's words.
    pub(crate) fn cpu_source(&self) -> Option<&'static str> {
        self.0.iter().find_map(Group::cpu_source)
    }

    /// Most memory at a time, page cache included, in bytes, where a memory controller is at hand.
    pub(crate) fn memory_peak(&self) -> Option<u64> {
        self.0.iter().find_map(Group::memory_peak)
    }

    /// A file of version 2, or of the version 1 hierarchy that has a controller.
    pub(crate) fn counter(&self, file: &str, controller: Option<&str>) -> Option<Vec<u8>> {
        let meant = |group: &&Group| match controller {
            None => group.hierarchy == Hierarchy::Two,
            Some(controller) => group.hierarchy.has(controller),
        };
        self.0.iter().filter(meant).find_map(|group| fs::read(group.dir.join(file)).ok())
    }

    /// Removes it; works only once it is empty.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // All are tried, and the first failure is told.
        self.0.iter().map(Group::remove).fold(Ok(()), io::Result::and)
    }
}

/// The directories of a leaf that a process must still move into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door<'a>(&'a [Group]);

impl Door<'_> {
    /// Without a leaf there is nothing to enter.
    pub(crate) fn none() -> Self {
        Self(&[])
    }

    /// Moves the calling process in; its children follow. Must be the process's only thread.
    pub(crate) fn enter(self) -> io::Result<()> {
        let named =
            |group: &Group, e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", group.dir.display()));
        self.0.iter().try_for_each(|group| group.enter().map_err(|e| named(group, e)))
    }
}

/// Forks a child into a leaf as far as the kernel can; the child walks the rest of the way through the door.
pub(crate) fn fork_in(leaf: Option<&Leaf>) -> nix::Result<(process::Fork, Door<'_>)> {
    match leaf.and_then(Leaf::fork) {
        Some(forked) => Ok(forked),
        None => Ok((process::fork()?, leaf.map_or(Door::none(), Leaf::door))),
    }
}

impl Group {
    fn make(&self) -> io::Result<()> {
        fs::create_dir(&self.dir)?;
        let prepared = self.prepare();
        if prepared.is_err() {
            let _ = fs::remove_dir(&self.dir);
        }
        prepared
    }

    /// A cpuset takes nobody in before it has processors and memory (cpuset(7)).
    fn prepare(&self) -> io::Result<()> {
        let parent = self.dir.parent().filter(|_| self.hierarchy.has("cpuset"));
        let Some(parent) = parent else { return Ok(()) };
        ["cpuset.cpus", "cpuset.mems"]
            .into_iter()
            .try_for_each(|file| fs::write(self.dir.join(file), fs::read(parent.join(file))?))
    }

    /// Whether the kernel's hierarchy is what is seen there: another file system may have been mounted over it.
    fn is_cgroup(&self) -> bool {
        let two = self.hierarchy == Hierarchy::Two;
        let expected = if two { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
        statfs(&self.dir).is_ok_and(|found| found.filesystem_type() == expected)
    }

    /// Whether it hangs on the root of a freezer hierarchy, the only group there that cannot be frozen.
    fn is_in_root_freezer(&self) -> bool {
        let frozen_with = |parent: &Path| parent.join("freezer.state").exists();
        self.hierarchy.has("freezer") && !self.dir.parent().is_some_and(frozen_with)
    }

    /// In version 1 through `tasks`: a single thread that moves itself needs none of the locks that stop every fork and exit on
    /// the host, and for whose grace period `cgroup.procs` waits 5 to 10 ms each time.
    fn enter(&self) -> io::Result<()> {
        let door = if self.hierarchy == Hierarchy::Two { "cgroup.procs" } else { "tasks" };
        fs::write(self.dir.join(door), "0")
    }

    fn pids(&self) -> Vec<i32> {
        // Numbers only: the kernel's own text, in which nobody has a word.
        let text = self.read("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn cpu_source(&self) -> Option<&'static str> {
        let version_1 = || self.hierarchy.has("cpuacct").then_some("cgroup-v1");
        if self.hierarchy == Hierarchy::Two { Some("cgroup-v2") } else { version_1() }
    }

    fn cpu_time(&self) -> Option<CpuTime> {
        let source = self.cpu_source()?;
        if self.hierarchy == Hierarchy::Two {
            let stat = self.read("cpu.stat")?;
            let value = |key: &str| stat.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok());
            return Some(CpuTime {
                user_us: value("user_usec ")?,
                system_us: value("system_usec ")?,
                source,
            });
        }
        let ns = |file| self.read(file)?.trim().parse::<u64>().ok();
        let (user, system) = (ns("cpuacct.usage_user")?, ns("cpuacct.usage_sys")?);
        Some(CpuTime { user_us: user / 1000, system_us: system / 1000, source })
    }

    fn memory_peak(&self) -> Option<u64> {
        let file = if self.hierarchy == Hierarchy::Two { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let counts = self.hierarchy == Hierarchy::Two || self.hierarchy.has("memory");
        counts.then(|| self.read(file)?.trim().parse().ok())?
    }

    fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for _ in 0..50 {
            result = fs::remove_dir(&self.dir);
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

    fn write_existing(&self, file: &str, text: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(self.dir.join(file))?;
        io::Write::write_all(&mut file, text.as_bytes())
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(file)).ok()
    }
}

/// Whether the group's limits hold for groups below it. In version 1 two do not: throttling of disks, and memory where the
/// host says so. There the payload is better off in the caller's own group.
fn keeps_limits(membership: &Membership) -> bool {
    let read = |file: &str| fs::read_to_string(membership.dir.join(file)).unwrap_or_default();
    let loose = |controller: &str| !membership.is_root && membership.hierarchy.has(controller);
    let throttles = || {
        let kinds = ["read_bps", "write_bps", "read_iops", "write_iops"];
        kinds.iter().any(|kind| !read(&format!("blkio.throttle.{kind}_device")).is_empty())
    };
    !(loose("memory") && read("memory.use_hierarchy").trim() == "0" || loose("blkio") && throttles())
}

/// Whether `/proc/<pid>/cgroup` shows a membership inside the leaf of some session, in any hierarchy.
pub(crate) fn is_in_leaf(proc_cgroup: &[u8]) -> bool {
    leaf_id(proc_cgroup).is_some()
}

/// The session whose leaf `/proc/<pid>/cgroup` shows.
pub(crate) fn leaf_id(proc_cgroup: &[u8]) -> Option<&str> {
    let mut parts = proc_cgroup.split(|byte| *byte == b'\n' || *byte == b'/');
    let id = parts.find_map(|part| part.strip_prefix(PREFIX.as_bytes()).filter(|id| id.len() == 36))?;
    std::str::from_utf8(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_recognised_at_any_depth_in_any_hierarchy() {
        let id = "01890000-0000-7000-8000-000000000000";
        assert!(is_in_leaf(format!("0::/slurm/job_1/glexec-{id}\n").as_bytes()));
        assert!(is_in_leaf(format!("4:memory:/x\n0::/glexec-{id}/sub\n").as_bytes()));
        assert!(is_in_leaf(format!("4:cpu,cpuacct:/x/glexec-{id}\n0::/\n").as_bytes()));
        assert!(!is_in_leaf(b"0::/user/glexec-tests\n"));
    }

    #[test]
    fn a_leaf_survives_the_state_file() {
        let text = "cgroup=/sys/fs/cgroup/unified/glexec-x\ncgroup1=freezer:/sys/fs/cgroup/freezer/glexec-x\n\
                    cgroup1=name=systemd:/sys/fs/cgroup/systemd/a:b/glexec-x\n";
        let leaf = Leaf::from_state(text.as_bytes());
        assert_eq!(leaf.as_ref().map(|leaf| leaf.0.len()), Some(3));
        assert_eq!(Leaf::to_state(leaf.as_ref()), text.as_bytes());
        assert_eq!(Leaf::from_state(b"cgroup=\n"), None);
        assert_eq!(Leaf::to_state(None), b"cgroup=\n");
    }
}
