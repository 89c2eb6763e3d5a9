//! What the queue does by itself: lost leases and pilots, keys that nobody needs, payloads that are over for long.

use crate::engine::now;
use crate::state::{Failure, Queue};
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

/// Forgets what is older than its retention; on a nearly full disk what ended more than an hour ago, oldest first. `now` is in
/// seconds. Returns how many payloads were forgotten.
pub async fn forget_old(queue: &Arc<Queue>, now: u64) -> Result<u64, Failure> {
    let retention = queue.settings.retention.as_secs();
    let mut forgotten = 0;
    loop {
        let room = queue.files.room();
        let full = room.is_ok_and(|room| room.is_above(queue.settings.high_water));
        let keep = if full { retention.min(3600) } else { retention };
        let purged = queue.store.forget(now.saturating_sub(keep), 500).await?;
        let unused = queue.store.forget_unused(now.saturating_sub(keep.max(3600)), 500).await?;
        forgotten += purged.payloads;
        let (q, attempts, blobs) = (queue.clone(), purged.attempts, unused.blobs);
        let last = purged.payloads == 0 && blobs.is_empty();
        let removed = tokio::task::spawn_blocking(move || q.files.remove(&attempts, &blobs)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "files of forgotten payloads stay");
        }
        if last {
            return Ok(forgotten);
        }
    }
}

/// Forgets old payloads, every ten minutes.
pub async fn forget_forever(queue: Arc<Queue>) {
    loop {
        match forget_old(&queue, now() / 1000).await {
            Ok(0) => {}
            Ok(payloads) => tracing::info!(payloads, "forgotten after their retention"),
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
