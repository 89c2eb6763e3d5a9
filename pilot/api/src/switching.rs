//! Pilots that do not switch the identity: whom the queue refused, and what pilots said of each ended attempt.

use crate::Attempt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A pilot that was not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPilot {
    /// Its worker node, as it said.
    pub host: String,
    /// DN it authenticated with.
    pub dn: String,
    /// When it was refused last.
    pub at: u64,
    /// Why, one line.
    pub reason: String,
}

/// An attempt that has ended, as its pilot told: what a site compares with its own records (`accounting reconcile --claims`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimedRun {
    /// The payload.
    pub payload: Uuid,
    /// The attempt.
    pub attempt: Uuid,
    /// The pilot, which is one batch job.
    pub pilot: Uuid,
    /// DN of the payload's owner.
    pub owner: String,
    /// DN of the pilot.
    pub pilot_dn: String,
    /// Worker node.
    pub host: String,
    /// Whether the pilot switches to the user's account.
    pub switched: bool,
    /// Session of `glexec`, equal to the record's id; none without a switch.
    pub session: Option<String>,
    /// End, seconds since the epoch.
    pub ended: u64,
    /// Wall time, seconds.
    pub wall_s: f64,
    /// CPU time, seconds.
    pub cpu_s: f64,
}

/// Whether all of these attempts went to pilots that switch, as far as it is known; `None` when there is none.
pub fn all_switched(attempts: &[Attempt]) -> Option<bool> {
    attempts.iter().filter_map(|attempt| attempt.switched).reduce(|all, one| all && one)
}
