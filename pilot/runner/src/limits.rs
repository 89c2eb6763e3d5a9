//! What a payload may use, and what it uses: memory and disk are looked at while it runs, and it is warned before its time is
//! over.
//!
//! Where the session has a cgroup of its own, the kernel ends a payload that is faster than the looks; its word that memory ran
//! out is taken for the same verdict.

use crate::tree;
use pilot_wire::api::{LimitKind, LimitReached, PayloadSpec, WarnSignal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
/// How often the disk is, at most; and how many times as long as a look took the pause after it is at least.
const DISK_INTERVAL: (Duration, u32) = (Duration::from_secs(2), 20);

/// When a payload's time is over: the end of its walltime, or of the batch slot if that comes first.
#[derive(Debug, Clone, Copy)]
pub struct End {
    now: (Instant, u64),
    at: Option<u64>,
}

impl End {
    /// For a payload that starts now.
    pub fn of(spec: &PayloadSpec, slot_end: Option<u64>) -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self::since((Instant::now(), epoch), spec.walltime, slot_end)
    }

    fn since(now: (Instant, u64), walltime: Option<u64>, slot_end: Option<u64>) -> Self {
        let walltime = walltime.map(|limit| now.1.saturating_add(limit));
        Self { now, at: walltime.into_iter().chain(slot_end).min() }
    }

    /// Seconds since the epoch.
    pub fn epoch(self) -> Option<u64> {
        self.at
    }

    /// When the payload wants its warning; at once where less time is left than it wants.
    pub fn warning(self, spec: &PayloadSpec) -> Option<Instant> {
        let left = self.at?.saturating_sub(self.now.1);
        self.now.0.checked_add(Duration::from_secs(left.saturating_sub(spec.warn?)))
    }
}

/// The number of the signal.
pub fn number(signal: WarnSignal) -> i32 {
    match signal {
        WarnSignal::Usr1 => libc::SIGUSR1,
        WarnSignal::Usr2 => libc::SIGUSR2,
        WarnSignal::Int => libc::SIGINT,
        WarnSignal::Hup => libc::SIGHUP,
        WarnSignal::Term => libc::SIGTERM,
    }
}

/// One limit and the most that was seen.
#[derive(Debug)]
struct Limit {
    allowed: u64,
    most: u64,
    look: Instant,
}

impl Limit {
    fn new(allowed: u64) -> Self {
        Self { allowed, most: 0, look: Instant::now() }
    }

    /// Whether too much is used; `pause` until the next look.
    fn see(&mut self, used: u64, now: Instant, pause: Duration) -> bool {
        self.most = self.most.max(used);
        self.look = now + pause;
        used > self.allowed
    }
}

/// What is watched of a payload.
#[derive(Debug)]
pub struct Watched {
    memory: Option<Limit>,
    disk: Option<Limit>,
    workdir: PathBuf,
    /// How often memory had run out in this cgroup before.
    ran_out: u64,
}

impl Watched {
    /// A payload that starts now.
    pub fn new(spec: &PayloadSpec, workdir: &Path) -> Self {
        Self {
            memory: spec.memory.map(Limit::new),
            disk: spec.disk.map(Limit::new),
            workdir: workdir.to_owned(),
            ran_out: spec.memory.map_or(0, |_| out_of_memory()),
        }
    }

    /// When to look next.
    pub fn next(&self) -> Option<Instant> {
        self.memory.iter().chain(&self.disk).map(|limit| limit.look).min()
    }

    /// Looks at what is due; the limit that is exceeded, if one is.
    pub fn look(&mut self, now: Instant) -> Option<LimitKind> {
        if let Some(memory) = self.memory.as_mut().filter(|m| m.look <= now)
            && memory.see(tree::memory(), now, MEMORY_INTERVAL)
        {
            return Some(LimitKind::Memory);
        }
        if let Some(disk) = self.disk.as_mut().filter(|d| d.look <= now) {
            let used = used_below(&self.workdir);
            let pause = DISK_INTERVAL.0.max(now.elapsed().saturating_mul(DISK_INTERVAL.1));
            return disk.see(used, now, pause).then_some(LimitKind::Disk);
        }
        None
    }

