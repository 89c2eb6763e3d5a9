//! What is kept, and what is forgotten: by age, on a nearly full disk, and by the bytes that each kind of file takes.
//!
//! Forgotten is always a payload that is over, with everything of it, and the oldest first. What ended within the last hour
//! stays in any case, so that its user can fetch it.

use crate::state::{Failure, Queue};
use pilot_store::sqlite::Finished;
use std::sync::Arc;
use uuid::Uuid;

/// Payloads that are looked at, and forgotten, at a time.
const BATCH: u32 = 500;

/// Seconds that everything is kept after its end, however little room there is.
const AT_LEAST: u64 = 3600;

/// Bytes of each kind of file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Inputs.
    pub inputs: u64,
    /// Logs.
    pub logs: u64,
    /// Outputs.
    pub outputs: u64,
}

impl Bytes {
    /// What is left of each kind after so much is gone.
    fn less(self, gone: Self) -> Self {
        Self {
            inputs: self.inputs.saturating_sub(gone.inputs),
            logs: self.logs.saturating_sub(gone.logs),
            outputs: self.outputs.saturating_sub(gone.outputs),
        }
    }

    /// Whether freeing `other` helps with something that is still over.
    fn meets(self, other: Self) -> bool {
        let both = |a: u64, b: u64| a > 0 && b > 0;
        both(self.inputs, other.inputs) || both(self.logs, other.logs) || both(self.outputs, other.outputs)
    }
}

/// Which payloads have to go, of some in the order of their ends: the oldest, until nothing is over its bound any more. One
/// whose end frees nothing of what is over stays. Takes off `over` what they free.
fn too_much<T>(over: &mut Bytes, oldest_first: Vec<(T, Bytes)>) -> Vec<T> {
    let mut go = Vec::new();
    for (payload, frees) in oldest_first {
        if over.meets(frees) {
            *over = over.less(frees);
            go.push(payload);
        }
    }
    go
}

/// Forgets what is over for too long, and what takes too much. `now` is in seconds. Returns how many payloads were forgotten;
/// the store gives back the room that they took.
///
/// # Errors
/// When the store cannot.
pub async fn forget_old(queue: &Arc<Queue>, now: u64) -> Result<u64, Failure> {
    let mut forgotten = 0;
    let retention = queue.settings.retention.as_secs();
    loop {
        let room = queue.files.room();
        let full = room.is_ok_and(|room| room.is_above(queue.settings.high_water));
        let keep = if full { retention.min(AT_LEAST) } else { retention };
        let old = queue.store.finished(now.saturating_sub(keep), BATCH, 0).await?;
        let unused = forget(queue, old.clone(), now.saturating_sub(keep.max(AT_LEAST))).await?;
        forgotten += old.len() as u64;
        if old.is_empty() && unused == 0 {
            break;
        }
    }
    let before = now.saturating_sub(retention.min(AT_LEAST));
    while let Some(go) = over_bounds(queue, before).await? {
        let unused = forget(queue, go.clone(), now.saturating_sub(AT_LEAST)).await?;
        forgotten += go.len() as u64;
        if go.is_empty() && unused == 0 {
            break;
        }
    }
    if forgotten > 0 {
        queue.store.shrink().await?;
    }
    Ok(forgotten)
}

/// The payloads that have to go because a kind of file takes more than its bound; `None` when none does.
async fn over_bounds(queue: &Arc<Queue>, before: u64) -> Result<Option<Vec<Finished>>, Failure> {
    let keep = queue.settings.keep;
    let q = queue.clone();
    let taken = tokio::task::spawn_blocking(move || q.files.taken()).await.unwrap_or_default();
    let mut over = taken.less(keep);
    if over == Bytes::default() {
        return Ok(None);
    }
    let (mut go, mut seen) = (Vec::new(), 0);
    while over != Bytes::default() {
        let page = queue.store.finished(before, BATCH, seen).await?;
        if page.is_empty() {
            break;
        }
        seen += page.len() as u64;
        let q = queue.clone();
        let sized = tokio::task::spawn_blocking(move || {
            page.into_iter().map(|of| (of.clone(), q.files.of(&of.attempts, of.inputs))).collect::<Vec<_>>()
        });
        go.extend(too_much(&mut over, sized.await.unwrap_or_default()));
    }
    Ok(Some(go))
}

/// Forgets these payloads with their files, and inputs that nobody has needed since a time in seconds; says how many inputs.
async fn forget(queue: &Arc<Queue>, payloads: Vec<Finished>, unused_since: u64) -> Result<usize, Failure> {
    for some in payloads.chunks(BATCH as usize) {
        let ids: Vec<Uuid> = some.iter().map(|payload| payload.id).collect();
        queue.store.forget(&ids).await?;
    }
    let blobs = queue.store.forget_unused(unused_since, BATCH).await?;
    let (q, unused) = (queue.clone(), blobs.len());
    let removed = tokio::task::spawn_blocking(move || {
        let attempts: Vec<Uuid> = payloads.into_iter().flat_map(|payload| payload.attempts).collect();
        q.files.remove(&attempts, &blobs)
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(%error, "files of forgotten payloads stay");
    }
    Ok(unused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(logs: u64) -> Bytes {
        Bytes { logs, ..Bytes::default() }
    }

    #[test]
    fn the_oldest_go_until_nothing_is_over() {
        let mut over = Bytes { logs: 5, outputs: 1, inputs: 0 };
        let payloads = vec![
            (1, logs(3)),
            (2, Bytes { inputs: 9, ..Bytes::default() }),
            (3, logs(3)),
            (4, logs(3)),
            (5, Bytes { outputs: 7, logs: 1, inputs: 1 }),
            (6, Bytes { outputs: 7, ..Bytes::default() }),
        ];
        assert_eq!(too_much(&mut over, payloads), [1, 3, 5]);
        assert_eq!(over, Bytes::default());
    }

    #[test]
    fn what_frees_nothing_stays() {
        let mut over = logs(5);
        assert!(too_much(&mut over, vec![(1, Bytes::default()), (2, logs(0))]).is_empty());
        assert_eq!(over, logs(5));
    }
}
