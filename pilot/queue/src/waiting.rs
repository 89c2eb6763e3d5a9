//! Waiting without polling: bells for those who hold a request open, deadlines for those who must be heard of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::Notify;
use uuid::Uuid;

/// A poisoned lock only means that another request panicked; the maps below are sound after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One bell per id, as long as somebody listens.
#[derive(Debug, Default)]
pub struct Bells(Mutex<HashMap<Uuid, Weak<Notify>>>);

impl Bells {
    /// The bell of an id. Enable [`Notify::notified`] first, look at the store then: no ring gets lost in between.
    pub fn of(&self, id: Uuid) -> Arc<Notify> {
        let mut bells = lock(&self.0);
        if let Some(bell) = bells.get(&id).and_then(Weak::upgrade) {
            return bell;
        }
        // Sweep only when the map would have to grow: constant cost per call on average.
        if bells.len() == bells.capacity() {
            bells.retain(|_, bell| bell.strong_count() > 0);
        }
        let bell = Arc::new(Notify::new());
        bells.insert(id, Arc::downgrade(&bell));
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

/// When ids run out, on the monotonic clock: a jump of the wall clock ends no lease.
#[derive(Debug, Default)]
pub struct Deadlines(Mutex<HashMap<Uuid, Instant>>);

impl Deadlines {
    /// Sets or moves a deadline.
    pub fn set(&self, id: Uuid, at: Instant) {
        lock(&self.0).insert(id, at);
    }

    /// Forgets an id.
    pub fn remove(&self, id: Uuid) {
        lock(&self.0).remove(&id);
    }

    /// Whether the deadline of this id has passed; `false` for an unknown id.
    pub fn is_due(&self, id: Uuid, now: Instant) -> bool {
        lock(&self.0).get(&id).is_some_and(|at| *at <= now)
    }

    /// Ids whose deadline has passed.
    pub fn due(&self, now: Instant) -> Vec<Uuid> {
        lock(&self.0).iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_moved_deadline_is_not_due() {
        let (clock, id, now) = (Deadlines::default(), Uuid::now_v7(), Instant::now());
        clock.set(id, now);
        assert_eq!(clock.due(now), [id]);
        clock.set(id, now + Duration::from_secs(1));
        assert!(!clock.is_due(id, now) && clock.due(now).is_empty());
        assert!(clock.is_due(id, now + Duration::from_secs(2)));
        clock.remove(id);
        assert!(!clock.is_due(id, now + Duration::from_secs(2)));
    }

    #[tokio::test]
    async fn listeners_are_woken_and_forgotten() {
        let (bells, id) = (Bells::default(), Uuid::now_v7());
        let bell = bells.of(id);
        {
            let mut heard = std::pin::pin!(bell.notified());
            heard.as_mut().enable();
            bells.ring(Uuid::now_v7());
            bells.ring(id);
            tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap();
        }
        drop(bell);
        (0..100).for_each(|_| drop(bells.of(Uuid::now_v7())));
        assert!(lock(&bells.0).len() < 50, "dead bells are swept");
    }
}
