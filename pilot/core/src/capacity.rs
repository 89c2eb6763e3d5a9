//! What a pilot has free, and what fits into it.

use crate::model::{Pilot, Requirements};
use pilot_api::Claim;

/// Most leases that a pilot may hold beyond its slots, whatever it asks for: what it takes ahead, others do not get.
pub const MOST_AHEAD: u32 = 64;

/// What a pilot has free, as far as the queue believes it, and what it may take ahead: leases that wait in the pilot until
/// another one ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Payloads, those ahead counted in.
    pub payloads: u32,
    /// Slots that nothing is leased for.
    pub slots: u32,
    /// Cores.
    pub cores: u32,
    /// Bytes; `None` when the pilot knows no limit.
    pub memory: Option<u64>,
    /// Bytes for working directories; `None` when the pilot knows no limit.
    pub disk: Option<u64>,
    /// Seconds; `None` when unlimited.
    pub time_left: Option<u64>,
    /// Of the payloads, those that may wait in the pilot.
    pub ahead: u32,
    /// Cores and bytes (memory, disk) of the whole pilot: one that waits must fit in there alone.
    pub whole: (u32, Option<u64>, Option<u64>),
}

impl Capacity {
    /// The smaller of what the pilot asks for and what its registration leaves after the leases that it holds.
    pub fn of(claim: &Claim, pilot: &Pilot) -> Self {
        let held = |of: fn(&Requirements) -> u64| {
            pilot.held.iter().fold(0u64, |sum, p| sum.saturating_add(of(&p.requirements)))
        };
        let leases = u32::try_from(pilot.held.len()).unwrap_or(u32::MAX);
        let cores = u32::try_from(held(|r| u64::from(r.cores))).unwrap_or(u32::MAX);
        let left = pilot.memory.map(|m| m.saturating_sub(held(|r| r.memory.unwrap_or(0))));
        let slots = pilot.slots.saturating_sub(leases);
        // Leases beyond the slots wait already.
        let waiting = leases.saturating_sub(pilot.slots);
        let ahead = claim.prefetch.min(MOST_AHEAD).saturating_sub(waiting);
        let payloads = claim.max.min(slots.saturating_add(ahead));
        Self {
            payloads,
            slots: slots.min(payloads),
            cores: claim.cores.min(pilot.cores.saturating_sub(cores)),
            memory: [claim.memory, left].into_iter().flatten().min(),
            disk: pilot.disk.map(|d| d.saturating_sub(held(|r| r.disk.unwrap_or(0)))),
            time_left: claim.time_left,
            ahead: ahead.min(payloads),
            whole: (pilot.cores, pilot.memory, pilot.disk),
        }
    }

    /// What is left after taking a payload; `None` when it does not fit.
    pub fn take(self, wanted: &Requirements) -> Option<Self> {
        if self.time_left.zip(wanted.walltime).is_some_and(|(left, walltime)| walltime > left) {
            return None;
        }
        let payloads = self.payloads.checked_sub(1)?;
        let now = || {
            let (slots, cores) = (self.slots.checked_sub(1)?, self.cores.checked_sub(wanted.cores)?);
            let (memory, disk) = (room(self.memory, wanted.memory)?, room(self.disk, wanted.disk)?);
            Some(Self { payloads, slots, cores, memory, disk, ..self })
        };
        now().or_else(|| {
            self.whole.0.checked_sub(wanted.cores)?;
            room(self.whole.1, wanted.memory)?;
            room(self.whole.2, wanted.disk)?;
            Some(Self { payloads, ahead: self.ahead.checked_sub(1)?, ..self })
        })
    }
}

