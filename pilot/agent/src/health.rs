//! Whether this node is fit for payloads, judged by how they end: a node that fails one after the other must not go on
//! taking them.

use std::time::Duration;

/// First and longest pause after failures in a row.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How an attempt ended, as far as the node is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Experience<'a> {
    /// The payload ran, whatever became of it.
    Good,
    /// The node, or the site's programs on it, failed.
    Bad,
    /// The site turned this user away. That is the node's fault only if it happens to different users.
    Refused(&'a str),
}

/// Failures in a row.
#[derive(Debug, Default)]
pub struct Health {
    in_a_row: u32,
    refused: Option<String>,
}

impl Health {
    /// Takes an experience in.
    pub fn note(&mut self, experience: Experience<'_>) {
        match experience {
            Experience::Good => *self = Self::default(),
            Experience::Bad => self.in_a_row = self.in_a_row.saturating_add(1),
            Experience::Refused(owner) if self.refused.as_deref() == Some(owner) => (),
            Experience::Refused(owner) => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                self.refused = Some(owner.to_owned());
            }
        }
    }

    /// How many payloads in a row the node has failed.
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// How long to take no payload after the last failure: 1, 2, 4, ... seconds.
    pub fn pause(&self) -> Duration {
        match self.in_a_row {
            0 => Duration::ZERO,
            n => PAUSES.0.saturating_mul(1 << (n - 1).min(16)).min(PAUSES.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_something_goes_well() {
        let mut health = Health::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            health.note(Experience::Bad);
            pauses.push(health.pause().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(health.in_a_row(), 8);
        health.note(Experience::Good);
        assert_eq!((health.in_a_row(), health.pause()), (0, Duration::ZERO));
    }

    #[test]
    fn one_user_whom_the_site_does_not_know_does_not_end_the_pilot() {
        let mut health = Health::default();
        (0..20).for_each(|_| health.note(Experience::Refused("/CN=a")));
        assert_eq!(health.in_a_row(), 1);
        health.note(Experience::Refused("/CN=b"));
        assert_eq!(health.in_a_row(), 2, "a site that knows nobody is broken");
    }
}
