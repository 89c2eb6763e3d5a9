//! Limits that came with the call, held by the supervisor, whom the payload cannot reach.
//!
//! The leaf holds memory and number of processes where the host has the controllers; elsewhere the supervisor looks.

use crate::admit::request::Limits;
use crate::run::child_processes;
use crate::session::cgroup::Leaf;
use crate::sys::process;
use std::fmt;
use std::time::{Duration, Instant};

/// How often is looked at what does not announce itself.
const LOOK: Duration = Duration::from_millis(500);

/// A limit that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// Wall-clock time.
    Walltime,
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Number of processes.
    Pids,
}

impl Exceeded {
    /// Whether the payload gets a warning before it is killed.
    pub(crate) fn is_of_time(self) -> bool {
        matches!(self, Self::Walltime | Self::Cpu)
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Walltime => "limit: walltime",
            Self::Cpu => "limit: CPU time",
            Self::Memory => "limit: memory",
            Self::Pids => "limit: processes",
        })
    }
}

/// The limits of a payload under way.
pub(crate) struct Watched {
    limits: Limits,
    ends: Option<Instant>,
    /// What has to be looked at from time to time.
    looks: bool,
    next_look: Instant,
}

impl Watched {
    /// Puts the limits up; the clocks start now.
    pub(crate) fn begin(mut limits: Limits, leaf: Option<&Leaf>) -> Self {
        if let (Some(bytes), Some(leaf)) = (limits.memory, leaf)
            && leaf.limit_memory(bytes)
        {
            limits.memory = None;
        }
        if let (Some(number), Some(leaf)) = (limits.pids, leaf)
            && leaf.limit_pids(number)
        {
            limits.pids = None;
        }
        let now = Instant::now();
        let looks = limits.cpu.is_some() || limits.memory.is_some() || limits.pids.is_some();
        Self {
            limits,
            ends: limits.walltime.and_then(|time| now.checked_add(time)),
            looks,
            next_look: now + LOOK,
        }
    }

    /// How long nothing can be exceeded unseen.
    pub(crate) fn next(&self) -> Option<Duration> {
        let looked = self.looks.then_some(self.next_look);
        let next = [self.ends, looked].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// What is exceeded now.
    pub(crate) fn exceeded(&mut self, leaf: Option<&Leaf>) -> Option<Exceeded> {
        let now = Instant::now();
        if self.ends.is_some_and(|ends| now >= ends) {
            return Some(Exceeded::Walltime);
        }
        if !self.looks || now < self.next_look {
            return None;
        }
        self.next_look = now + LOOK;
        let members = leaf.map_or_else(child_processes::descendants, Leaf::members);
        let used = Used::of(&members, leaf);
        let over = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used > limit);
        if over(self.limits.cpu.map(|t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX)), used.cpu_us) {
            Some(Exceeded::Cpu)
        } else if over(self.limits.memory, used.memory) {
            Some(Exceeded::Memory)
        } else if over(self.limits.pids, used.pids) {
            Some(Exceeded::Pids)
        } else {
            None
        }
    }
}

/// What the payload's processes use now.
struct Used {
    cpu_us: u64,
    memory: u64,
    pids: u64,
}

impl Used {
    fn of(members: &[i32], leaf: Option<&Leaf>) -> Self {
        let all: Vec<_> = members.iter().filter_map(|pid| process::consumption(*pid)).collect();
        // Without a leaf: what lives, and what was waited for.
        let lived = || all.iter().map(|c| c.cpu_us).sum::<u64>() + process::waited_cpu_us();
        let cpu_us = leaf.and_then(Leaf::cpu_time).map_or_else(lived, |cpu| cpu.user_us + cpu.system_us);
        let memory = all.iter().map(|c| c.resident_bytes).sum();
        Self { cpu_us, memory, pids: u64::try_from(all.len()).unwrap_or(u64::MAX) }
    }
}
