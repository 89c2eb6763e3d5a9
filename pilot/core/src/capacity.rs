//! What a pilot has free, and what fits into it.

use crate::model::{Pilot, Requirements};
use pilot_api::Claim;

/// What a pilot has free, as far as the queue believes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Payloads.
    pub payloads: u32,
    /// Cores.
    pub cores: u32,
    /// Bytes; `None` when the pilot knows no limit.
    pub memory: Option<u64>,
    /// Seconds; `None` when unlimited.
    pub time_left: Option<u64>,
}

impl Capacity {
    /// The smaller of what the pilot asks for and what its registration leaves after the leases that it holds.
    pub fn of(claim: &Claim, pilot: &Pilot) -> Self {
        let held = |of: fn(&Requirements) -> u64| {
            pilot.held.iter().fold(0u64, |sum, p| sum.saturating_add(of(&p.requirements)))
        };
        let slots = u32::try_from(pilot.held.len()).unwrap_or(u32::MAX);
        let cores = u32::try_from(held(|r| u64::from(r.cores))).unwrap_or(u32::MAX);
        let left = pilot.memory.map(|m| m.saturating_sub(held(|r| r.memory.unwrap_or(0))));
        Self {
            payloads: claim.max.min(pilot.slots.saturating_sub(slots)),
            cores: claim.cores.min(pilot.cores.saturating_sub(cores)),
            memory: [claim.memory, left].into_iter().flatten().min(),
            time_left: claim.time_left,
        }
    }

    /// What is left after taking a payload; `None` when it does not fit.
    pub fn take(self, wanted: &Requirements) -> Option<Self> {
        if self.time_left.zip(wanted.walltime).is_some_and(|(left, walltime)| walltime > left) {
            return None;
        }
        let memory = match (self.memory, wanted.memory) {
            (Some(free), Some(wanted)) => Some(free.checked_sub(wanted)?),
            (free, _) => free,
        };
        let (payloads, cores) = (self.payloads.checked_sub(1)?, self.cores.checked_sub(wanted.cores)?);
        Some(Self { payloads, cores, memory, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fits_is_taken() {
        let free = Capacity { payloads: 2, cores: 4, memory: Some(100), time_left: Some(60) };
        let wants = |cores, memory, walltime| Requirements { cores, memory, walltime };
        let left = free.take(&wants(3, Some(40), Some(60))).unwrap();
        assert_eq!(left, Capacity { payloads: 1, cores: 1, memory: Some(60), time_left: Some(60) });
        for too_much in [wants(5, None, None), wants(1, Some(101), None), wants(1, None, Some(61))] {
            assert_eq!(free.take(&too_much), None, "{too_much:?}");
        }
        assert_eq!(
            left.take(&wants(1, None, None)).unwrap().take(&wants(0, None, None)),
            None,
            "no slot left"
        );
        let unlimited = Capacity { memory: None, time_left: None, ..free };
        assert!(unlimited.take(&wants(1, Some(u64::MAX), Some(u64::MAX))).is_some());
    }
}