    /// Whether the kernel ended a process of a payload with a limit for lack of memory.
    pub fn ran_out(&self) -> bool {
        self.memory.is_some() && out_of_memory() > self.ran_out
    }

    /// The verdict. What the kernel ended used all that there was, whatever the last look had seen.
    pub fn reached(&self, kind: LimitKind) -> Option<LimitReached> {
        let limit = if kind == LimitKind::Disk { &self.disk } else { &self.memory };
        let Limit { allowed, most, .. } = *limit.as_ref()?;
        Some(LimitReached { kind, allowed, used: most.max(allowed) })
    }
}

/// Bytes that the files below a directory occupy on its file system. Links are not followed; what vanishes meanwhile counts
/// nothing.
fn used_below(root: &Path) -> u64 {
    let Ok(top) = std::fs::symlink_metadata(root) else { return 0 };
    let (mut used, mut open) = (0u64, vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            used = used.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() && meta.dev() == top.dev() {
                open.push(entry.path());
            }
        }
    }
    used
}

/// How often the kernel has killed for lack of memory in the cgroup that this process is in (cgroups(7); version 1 says it in
/// `memory.oom_control`).
fn out_of_memory() -> u64 {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let counts = own.lines().filter_map(|line| {
        let (place, file) = event_file(line)?;
        place.iter().find_map(|root| oom_kills(&std::fs::read_to_string(format!("{root}{file}")).ok()?))
    });
    counts.max().unwrap_or(0)
}

/// Where a line of `/proc/PID/cgroup` leads: possible mount points, and the file below them.
fn event_file(line: &str) -> Option<(&'static [&'static str], String)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = if path == "/" { "" } else { path };
    if controllers.is_empty() {
        return Some((&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], format!("{path}/memory.events")));
    }
    let memory = controllers.split(',').any(|name| name == "memory");
    memory.then(|| (&["/sys/fs/cgroup/memory"][..], format!("{path}/memory.oom_control")))
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> PayloadSpec {
        PayloadSpec::parse(serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn the_end_is_the_first_of_walltime_and_slot_and_the_warning_comes_before_it() {
        let now = (Instant::now(), 1000);
        let warned = spec(r#"{"command":["x"],"walltime":600,"warn":60}"#);
        let at = |slot| {
            let end = End::since(now, Some(600), slot);
            (end.epoch(), end.warning(&warned).map(|at| at.duration_since(now.0).as_secs()))
        };
        assert_eq!(at(None), (Some(1600), Some(540)));
        assert_eq!(at(Some(1300)), (Some(1300), Some(240)));
        assert_eq!(at(Some(1010)), (Some(1010), Some(0)), "less than that is left");
        let unlimited = End::since(now, None, None);
        assert_eq!((unlimited.epoch(), unlimited.warning(&warned)), (None, None));
    }

    #[test]
    fn what_lies_in_the_working_directory_is_counted_and_what_it_points_to_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("file"), vec![1; 3 << 20]).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        let used = used_below(dir.path());
        assert!((3 << 20..4 << 20).contains(&used), "{used}");
        let mut watched = Watched::new(&spec(r#"{"command":["x"],"disk":1048576}"#), dir.path());
        assert_eq!(watched.look(Instant::now() + Duration::from_secs(3)), Some(LimitKind::Disk));
        let reached = watched.reached(LimitKind::Disk).unwrap();
        assert_eq!((reached.allowed, reached.used), (1 << 20, used));
    }

    #[test]
    fn the_kernels_count_is_found_in_both_versions() {
        assert_eq!(event_file("0::/job/leaf").unwrap().1, "/job/leaf/memory.events");
        assert_eq!(event_file("0::/").unwrap().1, "/memory.events");
        assert_eq!(event_file("7:cpu,memory:/job").unwrap().1, "/job/memory.oom_control");
        assert!(event_file("3:cpuset:/job").is_none() && event_file("nonsense").is_none());
        assert_eq!(oom_kills("low 0\noom 2\noom_kill 1\n"), Some(1));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
