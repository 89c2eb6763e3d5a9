//! What a process hands on to the program that it executes, and what its caller could bend root with.
//!
//! `docs/threat-model.md` has the table: each attribute, what is done, and the test. Limits, scheduling, affinity, timers and
//! personality are set for root's part as soon as it starts and are the caller's again when the payload is executed.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use std::cell::OnceCell;
use std::fs;
use std::time::{Duration, Instant};

/// Seconds of CPU time without which root's part cannot be sure to reach its end.
const LEAST_CPU_SECONDS: u64 = 5;
/// Enough for root's own part.
const STACK: u64 = 8 * 1024 * 1024;
const OOM_FILE: &str = "/proc/self/oom_score_adj";
/// The kernel's own default, nanoseconds.
const TIMER_SLACK: u64 = 50_000;
/// All but the stack, which has its own rule.
const LIMITS: [Resource; 15] = [
    Resource::RLIMIT_AS,
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_LOCKS,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_MSGQUEUE,
    Resource::RLIMIT_NICE,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_NPROC,
    Resource::RLIMIT_RSS,
    Resource::RLIMIT_RTPRIO,
    Resource::RLIMIT_RTTIME,
    Resource::RLIMIT_SIGPENDING,
    Resource::RLIMIT_CORE,
];
const TIMERS: [libc::c_int; 3] = [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF];
/// `PR_GET_SECUREBITS` answers with these.
const NO_SECUREBITS: libc::c_int = 0;

/// As the caller had them.
pub(crate) struct Attributes {
    limits: Vec<(Resource, u64, u64)>,
    timers: [libc::itimerval; 3],
    stopped: Instant,
    nice: libc::c_int,
    scheduling: Option<(libc::c_int, libc::sched_param)>,
    affinity: Option<CpuSet>,
    io_priority: libc::c_int,
    personality: libc::c_int,
    oom_score: OnceCell<String>,
}

impl Attributes {
    /// Takes what the caller set out of this process and keeps it for the payload. The error says what the host does not
    /// let us change, and what to do.
    pub(crate) fn take_over(switching: bool) -> Result<Self, String> {
        read_clocks_again();
        share_no_memory();
        // Survives exec, knows no bound, and would stretch every wait and every deadline of ours.
        let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK);
        let timers = stop_timers();
        let stopped = Instant::now();
        let limits = raise_limits();
        let taken = Self {
            timers,
            stopped,
            nice: nice(),
            scheduling: normal_scheduling(),
            affinity: every_processor(),
            io_priority: normal_io(),
            personality: normal_personality(),
            oom_score: OnceCell::new(),
            limits,
        };
        set_nice(0);
        if switching {
            clear_securebits()?;
            enough_cpu_time()?;
        }
        Ok(taken)
    }

    /// The kernel, short of memory, shall not end root's supervisor while there is a payload to end. Done as low as the host
    /// allows, which is at least as low as any payload can get.
    pub(crate) fn protect(&self) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{OOM_FILE}: {e}");
        let before = fs::read_to_string(OOM_FILE).map_err(failed)?.trim().to_owned();
        let mut low = -1000;
        let mut high: i32 = before.parse().map_err(|_| format!("{OOM_FILE}: {before:?} is no number"))?;
        // There is one supervisor, so nothing was kept before.
        let _ = self.oom_score.set(before);
        // Without CAP_SYS_RESOURCE the kernel has a floor that it does not tell.
        let mut next = low;
        while low < high {
            match fs::write(OOM_FILE, next.to_string()) {
                Ok(()) => high = next,
                Err(_) => low = next + 1,
            }
            next = low + (high - low) / 2;
        }
        Ok(())
    }

    /// Right before exec: small limits could keep us from what comes before.
    pub(crate) fn give_back_limits(&self) -> nix::Result<()> {
        self.limits.iter().try_for_each(|(resource, soft, hard)| setrlimit(*resource, *soft, *hard))?;
        if self.personality != 0 {
            // SAFETY: personality takes a number.
            unsafe { libc::personality(libc::c_ulong::from(self.personality.cast_unsigned())) };
        }
        Ok(())
    }

    /// As the very last step before exec, so that the caller's alarm rings as if the command had been executed at once.
    pub(crate) fn start_timers(&self) {
        let passed = self.stopped.elapsed();
        for (which, timer) in TIMERS.into_iter().zip(&self.timers) {
            let set = timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0;
            if set {
                let real = which == libc::ITIMER_REAL;
                let left = if real { less(timer.it_value, passed) } else { timer.it_value };
                let timer = libc::itimerval { it_interval: timer.it_interval, it_value: left };
                // SAFETY: `timer` outlives the call, and a null old value is allowed.
                unsafe { libc::setitimer(which, &timer, std::ptr::null_mut()) };
            }
        }
    }

    /// Priorities and the score by which the kernel chooses whom to end, as the caller had them. Needs root.
    pub(crate) fn give_back_priorities(&self) {
        if let Some(score) = self.oom_score.get() {
            let _ = fs::write(OOM_FILE, score);
        }
        if let Some(affinity) = &self.affinity {
            let _ = sched_setaffinity(Pid::from_raw(0), affinity);
        }
        if self.io_priority != 0 {
            set_io_priority(self.io_priority);
        }
        set_nice(self.nice);
        if let Some((policy, parameter)) = &self.scheduling {
            // SAFETY: the parameter is live, and 0 means this process.
            unsafe { libc::sched_setscheduler(0, *policy, parameter) };
        }
    }
}

