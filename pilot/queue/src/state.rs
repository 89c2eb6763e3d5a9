//! The running queue: store, files, bells and clocks, and the few operations that several requests share.

use super::config::Settings;
use super::files::Files;
use super::problem;
use super::store::leases::{self, End, OpenLease, Room};
use super::store::payloads::{self, Cause};
use super::store::{Outbox, Store, now, pilots};
use super::waiting::{Bells, Deadlines};
use crate::problem::Refusal;
use pilot_api::{AttemptResult, Claim, Lease, Outcome, Sync, Synced};
use pilot_core::rules::{self, Effect, PayloadEvent, PilotEvent};
use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Everything that requests and upkeep share.
#[derive(Debug)]
pub struct Queue {
    /// What it goes by.
    pub settings: Settings,
    /// Its memory.
    pub store: Store,
    /// Its files.
    pub files: Files,
    /// Rings when there is work to claim.
    pub work: Notify,
    /// Rings when a payload has become final and its owner's URL wants to know.
    pub notices: Notify,
    /// By payload: something changed.
    pub payload_bells: Bells,
    /// By pilot: a wish, a lost lease, or room.
    pub pilot_bells: Bells,
    /// By attempt: its log grew.
    pub log_bells: Bells,
    /// When leases are lost.
    pub lease_clock: Deadlines,
    /// When pilots are lost.
    pub pilot_clock: Deadlines,
    /// Wishes that their pilot was told at least once: no reason to answer a held sync at once.
    told: Mutex<HashSet<Uuid>>,
    /// Cancelled when the queue is about to end: held requests are answered at once.
    pub closing: CancellationToken,
}

/// Runs a change to its end even when the client goes away meanwhile.
pub async fn detached<T, F>(change: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Refusal>> + Send + 'static,
{
    tokio::spawn(change).await.map_err(|e| problem::internal("a task", &e))?
}

/// Runs something that computes or waits for a disk.
pub async fn blocking<T, F>(work: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Refusal> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|e| problem::internal("a task", &e))?
}

impl Queue {
    /// Opens store and files, and starts the clocks of what the store knows: what ran out meanwhile is due at once.
    pub async fn open(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let store = Store::open(&settings.store, settings.patience).await?;
        let files = Files::open(&settings.files, settings.max_log)?;
        let queue = Self {
            settings,
            store,
            files,
            work: Notify::new(),
            notices: Notify::new(),
            payload_bells: Bells::default(),
            pilot_bells: Bells::default(),
            log_bells: Bells::default(),
            lease_clock: Deadlines::default(),
            pilot_clock: Deadlines::default(),
            told: Mutex::default(),
            closing: CancellationToken::new(),
        };
        let mut conn = queue.store.read().await?;
        for open in leases::open(&mut conn, None).await? {
            queue.lease_clock.set(open.lease, queue.remaining(open.renewed));
        }
        for (pilot, _, seen) in pilots::live(&mut conn).await? {
            queue.pilot_clock.set(pilot, queue.remaining(seen));
        }
        drop(conn);
        Ok(Arc::new(queue))
    }

    /// Translates a time in the store to the monotonic clock; a clock that was set back grants one full term at most.
    fn remaining(&self, since: u64) -> Instant {
        let silent = Duration::from_secs(now().saturating_sub(since));
        Instant::now() + self.settings.silence().saturating_sub(silent)
    }

