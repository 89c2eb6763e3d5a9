//! Usage of a payload that goes on, recorded now and then: what a crash of the node can lose is what came after the last one.
//!
//! Who waits for the payload wakes for the next checkpoint and for nothing else; without a record it does not wake at all.

use crate::session::active_session::ActiveSession;
use crate::session::usage::{self, Waited};
use crate::sys::process;
use nix::poll::PollTimeout;
use nix::unistd::Pid;
use record::Usage;
use std::time::Duration;

/// When the next checkpoint is due, and what the last one said.
pub(crate) struct Checkpoints {
    interval_ns: u64,
    began_ns: u64,
    next_ns: Option<u64>,
    last: Usage,
}

impl Checkpoints {
    /// For a payload that began then, by `CLOCK_BOOTTIME`.
    pub(crate) fn new(interval: Duration, began_ns: u64) -> Self {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { interval_ns, began_ns, next_ns: began_ns.checked_add(interval_ns), last: Usage::default() }
    }

    /// How long to wait for other events.
    pub(crate) fn patience(&self, session: &ActiveSession) -> PollTimeout {
        match self.next_ns.filter(|_| session.has_record()) {
            Some(next) => until(next, process::boottime_ns()),
            None => PollTimeout::NONE,
        }
    }

    /// Writes one when it is due. `waited` is what the processes used that were waited for; those that still run below
    /// `payload` are added, where no cgroup counts them.
    pub(crate) fn write_when_due(
        &mut self,
        session: &mut ActiveSession,
        payload: Pid,
        waited: Option<Waited>,
    ) {
        let now = process::boottime_ns();
        if !session.has_record() || self.next_ns.is_none_or(|next| now < next) {
            return;
        }
        // Counted from now: a host that slept owes no checkpoints for that time.
        self.next_ns = now.checked_add(self.interval_ns);
        let waited = waited.map(|waited| waited.and(usage::living(payload)));
        let mut usage = usage::counted(session.leaf(), now.saturating_sub(self.began_ns), waited);
        usage.keep_peaks(&self.last);
        session.checkpoint(&usage);
        self.last = usage;
    }

    /// Adds the peaks that were seen on the way to what was counted at the end.
    pub(crate) fn complete(&self, usage: &mut Usage) {
        usage.keep_peaks(&self.last);
    }
}

/// Whole milliseconds until a moment, rounded up: waking too early would only make one wake twice.
fn until(next_ns: u64, now_ns: u64) -> PollTimeout {
    let ms = next_ns.saturating_sub(now_ns).div_ceil(1_000_000);
    PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wakes_once_for_a_checkpoint() {
        assert_eq!(until(5_000_001, 0).as_millis(), Some(6));
        assert_eq!(until(5, 9).as_millis(), Some(0), "overdue");
        assert_eq!(until(u64::MAX, 0).as_millis(), Some(i32::MAX.unsigned_abs()));
    }

    #[test]
    fn the_first_is_due_one_interval_after_the_start() {
        let checkpoints = Checkpoints::new(Duration::from_secs(600), 7);
        assert_eq!(checkpoints.next_ns, Some(600_000_000_007));
        assert_eq!(Checkpoints::new(Duration::MAX, 7).next_ns, None, "never, and no overflow");
    }
}