/// prctl(PR_SET_TSC) may forbid the instruction by which the C library reads clocks; the next one would end us.
fn read_clocks_again() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: this operation takes a number and touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_ENABLE, 0, 0, 0)
    };
}

/// prctl(PR_SET_MEMORY_MERGE) lets the kernel merge equal pages of this process with others', who could tell by the time that
/// writing takes what root's memory holds. Kernels without it say no, and merge nothing.
fn share_no_memory() {
    const PR_SET_MEMORY_MERGE: libc::c_int = 67;
    // SAFETY: this operation takes a number and touches no memory of ours.
    unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) };
}

fn stop_timers() -> [libc::itimerval; 3] {
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let off = libc::itimerval { it_interval: zero, it_value: zero };
    TIMERS.map(|which| {
        let mut before = off;
        // SAFETY: both values are live locals of the right type.
        unsafe { libc::setitimer(which, &off, &mut before) };
        before
    })
}

/// What is left of a time; a microsecond where it is over, since nothing would mean "off".
fn less(time: libc::timeval, passed: Duration) -> libc::timeval {
    let micros = u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000)
        .saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
        .saturating_sub(u64::try_from(passed.as_micros()).unwrap_or(u64::MAX))
        .max(1);
    libc::timeval {
        tv_sec: libc::time_t::try_from(micros / 1_000_000).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::try_from(micros % 1_000_000).unwrap_or(0),
    }
}

/// A caller's small limits must not keep root from writing its log and record, nor end it halfway. Returns what was changed.
fn raise_limits() -> Vec<(Resource, u64, u64)> {
    let mut before = Vec::new();
    let mut change = |resource, soft, hard, wanted: &[(u64, u64)]| {
        let set = wanted.iter().any(|(soft, hard)| setrlimit(resource, *soft, *hard).is_ok());
        if set {
            before.push((resource, soft, hard));
        }
    };
    for resource in LIMITS {
        let Ok((soft, hard)) = getrlimit(resource) else { continue };
        match resource {
            Resource::RLIMIT_CORE if soft != 0 => change(resource, soft, hard, &[(0, hard)]),
            Resource::RLIMIT_CORE => {}
            // More of these would only be more rights.
            Resource::RLIMIT_NICE | Resource::RLIMIT_RTPRIO => {}
            Resource::RLIMIT_NOFILE if soft != hard => change(resource, soft, hard, &[(hard, hard)]),
            Resource::RLIMIT_NOFILE => {}
            // Hard ones only fall without CAP_SYS_RESOURCE, which root in a container may not have. The warning comes a
            // second before the end, so that the end can be an orderly one.
            Resource::RLIMIT_CPU if soft != RLIM_INFINITY => {
                let warned = hard.saturating_sub(1).max(1);
                let last = if hard == RLIM_INFINITY { (hard, hard) } else { (warned, hard) };
                change(resource, soft, hard, &[(RLIM_INFINITY, RLIM_INFINITY), last]);
            }
            _ if soft != RLIM_INFINITY => {
                change(resource, soft, hard, &[(RLIM_INFINITY, RLIM_INFINITY), (hard, hard)]);
            }
            _ => {}
        }
    }
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_STACK)
        && soft < STACK.min(hard)
    {
        change(Resource::RLIMIT_STACK, soft, hard, &[(STACK.min(hard), hard)]);
    }
    before
}

