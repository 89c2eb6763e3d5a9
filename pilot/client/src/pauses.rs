//! How long is waited between attempts.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;

/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// The pauses between attempts, without end: each a random part of a span that doubles (full jitter), so that many pilots
/// do not come back at the same moment.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Default for Pauses {
    fn default() -> Self {
        let spans =
            ExponentialBuilder::new().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1).with_factor(2.0);
        Self(spans.without_max_times().build())
    }
}

impl Pauses {
    /// The next pause.
    pub fn after_failure(&mut self) -> Duration {
        self.0.next().unwrap_or(PAUSES.1).mul_f64(fastrand::f64().clamp(0.05, 1.0))
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after_failure())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_never_zero() {
        let spans = (0..200_u32).map(|failures| (PAUSES.0 * (1 << failures.min(16))).min(PAUSES.1));
        for (pause, span) in Pauses::default().zip(spans) {
            assert!(pause <= span && pause >= span.mul_f64(0.049), "{pause:?} of {span:?}");
        }
    }
}
