//! What a session used, by the best counters that the host offers: the leaf's own, else those of the processes waited for.

use crate::session::cgroup::Leaf;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use record::{Usage, counters};

/// CPU time of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// In user mode.
    pub(crate) user_us: u64,
    /// In the kernel.
    pub(crate) system_us: u64,
    /// Where it comes from, in the record's words.
    pub(crate) source: &'static str,
}

/// What the kernel says of all children that were waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waited {
    user_us: u64,
    system_us: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Waited {
    /// Up to now.
    pub(crate) fn now() -> Self {
        let Ok(all) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Self::default() };
        let micros = |time: nix::sys::time::TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
        // Counted in sectors, whatever the disk's blocks are: getrusage(2).
        let bytes = |sectors: i64| u64::try_from(sectors).unwrap_or(0).saturating_mul(512);
        Self {
            user_us: micros(all.user_time()),
            system_us: micros(all.system_time()),
            read_bytes: bytes(all.block_reads()),
            written_bytes: bytes(all.block_writes()),
        }
    }

    /// With what others used, who are not waited for yet.
    pub(crate) fn and(self, (user_us, system_us): (u64, u64)) -> Self {
        let add = u64::saturating_add;
        Self { user_us: add(self.user_us, user_us), system_us: add(self.system_us, system_us), ..self }
    }

    /// Since an earlier moment.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(before.user_us),
            system_us: self.system_us.saturating_sub(before.system_us),
            read_bytes: self.read_bytes.saturating_sub(before.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// User and system time of a process that runs, and of those that it waited for, in microseconds. Below it others may run
/// who are not seen: a cgroup is better, where there is one.
pub(crate) fn living(pid: Pid) -> (u64, u64) {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    times_of_stat(&stat).map_or((0, 0), |[user, system]| (user, system))
}

/// Times of `/proc/<pid>/stat`. The name in it is the process's own choice: only what stands behind its last bracket counts.
fn times_of_stat(stat: &[u8]) -> Option<[u64; 2]> {
    /// `USER_HZ` of every architecture that Linux has today, proc(5).
    const US_PER_TICK: u64 = 10_000;
    let behind = stat.iter().rposition(|b| *b == b')')? + 1;
    let mut words = stat[behind..].split(|b| *b == b' ').filter(|word| !word.is_empty());
    // The state is the third field; utime, stime, cutime and cstime are the 14th to 17th.
    words.nth(10)?;
    let mut ticks = || words.next().and_then(counters::number);
    let (user, system, waited_user, waited_system) = (ticks()?, ticks()?, ticks()?, ticks()?);
    Some([user + waited_user, system + waited_system].map(|ticks| ticks.saturating_mul(US_PER_TICK)))
}

/// What was used so far. Without `waited` only the leaf can tell, for a session whose supervisor is gone.
pub(crate) fn counted(leaf: Option<&Leaf>, wall_ns: u64, waited: Option<Waited>) -> Usage {
    let mut usage = Usage { wall_ns, cpu_source: "none".into(), ..Usage::default() };
    if let Some(waited) = waited {
        (usage.cpu_user_us, usage.cpu_sys_us) = (waited.user_us, waited.system_us);
        usage.cpu_source = "subreaper".into();
        (usage.io_read_bytes, usage.io_write_bytes) = (Some(waited.read_bytes), Some(waited.written_bytes));
        usage.io_source = Some("rusage".into());
    }
    let Some(leaf) = leaf else { return usage };
    if let Some(cpu) = leaf.cpu_time() {
        (usage.cpu_user_us, usage.cpu_sys_us) = (cpu.user_us, cpu.system_us);
        usage.cpu_source = cpu.source.into();
    }
    let version_2 = leaf.counter("io.stat", None).and_then(|file| counters::io_stat(&file));
    let version_1 = || {
        let file = leaf.counter("blkio.throttle.io_service_bytes", Some("blkio"))?;
        counters::io_service_bytes(&file)
    };
    let io = version_2.map(|io| (io, "cgroup-v2")).or_else(|| Some((version_1()?, "cgroup-v1")));
    if let Some(((read, written), source)) = io {
        (usage.io_read_bytes, usage.io_write_bytes) = (Some(read), Some(written));
        usage.io_source = Some(source.into());
    }
    memory(&mut usage, leaf);
    usage
}

fn memory(usage: &mut Usage, leaf: &Leaf) {
    let either = |two, one| leaf.counter(two, None).or_else(|| leaf.counter(one, Some("memory")));
    if let Some(peak) = leaf.memory_peak() {
        note_peak(usage, "cgroup_peak", peak);
    }
    let stat = either("memory.stat", "memory.stat");
    if let Some(used) = stat.and_then(|file| counters::memory_without_cache(&file)) {
        usage.mem_peaks_bytes.insert("anon+shmem".into(), used);
    }
    let events = either("memory.events", "memory.oom_control");
    usage.oom_kills = events.and_then(|file| counters::oom_kills(&file));
}

/// Notes a peak of some kind; the first one is what is shown first.
pub(crate) fn note_peak(usage: &mut Usage, kind: &str, bytes: u64) {
    usage.mem_peaks_bytes.insert(kind.into(), bytes);
    if usage.mem_peak_bytes.is_none() {
        usage.mem_peak_bytes = Some(bytes);
        usage.mem_kind = Some(kind.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_leaf_the_processes_that_were_waited_for_count() {
        let waited = Waited { user_us: 5, system_us: 6, read_bytes: 512, written_bytes: 1024 };
        let usage = counted(None, 7, Some(waited));
        assert_eq!((usage.wall_ns, usage.cpu_user_us, usage.cpu_sys_us), (7, 5, 6));
        assert_eq!((usage.io_read_bytes, usage.io_write_bytes), (Some(512), Some(1024)));
        assert_eq!((usage.cpu_source.as_str(), usage.io_source.as_deref()), ("subreaper", Some("rusage")));
        let nobody = counted(None, 7, None);
        assert_eq!((nobody.cpu_source.as_str(), nobody.io_read_bytes), ("none", None));
        assert_eq!(waited.since(Waited { user_us: 4, ..waited }), Waited { user_us: 1, ..Waited::default() });
    }

    #[test]
    fn a_process_cannot_hide_its_times_behind_its_name() {
        let stat = |name: &str| {
            let text = format!("7 ({name}) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0 99");
            times_of_stat(text.as_bytes())
        };
        assert_eq!(stat("sleep"), Some([1_030_000, 240_000]));
        assert_eq!(stat(") S 1 2 (x) y"), Some([1_030_000, 240_000]));
        assert_eq!(times_of_stat(b"7 (\xff\xfe) S 1 2 3 4 5 6 7 8 9 10 1 1 0 0"), Some([10_000, 10_000]));
        assert_eq!(times_of_stat(b"7 (cut) S 1 2"), None);
        let (user, system) = living(nix::unistd::getpid());
        assert!(user < 3_600_000_000 && system < 3_600_000_000);
    }

    #[test]
    fn the_first_peak_is_shown_and_all_are_kept() {
        let mut usage = Usage::default();
        note_peak(&mut usage, "cgroup_peak", 9);
        note_peak(&mut usage, "maxrss", 5);
        assert_eq!((usage.mem_peak_bytes, usage.mem_kind.as_deref()), (Some(9), Some("cgroup_peak")));
        assert_eq!(usage.mem_peaks_bytes.len(), 2);
    }
}
