//! Wakes requests that are held open when something happens to them, and keeps the deadlines of leases and pilots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use uuid::Uuid;

/// A poisoned lock only means that another request panicked; the maps below are sound after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One notification per id, as long as somebody waits for it.
#[derive(Debug, Default)]
pub struct Waiters(Mutex<HashMap<Uuid, Weak<Notify>>>);

impl Waiters {
    /// The bell of an id. Enable [`Notify::notified`] first, look at the store then: no ring gets lost in between.
    pub fn of(&self, id: Uuid) -> Arc<Notify> {
        let mut waiters = lock(&self.0);
        if let Some(bell) = waiters.get(&id).and_then(Weak::upgrade) {
            return bell;
        }
        // Sweep only when the map would have to grow: constant cost per call on average.
        if waiters.len() == waiters.capacity() {
            waiters.retain(|_, bell| bell.strong_count() > 0);
        }
        let bell = Arc::new(Notify::new());
        waiters.insert(id, Arc::downgrade(&bell));
        bell
    }

    /// Wakes everybody who listens to this id.
    pub fn ring(&self, id: Uuid) {
        let bell = lock(&self.0).get(&id).and_then(Weak::upgrade);
        if let Some(bell) = bell {
            bell.notify_waiters();
        }
    }
}

/// What is watched: an id, the last renewal that was stored for it, and when a whole term has passed since that was seen.
///
/// Terms run on the monotonic clock, and only tell when to look: whether somebody is lost is decided in the transaction, by
/// whether the stored renewal is still the one that was watched. So no clock that jumps, and no clock that differs from
/// another server's, ends a lease that is being renewed.
#[derive(Debug)]
pub struct Watch {
    term: Duration,
    watched: Mutex<HashMap<Uuid, (u64, Instant)>>,
}

impl Watch {
    /// A watch whose ids run out after `term` without another renewal.
    pub fn new(term: Duration) -> Self {
        Self { term, watched: Mutex::default() }
    }

    /// A renewal was stored, or seen in the store.
    pub fn set(&self, id: Uuid, renewed: u64) {
        let due = Instant::now() + self.term;
        let mut watched = lock(&self.watched);
        // Events of one commit may be told in any order; the newest renewal counts.
        if watched.get(&id).is_none_or(|(known, _)| *known < renewed) {
            watched.insert(id, (renewed, due));
        }
    }

    /// After a start: what was renewed long ago is due at once. A clock that was set back grants one term at most.
    pub fn resume(&self, id: Uuid, renewed: u64, now: u64) {
        let silent = Duration::from_millis(now.saturating_sub(renewed));
        lock(&self.watched).insert(id, (renewed, Instant::now() + self.term.saturating_sub(silent)));
    }

    /// Forgets an id.
    pub fn remove(&self, id: Uuid) {
        lock(&self.watched).remove(&id);
    }

    /// The renewal that was watched for a whole term, if it was.
    pub fn due_since(&self, id: Uuid, now: Instant) -> Option<u64> {
        lock(&self.watched).get(&id).filter(|(_, due)| *due <= now).map(|(renewed, _)| *renewed)
    }

    /// Ids whose term has passed.
    pub fn due(&self, now: Instant) -> Vec<Uuid> {
        lock(&self.watched).iter().filter(|(_, (_, due))| *due <= now).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_id_is_not_due() {
        let (watch, id) = (Watch::new(Duration::from_secs(10)), Uuid::now_v7());
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        watch.resume(id, 1_000, 60_000);
        assert_eq!((watch.due(after(0)), watch.due_since(id, after(0))), (vec![id], Some(1_000)));
        watch.set(id, 60_000);
        assert_eq!((watch.due(after(5)), watch.due_since(id, after(11))), (vec![], Some(60_000)));
        watch.set(id, 2_000);
        assert_eq!(watch.due_since(id, after(11)), Some(60_000), "an older renewal tells nothing");
        watch.resume(id, 90_000, 60_000);
        assert_eq!(watch.due_since(id, after(9)), None, "a clock that was set back grants one term");
        watch.remove(id);
        assert_eq!(watch.due_since(id, after(60)), None);
    }

    #[tokio::test]
    async fn listeners_are_woken_and_forgotten() {
        let (waiters, id) = (Waiters::default(), Uuid::now_v7());
        let bell = waiters.of(id);
        {
            let mut heard = std::pin::pin!(bell.notified());
            heard.as_mut().enable();
            waiters.ring(Uuid::now_v7());
            waiters.ring(id);
            tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap();
        }
        drop(bell);
        (0..100).for_each(|_| drop(waiters.of(Uuid::now_v7())));
        assert!(lock(&waiters.0).len() < 50, "dead waiters are swept");
    }
}