/// What is left of some memory or disk; `None` when there is too little.
fn room(free: Option<u64>, wanted: Option<u64>) -> Option<Option<u64>> {
    match (free, wanted) {
        (Some(free), Some(wanted)) => free.checked_sub(wanted).map(Some),
        (free, _) => Some(free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(cores: u32, memory: Option<u64>, walltime: Option<u64>) -> Requirements {
        Requirements { cores, memory, disk: None, walltime }
    }

    fn free() -> Capacity {
        let (memory, disk, whole) = (Some(100), Some(50), (8, Some(200), Some(60)));
        Capacity { payloads: 2, slots: 2, cores: 4, memory, disk, time_left: Some(60), ahead: 0, whole }
    }

    #[test]
    fn only_what_fits_is_taken() {
        let free = free();
        let left = free.take(&wants(3, Some(40), Some(60))).unwrap();
        assert_eq!(left, Capacity { payloads: 1, slots: 1, cores: 1, memory: Some(60), ..free });
        for too_much in [wants(5, None, None), wants(1, Some(101), None), wants(1, None, Some(61))] {
            assert_eq!(free.take(&too_much), None, "{too_much:?}");
        }
        assert_eq!(
            left.take(&wants(1, None, None)).unwrap().take(&wants(0, None, None)),
            None,
            "no slot left"
        );
        let disk = |disk| Requirements { disk: Some(disk), ..wants(1, None, None) };
        assert_eq!(free.take(&disk(50)).unwrap().disk, Some(0));
        assert_eq!(free.take(&disk(51)), None);
        let unlimited = Capacity { memory: None, time_left: None, ..free };
        assert!(unlimited.take(&wants(1, Some(u64::MAX), Some(u64::MAX))).is_some());
    }

    #[test]
    fn what_waits_in_the_pilot_must_fit_into_the_whole_of_it_alone() {
        let free = Capacity { payloads: 3, slots: 1, cores: 1, ahead: 2, ..free() };
        let left = free.take(&wants(8, Some(200), None)).unwrap();
        assert_eq!((left.payloads, left.slots, left.cores, left.ahead), (2, 1, 1, 1), "a slot stays free");
        let left = left.take(&wants(1, None, None)).unwrap();
        assert_eq!((left.slots, left.ahead), (0, 1));
        let left = left.take(&wants(1, None, None)).unwrap();
        assert_eq!(left.take(&wants(0, None, None)), None);
        for too_much in [wants(9, None, None), wants(1, Some(201), None), wants(2, None, Some(61))] {
            assert_eq!(free.take(&too_much), None, "{too_much:?}");
        }
        let whole = Capacity { ahead: 0, ..free };
        assert_eq!(whole.take(&wants(2, None, None)), None, "only who asks for it gets more than is free");
    }

    #[test]
    fn leases_count_against_slots_first_and_then_against_what_is_taken_ahead() {
        let pilot = |held: usize| Pilot {
            id: uuid::Uuid::nil(),
            dn: String::new(),
            host: String::new(),
            state: pilot_api::PilotState::Busy,
            drain: false,
            slots: 2,
            cores: 2,
            memory: None,
            disk: None,
            seen: 0,
            secret: None,
            switches: true,
            held: vec![payload(); held],
        };
        let claim = |max, prefetch| Claim { max, cores: 2, prefetch, ..Claim::default() };
        let of = |held, max, prefetch| {
            let free = Capacity::of(&claim(max, prefetch), &pilot(held));
            (free.payloads, free.slots, free.ahead)
        };
        assert_eq!(of(0, 5, 0), (2, 2, 0), "one that says nothing gets no more than its slots");
        assert_eq!(of(2, 5, 0), (0, 0, 0));
        assert_eq!(of(0, 5, 3), (5, 2, 3));
        assert_eq!(of(4, 5, 3), (1, 0, 1));
        assert_eq!(of(5, 5, 3), (0, 0, 0));
        assert_eq!(of(2, 1000, 1000), (MOST_AHEAD, 0, MOST_AHEAD), "the queue holds the bound");
    }

    fn payload() -> crate::model::Payload {
        crate::model::Payload {
            id: uuid::Uuid::nil(),
            seq: 0,
            owner: String::new(),
            state: pilot_api::PayloadState::Matched,
            attempts: 1,
            returns: 0,
            cancel_wanted: false,
            requirements: wants(1, None, None),
            retry: crate::model::Retry::default(),
            array_index: None,
            spec: 0,
            notify: None,
            proxy_until: 0,
            avoid: None,
            lease: None,
        }
    }
}