    /// Returns at the deadline of a held request, or when the queue is about to end.
    pub async fn over(&self, deadline: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = self.closing.cancelled() => {}
        }
    }

    fn term(&self) -> Instant {
        Instant::now() + self.settings.silence()
    }

    /// Does what was to happen after a commit: log lines, clocks, bells.
    pub fn publish(&self, outbox: Outbox) {
        for line in &outbox.lines {
            let attempt = line.attempt.map(tracing::field::display);
            let (payload, state) = (line.payload, line.state);
            tracing::info!(%payload, attempt, actor = line.actor, %state, cause = line.cause, "payload");
        }
        outbox.opened.iter().for_each(|lease| self.lease_clock.set(*lease, self.term()));
        outbox.closed.iter().for_each(|lease| self.lease_clock.remove(*lease));
        outbox.payloads.iter().for_each(|id| self.payload_bells.ring(*id));
        outbox.pilots.iter().for_each(|id| self.pilot_bells.ring(*id));
        if outbox.work {
            self.work.notify_waiters();
        }
        if outbox.notices {
            self.notices.notify_one();
        }
    }

    /// A user's word on one of their payloads: hold, release or cancel.
    pub async fn user_event(
        &self,
        id: Uuid,
        owner: &str,
        event: PayloadEvent,
        delegation: Option<Uuid>,
    ) -> Result<(), Refusal> {
        let mut tx = self.store.begin().await?;
        payloads::check_owner(tx.conn(), id, owner).await?;
        if let Some(delegation) = delegation {
            super::store::delegations::check_usable(tx.conn(), delegation, owner).await?;
            payloads::set_delegation(&mut tx, id, delegation).await?;
        }
        let known = payloads::known(tx.conn(), id).await?;
        let step = rules::payload(&known.facts, event, self.settings.max_attempts)?;
        let (text, reason) = match event {
            PayloadEvent::Cancel => ("cancel wanted", Some("cancelled by its owner")),
            PayloadEvent::Hold => ("held by its owner", Some("held by its owner")),
            _ => ("released by its owner", None),
        };
        payloads::apply(&mut tx, &known, &step, reason, Cause { actor: owner, text, attempt: None }).await?;
        if step.effects.contains(&Effect::AskCancel) {
            leases::ask_cancel(&mut tx, id).await?;
        }
        self.publish(tx.commit().await?);
        Ok(())
    }

    /// One try to claim, as one change of the store.
    pub async fn claim(&self, pilot: Uuid, dn: &str, claim: &Claim) -> Result<Vec<Lease>, Refusal> {
        let mut tx = self.store.begin().await?;
        let found = pilots::find(tx.conn(), pilot, dn).await?;
        let state = rules::pilot(found.state, PilotEvent::Claimed(false))?;
        let takes = !found.drain && state != pilot_api::PilotState::Draining;
        let given = match takes {
            true => leases::claim(&mut tx, &found, Room::of(claim, &found)).await?,
            false => Vec::new(),
        };
        let holds = !given.is_empty() || found.used_slots > 0;
        pilots::step(&mut tx, &found, PilotEvent::Claimed(holds), "claims").await?;
        self.publish(tx.commit().await?);
        self.pilot_clock.set(pilot, self.term());
        Ok(given)
    }

    /// One heartbeat.
    pub async fn sync(&self, id: Uuid, dn: &str, body: &Sync) -> Result<Synced, Refusal> {
        let mut tx = self.store.begin().await?;
        let pilot = pilots::find(tx.conn(), id, dn).await?;
        pilots::step(&mut tx, &pilot, PilotEvent::Reported(body.state), "reported").await?;
        let mut lost = Vec::new();
        for update in &body.leases {
            match leases::find(tx.conn(), update.lease).await? {
                Some(open) if open.pilot == id => {
                    leases::renew(&mut tx, &open, update.state, dn).await?;
                    // Before the commit, so that no expiry can come in between: it needs the writer, too.
                    self.lease_clock.set(open.lease, self.term());
                }
                // The result overtook the heartbeat that still names its lease.
                _ if leases::is_delivered(tx.conn(), id, update.lease).await? => {}
                _ => lost.push(update.lease),
            }
        }
        for wish in &body.acked {
            leases::acknowledge(&mut tx, id, *wish).await?;
            self.told().remove(wish);
        }
        let wishes = leases::wishes(tx.conn(), id).await?;
        self.publish(tx.commit().await?);
        self.pilot_clock.set(id, self.term());
        Ok(Synced { lost, wishes, drain: pilot.drain })
    }

    /// What a held sync would answer now, without renewing anything.
    pub async fn peek(&self, id: Uuid, dn: &str, body: &Sync) -> Result<Synced, Refusal> {
        let mut conn = self.store.read().await?;
        let pilot = pilots::find(&mut conn, id, dn).await?;
        let open: HashSet<_> = leases::open(&mut conn, Some(id)).await?.iter().map(|l| l.lease).collect();
        let mut lost = Vec::new();
        for lease in body.leases.iter().map(|u| u.lease).filter(|l| !open.contains(l)) {
            if !leases::is_delivered(&mut conn, id, lease).await? {
                lost.push(lease);
            }
        }
        Ok(Synced { lost, wishes: leases::wishes(&mut conn, id).await?, drain: pilot.drain })
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer holds something that the pilot has not been told: a reason not to wait longer.
    pub fn is_news(&self, answer: &Synced, body: &Sync) -> bool {
        let drain = answer.drain && body.state != pilot_api::PilotState::Draining;
        let told = self.told();
        drain || !answer.lost.is_empty() || answer.wishes.iter().any(|w| !told.contains(&w.id))
    }

    /// Notes which wishes an answer tells.
    pub fn note_told(&self, answer: &Synced) {
        self.told().extend(answer.wishes.iter().map(|w| w.id));
    }

    /// A pilot's final word on an attempt; the same word again is fine, a word after the lease is not.
    pub async fn result(&self, attempt: Uuid, dn: &str, result: &AttemptResult) -> Result<(), Refusal> {
        let mut tx = self.store.begin().await?;
        let row = leases::attempt(tx.conn(), attempt).await?.filter(|a| a.dn == dn);
        let row = row.ok_or_else(|| problem::unknown("attempt"))?;
        if row.lease != result.lease {
            return Err(problem::superseded());
        }
        match leases::find(tx.conn(), result.lease).await? {
            Some(open) => {
                let end = self.ending(result.outcome, dn, "");
                leases::end(&mut tx, &open, End { report: Some(&result.report), ..end }).await?;
                self.publish(tx.commit().await?);
                Ok(())
            }
            None if row.reported => Ok(()),
            None => {
                tracing::info!(%attempt, actor = dn, outcome = %result.outcome, "late report refused");
                Err(problem::superseded())
            }
        }
    }

    fn ending<'a>(&self, outcome: Outcome, actor: &'a str, why: &'a str) -> End<'a> {
        End { outcome, report: None, actor, why, max_attempts: self.settings.max_attempts }
    }

    /// A pilot leaves: what it still holds goes back at once.
    pub async fn bye(&self, id: Uuid, dn: &str, reason: &str) -> Result<(), Refusal> {
        let mut tx = self.store.begin().await?;
        let pilot = pilots::find(tx.conn(), id, dn).await?;
        let why = format!("the pilot left: {reason}");
        for open in leases::open(tx.conn(), Some(id)).await? {
            leases::end(&mut tx, &open, self.ending(Outcome::Lost, dn, &why)).await?;
        }
        pilots::step(&mut tx, &pilot, PilotEvent::Left, reason).await?;
        self.publish(tx.commit().await?);
        self.pilot_clock.remove(id);
        Ok(())
    }

    /// Takes back a lease whose time is over; the clock is asked again now that nobody can renew it.
    pub async fn expire(&self, lease: Uuid) -> Result<(), Refusal> {
        let mut tx = self.store.begin().await?;
        if !self.lease_clock.is_due(lease, Instant::now()) {
            return Ok(());
        }
        if let Some(open) = leases::find(tx.conn(), lease).await? {
            let why = "the lease ran out without a word from the pilot";
            leases::end(&mut tx, &open, self.ending(Outcome::Lost, "queue", why)).await?;
            self.publish(tx.commit().await?);
        }
        self.lease_clock.remove(lease);
        Ok(())
    }

    /// Marks a silent pilot as lost.
    pub async fn lose(&self, pilot: Uuid) -> Result<(), Refusal> {
        let mut tx = self.store.begin().await?;
        if !self.pilot_clock.is_due(pilot, Instant::now()) {
            return Ok(());
        }
        let dn = pilots::live(tx.conn()).await?.into_iter().find(|p| p.0 == pilot).map(|p| p.1);
        if let Some(dn) = dn {
            let found = pilots::find(tx.conn(), pilot, &dn).await?;
            pilots::step(&mut tx, &found, PilotEvent::Silent, "not heard of").await?;
            self.publish(tx.commit().await?);
        }
        self.pilot_clock.remove(pilot);
        Ok(())
    }

    /// The lease, if it is in force, for this attempt, and of a pilot with this DN.
    pub async fn entitled(&self, attempt: Uuid, lease: Uuid, dn: &str) -> Result<OpenLease, Refusal> {
        let mut conn = self.store.read().await?;
        let row = leases::attempt(&mut conn, attempt).await?.filter(|a| a.dn == dn);
        let row = row.ok_or_else(|| problem::unknown("attempt"))?;
        let open = leases::find(&mut conn, lease).await?;
        open.filter(|_| row.lease == lease).ok_or_else(problem::superseded)
    }
}
