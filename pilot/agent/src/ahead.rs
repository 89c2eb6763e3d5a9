//! How many leases to take ahead, so that the next payload is at hand when one ends.
//!
//! What waits here could run elsewhere meanwhile. So only payloads that end soon are taken ahead, and no more of them than
//! the slots run in a moment. What waits longer all the same goes back ([`super::registry`]).

use std::time::Duration;

/// What is taken ahead lasts for so long, or for a heartbeat where that is shorter: many times the way to the queue and back.
const LASTS: Duration = Duration::from_secs(1);

/// How long payloads take in this pilot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    usual: Option<Duration>,
}

impl Pace {
    /// A payload has held its slot for so long. A longer one counts at once, shorter ones little by little.
    pub fn note(&mut self, took: Duration) {
        let usual = self.usual.map_or(took, |usual| usual.saturating_mul(3).saturating_add(took) / 4);
        self.usual = Some(usual.max(took));
    }

    /// How many leases to hold beyond the slots; none while it is not known how long payloads take.
    pub fn ahead(&self, slots: u32, heartbeat: Duration, most: u32) -> u32 {
        let Some(usual) = self.usual else { return 0 };
        let one = usual.max(Duration::from_millis(1)).as_millis();
        let run = u128::from(slots) * LASTS.min(heartbeat).as_millis() / one;
        u32::try_from(run).unwrap_or(u32::MAX).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(12);

    fn after(millis: &[u64]) -> Pace {
        let mut pace = Pace::default();
        millis.iter().for_each(|ms| pace.note(Duration::from_millis(*ms)));
        pace
    }

    #[test]
    fn only_what_ends_soon_is_taken_ahead() {
        assert_eq!(Pace::default().ahead(4, BEAT, 64), 0, "nothing is known yet");
        assert_eq!(after(&[10]).ahead(4, BEAT, 64), 64, "the queue's bound");
        assert_eq!(after(&[100]).ahead(2, BEAT, 64), 20);
        assert_eq!(after(&[3_600_000]).ahead(4, BEAT, 64), 0);
        assert_eq!(
            after(&[100]).ahead(2, Duration::from_millis(200), 64),
            4,
            "not more than lasts a heartbeat"
        );
        assert_eq!(after(&[0]).ahead(1, BEAT, u32::MAX), 1000);
    }

    #[test]
    fn one_long_payload_counts_at_once_and_is_forgotten_slowly() {
        let mut pace = after(&[10, 10, 10_000]);
        assert_eq!(pace.ahead(2, BEAT, 64), 0);
        pace.note(Duration::from_millis(10));
        assert_eq!(pace.ahead(2, BEAT, 64), 0);
        (0..30).for_each(|_| pace.note(Duration::from_millis(10)));
        assert_eq!(pace.ahead(2, BEAT, 64), 64);
    }
}
