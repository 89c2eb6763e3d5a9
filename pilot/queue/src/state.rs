//! What all requests of a running queue share: settings, store, files, and the requests that are held open.

use crate::config::Settings;
use crate::effects::EffectRunner;
use crate::engine::{self, Done, Engine};
use crate::files::Files;
use crate::lanes::Lanes;
use identity::VerifiedIdentity;
use pilot_api::{Claim, Heartbeat, HeartbeatReply, PilotState, RefusedPilot};
use pilot_core::event::{Ask, ByPilot};
use pilot_core::{Answer, Event, Refused, Switching, Terms};
use pilot_store::{SqliteStore, Store, StoreError};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Most payloads that one claim gives.
const MOST_LEASES: usize = 256;
/// Refused pilots that are remembered.
const MOST_REFUSED: usize = 100;
/// Most streams of events of one user, and of all.
const STREAMS: usize = 4;
const ALL_STREAMS: usize = 1000;

/// Everything that requests and upkeep share.
#[derive(Debug)]
pub struct Queue {
    /// What it goes by.
    pub settings: Settings,
    /// Its memory.
    pub store: SqliteStore,
    /// Its files.
    pub files: Files,
    /// Those who wait, and what is watched.
    pub effects: Arc<EffectRunner>,
    /// Turns for making keys and signing.
    pub keys: Lanes,
    /// Turns for large bodies, which lie in memory until they have come.
    pub bodies: Lanes,
    /// Turns for lists.
    pub lists: Lanes,
    /// Streams of events that are open.
    pub streams: Lanes,
    /// The writer.
    engine: Engine,
    /// Orders that their pilot was told at least once: no reason to answer a held heartbeat at once.
    told: Mutex<HashSet<Uuid>>,
    /// Pilots that were refused because they do not switch, the latest last.
    refused: Mutex<VecDeque<RefusedPilot>>,
    /// Cancelled when the queue is about to end: held requests are answered at once.
    pub closing: CancellationToken,
}

/// Why a request fails, whoever has to say so.
#[derive(Debug)]
pub enum Failure {
    /// It may not be done.
    Refused(Refused),
    /// The store cannot.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refused) => write!(f, "refused: {refused:?}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl Queue {
    /// Opens store and files, and watches what the store knows: what ran out meanwhile is due at once.
    ///
    /// # Errors
    /// When store or files cannot be used.
    pub async fn open(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let store =
            SqliteStore::open(&settings.store, settings.patience).await.map_err(anyhow::Error::msg)?;
        let files = Files::open(&settings.files, settings.max_log)?;
        let effects = Arc::new(EffectRunner::new(settings.silence()));
        let living = store.living().await?;
        let now = engine::now();
        living.leases.into_iter().for_each(|(id, at)| effects.leases.resume(id, at, now));
        living.pilots.into_iter().for_each(|(id, at)| effects.pilots.resume(id, at, now));
        let runner = effects.clone();
        let engine = Engine::start(store.clone(), terms(&settings), move |effects, history| {
            runner.carry_out(effects, history);
        });
        let (told, refused, closing) = (Mutex::default(), Mutex::default(), CancellationToken::new());
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let (keys, lists, bodies) = (Lanes::new(2, processors), Lanes::new(2, 8), Lanes::new(8, 64));
        let streams = Lanes::new(STREAMS, ALL_STREAMS);
        Ok(Arc::new(Self {
            settings,
            store,
            files,
            effects,
            keys,
            lists,
            bodies,
            streams,
            engine,
            told,
            refused,
            closing,
        }))
    }

    /// Returns at the deadline of a held request, or when the queue is about to end.
    pub async fn over(&self, deadline: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = self.closing.cancelled() => {}
        }
    }

    /// Has an event decided and stored.
    ///
    /// # Errors
    /// What refuses it, or why the store cannot.
    pub async fn decide(&self, event: Event) -> Result<Done, Failure> {
        let done = self.engine.decide(event).await?;
        match done.answer {
            Answer::Refused(refused) => Err(Failure::Refused(refused)),
            _ => Ok(done),
        }
    }

    /// What an event would come to now.
    ///
    /// # Errors
    /// As for [`Queue::decide`].
    pub async fn look(&self, event: &Event) -> Result<Answer, Failure> {
        match engine::look(&self.store, terms(&self.settings), event).await? {
            Answer::Refused(refused) => Err(Failure::Refused(refused)),
            answer => Ok(answer),
        }
    }

    /// A claim with fresh ids for what it may be given.
    pub fn ask(
        by: &ByPilot,
        claim: &Claim,
        switching: &Switching,
    ) -> Result<Event, openssl::error::ErrorStack> {
        let most = usize::try_from(claim.max).unwrap_or(MOST_LEASES).min(MOST_LEASES);
        let ids = (0..most).map(|_| Ok((secret_id()?, Uuid::now_v7()))).collect::<Result<_, _>>()?;
        let (by, claim, switching) = (by.clone(), claim.clone(), switching.clone());
        Ok(Event::Claim(Box::new(Ask { by, claim, switching, ids })))
    }

    /// The rules for a pilot with this identity.
    pub fn switching(&self, pilot: &VerifiedIdentity) -> Switching {
        let vo = pilot.voms.as_ref().map(|voms| voms.vo.clone());
        Switching { rules: self.settings.require_switch.clone(), vo }
    }

    /// Remembers for a while that a pilot was refused because it does not switch: it is in no list of pilots.
    pub fn note_refused(&self, pilot: RefusedPilot) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|known| (&known.host, &known.dn) != (&pilot.host, &pilot.dn));
        if refused.len() >= MOST_REFUSED {
            refused.pop_front();
        }
        refused.push_back(pilot);
    }

    /// Those that were refused since then, seconds since the epoch, the latest first.
    pub fn refused_since(&self, since: u64) -> Vec<RefusedPilot> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().rev().filter(|pilot| pilot.at >= since).cloned().collect()
    }

    /// Takes back a lease that was watched for its whole term without being renewed.
    ///
    /// # Errors
    /// When the store cannot; it stays due.
    pub async fn expire(&self, lease: Uuid) -> Result<(), Failure> {
        match self.effects.leases.due_since(lease, Instant::now()) {
            Some(renewed) => self.decide(Event::LeaseDue(lease, renewed)).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Marks a silent pilot as lost.
    ///
    /// # Errors
    /// When the store cannot; it stays due.
    pub async fn lose(&self, pilot: Uuid) -> Result<(), Failure> {
        match self.effects.pilots.due_since(pilot, Instant::now()) {
            Some(seen) => self.decide(Event::PilotDue(pilot, seen)).await.map(|_| ()),
            None => Ok(()),
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer holds something that the pilot has not been told: a reason not to wait longer.
    pub fn is_news(&self, answer: &HeartbeatReply, body: &Heartbeat) -> bool {
        let drain = answer.drain && body.state != PilotState::Draining;
        let told = self.told();
        drain || !answer.lost.is_empty() || answer.wishes.iter().any(|w| !told.contains(&w.id))
    }

    /// Notes which orders an answer tells, and forgets those that were acknowledged.
    pub fn note_told(&self, answer: &HeartbeatReply, acknowledged: &[Uuid]) {
        let mut told = self.told();
        told.retain(|id| !acknowledged.contains(id));
        told.extend(answer.wishes.iter().map(|w| w.id));
    }
}

fn terms(settings: &Settings) -> Terms {
    Terms { max_attempts: settings.max_attempts }
}

/// A lease id is a secret, unlike the time-ordered ids of everything else: nobody can guess it.
fn secret_id() -> Result<Uuid, openssl::error::ErrorStack> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
