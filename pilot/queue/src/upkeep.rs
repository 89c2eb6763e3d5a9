//! Tasks that run beside the requests: they take back expired leases, mark silent pilots as lost, delete keys that nobody needs any
//! more, and forget old payloads.

use crate::engine::now;
use crate::retention::forget_old;
use crate::state::Queue;
use pilot_store::StoreError;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Takes back what has run out, once. What cannot be stored now stays due for the next round.
pub async fn sweep(queue: &Queue) {
    let now = Instant::now();
    for lease in queue.effects.leases.due(now) {
        if let Err(problem) = queue.expire(lease).await {
            tracing::warn!(%lease, %problem, "lease not taken back yet");
        }
    }
    for pilot in queue.effects.pilots.due(now) {
        if let Err(problem) = queue.lose(pilot).await {
            tracing::warn!(%pilot, %problem, "silent pilot not noted yet");
        }
    }
}

/// Sweeps for ever: often enough that a short lease ends in time, rarely enough to cost nothing.
pub async fn sweep_forever(queue: Arc<Queue>) {
    let pause = (queue.settings.lease / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        sweep(&queue).await;
        tokio::time::sleep(pause).await;
    }
}

/// Deletes keys that nobody can need any more, every ten minutes.
pub async fn purge_forever(queue: Arc<Queue>) {
    loop {
        match purge(&queue).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "delegations deleted"),
            Err(problem) => tracing::warn!(%problem, "delegations not deleted yet"),
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
}

async fn purge(queue: &Queue) -> Result<u64, StoreError> {
    queue.store.purge_keys(now()).await
}

/// Forgets old payloads, every ten minutes.
pub async fn forget_forever(queue: Arc<Queue>) {
    loop {
        match forget_old(&queue, now() / 1000).await {
            Ok(0) => {}
            Ok(payloads) => tracing::info!(payloads, "forgotten: over for too long, or taking too much"),
            Err(problem) => tracing::warn!(%problem, "old payloads not forgotten yet"),
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
}

/// Starts all of it; the tasks end with the returned guard.
pub fn start(queue: &Arc<Queue>) -> Tasks {
    Tasks(vec![
        tokio::spawn(sweep_forever(queue.clone())),
        tokio::spawn(purge_forever(queue.clone())),
        tokio::spawn(forget_forever(queue.clone())),
        tokio::spawn(crate::notices::send_forever(queue.clone())),
    ])
}

/// Background tasks; aborted on drop. Changes under way roll back.
#[derive(Debug)]
pub struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
