//! Carries out what is to be done once a decision is durable: wakes those who wait, watches leases, writes the log.

use crate::waiting::{Waiters, Watch};
use pilot_core::Effect;
use pilot_core::change::History;
use std::time::Duration;
use tokio::sync::Notify;

/// Those who wait, and what is watched.
#[derive(Debug)]
pub struct EffectRunner {
    /// There is work to claim.
    pub work: Notify,
    /// Something that a URL wants to know.
    pub notices: Notify,
    /// The state of some payload changed.
    pub changed: Notify,
    /// By payload: something changed.
    pub payload_waiters: Waiters,
    /// By pilot: an order, a lost lease, or room.
    pub pilot_waiters: Waiters,
    /// By attempt: its log grew.
    pub log_waiters: Waiters,
    /// Leases in force.
    pub leases: Watch,
    /// Pilots that are alive.
    pub pilots: Watch,
}

impl EffectRunner {
    /// `term` is how long a lease or a pilot may be silent.
    pub fn new(term: Duration) -> Self {
        Self {
            work: Notify::new(),
            notices: Notify::new(),
            changed: Notify::new(),
            payload_waiters: Waiters::default(),
            pilot_waiters: Waiters::default(),
            log_waiters: Waiters::default(),
            leases: Watch::new(term),
            pilots: Watch::new(term),
        }
    }

    /// Carries everything out, in order.
    pub fn carry_out(&self, effects: Vec<Effect>, history: Vec<History>) {
        if !history.is_empty() {
            self.changed.notify_waiters();
        }
        for line in history {
            let attempt = line.attempt.map(tracing::field::display);
            let (payload, state) = (line.payload, line.state);
            tracing::info!(%payload, attempt, actor = line.actor, %state, cause = line.cause, "payload");
        }
        for effect in effects {
            match effect {
                Effect::OfferWork => self.work.notify_waiters(),
                Effect::PayloadChanged(id) => self.payload_waiters.ring(id),
                Effect::PilotNews(id) => self.pilot_waiters.ring(id),
                Effect::Watch { lease, renewed } => self.leases.set(lease, renewed),
                Effect::Unwatch(lease) => self.leases.remove(lease),
                Effect::WatchPilot { pilot, seen } => self.pilots.set(pilot, seen),
                Effect::UnwatchPilot(pilot) => self.pilots.remove(pilot),
                Effect::SendNotices => self.notices.notify_one(),
                Effect::PilotChanged { pilot, actor, from, state, why } => {
                    tracing::info!(%pilot, actor, %from, %state, why, "pilot");
                }
            }
        }
    }
}
