//! Fair queues: costly work is done for a few at once, and nobody waits behind more than a few of anybody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A lane for each user, and one bridge that all lanes lead to. Both are first come, first served.
#[derive(Debug)]
pub struct Lanes {
    each: usize,
    all: Arc<Semaphore>,
    lanes: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to work, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _all: Option<OwnedSemaphorePermit>,
    _own: Option<OwnedSemaphorePermit>,
}

/// More lanes than this are looked through for those that nobody is in.
const MANY: usize = 1000;

impl Lanes {
    /// `each` user has so many turns or claims on the next ones, `all` together so many turns.
    pub fn new(each: usize, all: usize) -> Self {
        Self { each, all: Arc::new(Semaphore::new(all)), lanes: Mutex::default() }
    }

    fn lane(&self, user: &str) -> Arc<Semaphore> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() > MANY {
            // A lane that is being waited for has a second holder.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.available_permits() < self.each);
        }
        lanes.entry(user.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
    }

    /// Waits for a turn of somebody who stands for many, such as the pilots of one robot: in no lane of its own.
    pub async fn turn_of_many(&self) -> Turn {
        Turn { _all: self.all.clone().acquire_owned().await.ok(), _own: None }
    }

    /// A turn, if there is one at once.
    pub fn try_turn(&self, user: &str) -> Option<Turn> {
        let own = self.lane(user).try_acquire_owned().ok()?;
        let all = self.all.clone().try_acquire_owned().ok()?;
        Some(Turn { _all: Some(all), _own: Some(own) })
    }

    /// Waits for a turn.
    pub async fn turn(&self, user: &str) -> Turn {
        // Neither semaphore is ever closed.
        let own = self.lane(user).acquire_owned().await.ok();
        let all = self.all.clone().acquire_owned().await.ok();
        Turn { _all: all, _own: own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_behind_all_of_anothers() {
        let lanes = Arc::new(Lanes::new(2, 3));
        let first = lanes.turn("a").await;
        let second = lanes.turn("a").await;
        let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..100 {
            let (lanes, sender) = (lanes.clone(), sender.clone());
            tokio::spawn(async move {
                let turn = lanes.turn("a").await;
                sender.send(turn).ok();
            });
        }
        tokio::task::yield_now().await;
        let other = lanes.turn("b").await;
        assert!(done.try_recv().is_err(), "a has two turns already");
        drop((first, second, other));
        for _ in 0..100 {
            drop(done.recv().await);
        }
    }
}
