//! Heartbeats: they renew the leases, tell the queue how far payloads are, and bring its wishes.
//!
//! One call is held by the queue until it has a wish, and is never given up: over it an order to cancel travels at once. News
//! of the pilot's go in short calls beside it. The first goes at once; while payloads come and go quickly, one call tells of
//! many.

use super::Agent;
use super::lease::StopReason;
use super::pilot::Ending;
use pilot_api::{Heartbeat, HeartbeatReply, OrderKind, PilotState, Registered};
use pilot_client::{ClientError, Pauses};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Shortest time between two calls with news: what has ended by then is told by its result alone.
const NEWS: Duration = Duration::from_millis(250);

/// The heartbeats of one registration.
pub struct Heart {
    agent: Arc<Agent>,
    ending: Arc<Ending>,
    pilot: Uuid,
    lease: Duration,
    interval: Duration,
    /// When the last call was sent that was answered.
    renewed: Mutex<Instant>,
    /// Orders carried out, not acknowledged yet.
    acked: Mutex<Vec<Uuid>>,
    /// The queue does not know the pilot any more.
    over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is kept here is consistent after every single operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heart {
    /// Begins with the registration.
    pub fn new(agent: Arc<Agent>, terms: &Registered, ending: Arc<Ending>) -> Self {
        Self {
            agent,
            ending,
            pilot: terms.pilot,
            lease: Duration::from_millis(terms.lease_ms),
            interval: Duration::from_millis(terms.heartbeat_ms),
            renewed: Mutex::new(Instant::now()),
            acked: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Renews the leases for as long as the pilot lives, and passes the queue's wishes on.
    pub async fn beat(&self) {
        tokio::join!(self.hold(), self.tell());
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn hold(&self) {
        // The first answer tells at once that the way is free.
        let (mut wait, mut pauses) = (0, Pauses::default());
        while !self.is_over() {
            match self.sync(wait).await {
                Ok(()) => {
                    pauses = Pauses::default();
                    wait = self.interval.as_secs();
                    if wait == 0 {
                        // Such a short interval cannot be told to the queue, which counts in seconds.
                        sleep(self.interval).await;
                    }
                }
                Err(e) => {
                    self.bear(&e);
                    sleep(pauses.after_failure().min(self.interval)).await;
                    wait = 0;
                }
            }
        }
    }

    async fn tell(&self) {
        while !self.is_over() {
            self.agent.registry.news.notified().await;
            // What the result says by now, or another call has said, is no news any more.
            if !self.agent.registry.has_news() && lock(&self.acked).is_empty() {
                continue;
            }
            if let Err(e) = self.sync(0).await {
                self.bear(&e);
                self.agent.registry.news.notify_one();
            }
            sleep(NEWS).await;
        }
    }

    async fn sync(&self, wait: u64) -> Result<(), ClientError> {
        let (sent, acked) = (Instant::now(), lock(&self.acked).clone());
        let leases = self.agent.registry.updates();
        let sync = Heartbeat { leases, state: self.state(), acked: acked.clone() };
        let reply = self.agent.client.sync(self.pilot, &sync, wait).await?;
        {
            let mut renewed = lock(&self.renewed);
            *renewed = sent.max(*renewed);
        }
        self.agent.registry.told(&sync.leases);
        lock(&self.acked).retain(|id| !acked.contains(id));
        self.obey(reply);
        Ok(())
    }

    /// What a failure means for the leases.
    fn bear(&self, error: &ClientError) {
        let registry = &self.agent.registry;
        if error.is_forgotten() {
            registry.stop_all(StopReason::Lost);
            self.over.store(true, Ordering::SeqCst);
            registry.news.notify_one();
            return self.ending.set(&self.ending.forgotten);
        }
        if error.is_no_pilot() {
            self.ending.set(&self.ending.refused);
        }
        if lock(&self.renewed).elapsed() > self.lease && registry.used().leases > 0 {
            tracing::error!(%error, "leases ran out: ending payloads");
            registry.stop_all(StopReason::Lost);
        }
    }

    fn state(&self) -> PilotState {
        if self.ending.drains() {
            PilotState::Draining
        } else if !self.agent.probed.load(Ordering::SeqCst) {
            PilotState::Validating
        } else if self.agent.registry.used().leases > 0 {
            PilotState::Busy
        } else {
            PilotState::Ready
        }
    }

    fn obey(&self, reply: HeartbeatReply) {
        for lease in reply.lost {
            self.agent.registry.stop(lease, StopReason::Lost);
        }
        if reply.drain {
            self.ending.set(&self.ending.drain);
        }
        for wish in reply.wishes {
            match wish.kind {
                OrderKind::Cancel => self.agent.registry.stop(wish.lease, StopReason::Cancel),
            }
            let mut acked = lock(&self.acked);
            if !acked.contains(&wish.id) {
                acked.push(wish.id);
            }
        }
    }
}