/// A supervisor that the kernel ends for its CPU time could not end the payload.
fn enough_cpu_time() -> Result<(), String> {
    match getrlimit(Resource::RLIMIT_CPU) {
        Ok((_, hard)) if hard < LEAST_CPU_SECONDS => Err(format!(
            "the caller's hard limit of {hard} s CPU time (ulimit -t) cannot be raised on this host and does not do for \
             root's own part; allow {LEAST_CPU_SECONDS} s or more, or give glexec CAP_SYS_RESOURCE"
        )),
        _ => Ok(()),
    }
}

/// With some of them a change of ids would leave capabilities behind.
fn clear_securebits() -> Result<(), String> {
    // SAFETY: this operation takes numbers and touches no memory.
    if unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) } == NO_SECUREBITS {
        return Ok(());
    }
    // SAFETY: as above.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, 0, 0, 0, 0) };
    Errno::result(result)
        .map(drop)
        .map_err(|e| format!("securebits that the caller set cannot be cleared: {e}"))
}

fn nice() -> libc::c_int {
    // SAFETY: getpriority takes numbers only.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

fn set_nice(nice: libc::c_int) {
    if self::nice() != nice {
        // SAFETY: setpriority takes numbers only.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    }
}

/// The class that every process has by default; returns the caller's where it was another.
fn normal_scheduling() -> Option<(libc::c_int, libc::sched_param)> {
    // SAFETY: takes a number.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy <= libc::SCHED_OTHER {
        return None;
    }
    let mut before = libc::sched_param { sched_priority: 0 };
    let normal = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is a live local, and 0 means this process.
    unsafe { libc::sched_getparam(0, &mut before) };
    // SAFETY: as above.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &normal) };
    Some((policy, before))
}

/// All processors that the process's cpuset has; returns the caller's choice where it was another.
fn every_processor() -> Option<CpuSet> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).ok()?;
    let mut all = CpuSet::new();
    (0..CpuSet::count()).try_for_each(|cpu| all.set(cpu)).ok()?;
    sched_setaffinity(this, &all).ok()?;
    (sched_getaffinity(this).ok()? != before).then_some(before)
}

const WHO_PROCESS: libc::c_int = 1;

fn normal_io() -> libc::c_int {
    // SAFETY: ioprio_get takes numbers only.
    let before = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
    let before = libc::c_int::try_from(before).unwrap_or(0).max(0);
    if before != 0 {
        set_io_priority(0);
    }
    before
}

fn set_io_priority(priority: libc::c_int) {
    // SAFETY: ioprio_set takes numbers only.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
}

fn normal_personality() -> libc::c_int {
    const ASK: libc::c_ulong = 0xffff_ffff;
    // SAFETY: personality takes a number.
    let before = unsafe { libc::personality(ASK) };
    if before > 0 {
        // SAFETY: as above.
        unsafe { libc::personality(0) };
    }
    before.max(0)
}

/// The supervisor's own memory, wherever the caller wanted its own; called once the payload is born.
pub(crate) fn normal_memory_policy() {
    const MPOL_DEFAULT: libc::c_int = 0;
    // SAFETY: with the default policy no mask is read.
    unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_DEFAULT, std::ptr::null::<libc::c_ulong>(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_over_rings_at_once_and_never_stays_silent() {
        let time = libc::timeval { tv_sec: 2, tv_usec: 500_000 };
        let left = less(time, Duration::from_millis(700));
        assert_eq!((left.tv_sec, left.tv_usec), (1, 800_000));
        let over = less(time, Duration::from_secs(9));
        assert_eq!((over.tv_sec, over.tv_usec), (0, 1));
    }
}
