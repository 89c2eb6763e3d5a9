//! The life of a pilot: register, claim while there is room, renew, drain, say good-bye.

use super::claims::Claims;
use super::heart::Heart;
use super::lease::{GRACE, StopReason};
use super::registry::Whole;
use super::{Agent, attempt};
use pilot_api::{Bye, Registered, Registration};
use pilot_client::{ClientError, Pauses};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// Longest claim.
const CLAIM_WAIT: Duration = Duration::from_secs(30);
/// How long draining may take beyond the grace of the payloads.
const FAREWELL: Duration = Duration::from_secs(20);
/// How long the good-bye may take; without it the leases run out by themselves.
const BYE: Duration = Duration::from_secs(5);
/// Pause before looking at the clock again when there is no room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Exit code: the queue is out of reach.
const UNREACHABLE: u8 = 3;
/// Exit code: this node fails one payload after the other.
const UNFIT: u8 = 4;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Payloads at the same time.
    pub slots: u32,
    /// Longest time without a payload.
    pub max_idle: Duration,
    /// Longest time without the queue and without a payload.
    pub give_up: Duration,
    /// When the batch slot ends.
    pub end: Option<Instant>,
    /// Payloads that the node may fail in a row.
    pub max_failures: u32,
    /// Its id, where somebody else has chosen it.
    pub pilot: Option<uuid::Uuid>,
}

impl Limits {
    /// Seconds left in the batch slot.
    fn time_left(self) -> Option<u64> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()).as_secs())
    }

    /// What the pilot has for its payloads.
    fn whole(self, agent: &Agent) -> Whole {
        let (slots, cores) = (self.slots, agent.node.cores.max(self.slots));
        Whole { slots, cores, memory: agent.node.memory }
    }
}

/// Why a pilot ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Idle,
    Time,
    Signal,
    Drained,
    Unreachable,
    Refused,
    Unfit,
    /// What the probe found.
    Probe(String),
}

impl End {
    fn reason(&self) -> String {
        match self {
            Self::Probe(why) => format!("this node cannot run payloads: {why}"),
            other => other.word().to_owned(),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Idle => "idle for too long",
            Self::Time => "the batch slot is over",
            Self::Signal => "ended by a signal",
            Self::Drained => "drained by the queue",
            Self::Unreachable => "the queue is out of reach",
            Self::Refused => "the queue refuses this pilot",
            Self::Unfit => "this node fails one payload after the other",
            Self::Probe(_) => "this node cannot run payloads",
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Idle | Self::Time | Self::Signal | Self::Drained => 0,
            Self::Unreachable => UNREACHABLE,
            Self::Refused => 1,
            Self::Unfit | Self::Probe(_) => UNFIT,
        }
    }
}

/// Runs the pilot to its end; returns the exit code.
pub async fn run(agent: Arc<Agent>, limits: Limits) -> u8 {
    let ending = Arc::new(Ending::default());
    if let Err(e) = ending.on_signals() {
        tracing::error!(error = %e, "cannot watch for signals");
        return 2;
    }
    let mut end = life(&agent, limits, &ending).await;
    // A queue that forgot us, after a long cut, gets a new pilot.
    while end == Err(Forgotten) {
        tracing::warn!("the queue does not know this pilot any more: registering again");
        end = life(&agent, limits, &ending).await;
    }
    let end = end.unwrap_or(End::Refused);
    tracing::info!(reason = end.reason().as_str(), "pilot ended");
    end.exit_code()
}

/// The queue does not know the pilot.
#[derive(Debug, PartialEq, Eq)]
struct Forgotten;

/// A wish to end, from outside.
#[derive(Default)]
pub struct Ending {
    signal: AtomicBool,
    /// The queue wants it to take no more.
    pub drain: AtomicBool,
    /// The queue does not know it.
    pub forgotten: AtomicBool,
    /// The queue says that this is no pilot of its.
    pub refused: AtomicBool,
    changed: Notify,
}

impl Ending {
    /// Batch systems announce the end of a job with one of these. What was ignored at the start stays ignored (nohup(1)).
    fn on_signals(self: &Arc<Self>) -> std::io::Result<()> {
        let ignored = pilot_wire::signals::ignored(&std::fs::read("/proc/self/status")?);
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::hangup(),
        ];
        for kind in kinds.into_iter().filter(|kind| !ignored.contains(kind.as_raw_value())) {
            let mut stream = signal(kind)?;
            let ending = Arc::clone(self);
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    tracing::info!(signal = kind.as_raw_value(), "signal received: draining");
                    ending.set(&ending.signal);
                }
            });
        }
        Ok(())
    }

    /// Sets one of its flags.
    pub fn set(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Whether the pilot takes no more work.
    pub fn drains(&self) -> bool {
        self.signal.load(Ordering::SeqCst) || self.drain.load(Ordering::SeqCst)
    }

    async fn signalled(&self) {
        while !self.signal.load(Ordering::SeqCst) {
            self.changed.notified().await;
        }
    }

    fn wanted(&self) -> Option<Result<End, Forgotten>> {
        if self.signal.load(Ordering::SeqCst) {
            Some(Ok(End::Signal))
        } else if self.forgotten.swap(false, Ordering::SeqCst) {
            Some(Err(Forgotten))
        } else if self.refused.load(Ordering::SeqCst) {
            Some(Ok(End::Refused))
        } else if self.drain.load(Ordering::SeqCst) {
            Some(Ok(End::Drained))
        } else {
            None
        }
    }
}

async fn life(agent: &Arc<Agent>, limits: Limits, ending: &Arc<Ending>) -> Result<End, Forgotten> {
    // Claim and heartbeat may both have met a queue that forgot us; one new registration answers both.
    ending.forgotten.store(false, Ordering::SeqCst);
    let terms = tokio::select! {
        terms = register(agent, limits) => match terms {
            Ok(terms) => terms,
            Err(end) => return Ok(end),
        },
        () = ending.signalled() => return Ok(End::Signal),
    };
    let opener = || agent.ports.as_ref().and_then(|ports| ports.opener.as_ref());
    if let Some(opener) = opener() {
        opener.registered(terms.pilot);
    }
    tracing::info!(pilot = %terms.pilot, host = agent.node.host, slots = limits.slots, lease_ms = terms.lease_ms, "pilot registered");
    let heart = Heart::new(Arc::clone(agent), &terms, Arc::clone(ending));
    let heart = tokio::spawn(async move { heart.beat().await });
    let end = match tried(agent, ending).await {
        None => work(agent, limits, &terms, ending).await,
        Some(end) => end,
    };
    leave(agent, terms.pilot, &end, ending).await;
    if let Some(opener) = opener() {
        opener.finish().await;
    }
    heart.abort();
    farewell(agent, terms.pilot, &end).await;
    end
}

/// Why this pilot never takes a payload, if there is a reason: the node failed its probe, or somebody wants an end meanwhile.
async fn tried(agent: &Agent, ending: &Ending) -> Option<Result<End, Forgotten>> {
    if agent.probed.load(Ordering::SeqCst) {
        return None;
    }
    let found = tokio::select! {
        found = super::probe::probe(agent) => found,
        () = ending.signalled() => return Some(Ok(End::Signal)),
    };
    if let Err(e) = found {
        let why = identity::one_line(&format!("{e:#}"));
        tracing::error!(reason = why, "this node cannot run payloads");
        return Some(Ok(End::Probe(why)));
    }
    agent.probed.store(true, Ordering::SeqCst);
    agent.registry.news.notify_one();
    None
}

async fn register(agent: &Agent, limits: Limits) -> Result<Registered, End> {
    let registration = Registration {
        id: Some(limits.pilot.unwrap_or_else(uuid::Uuid::now_v7)),
        host: agent.node.host.clone(),
        slots: limits.slots,
        cores: agent.node.cores.max(limits.slots),
        memory: agent.node.memory,
        disk: super::scratch::free(&agent.scratch),
        switches_identity: matches!(agent.switch, super::Switch::Glexec(_)),
        time_left: limits.time_left(),
    };
    let mut outage = Outage::default();
    loop {
        match agent.client.register(&registration).await {
            Ok(terms) => return Ok(terms),
            // Nothing runs yet, and these are mistakes of whoever started this pilot: said at once.
            Err(e) if !e.is_transient() => {
                tracing::error!(error = %e, "giving up");
                return Err(if e.status().is_some() { End::Refused } else { End::Unreachable });
            }
            Err(e) => outage.bear(&e, limits.give_up).await?,
        }
    }
}

/// Claims while there is room, until something ends the pilot.
async fn work(
    agent: &Arc<Agent>,
    limits: Limits,
    terms: &Registered,
    ending: &Ending,
) -> Result<End, Forgotten> {
    let mut outage = Outage::default();
    let mut idle_since = Instant::now();
    let mut claims = Claims::new(limits.whole(agent), terms);
    loop {
        if let Some(end) = ending.wanted() {
            return end;
        }
        let used = agent.registry.used();
        let idle_from = agent.registry.idle_since().map(Instant::from_std);
        let idle = idle_from.map_or(idle_since, |end| end.max(idle_since)).elapsed();
        let (failures, rest) = agent.registry.failures();
        if let Some(end) = own_end(limits, used.leases > 0, idle, failures) {
            return Ok(end);
        }
        // After a failure of the node, other nodes get the next payload.
        let rest = rest.saturating_sub(agent.registry.since_failure());
        let left = limits.time_left();
        let ahead = if failures > 0 { 0 } else { claims.ahead(&agent.registry) };
        let claim = claims.next(used, ahead, left).filter(|_| rest.is_zero() && left != Some(0));
        let Some((claim, hold)) = claim else {
            let limited = !rest.is_zero() || limits.end.is_some();
            let look_again = if rest.is_zero() { LOOK_AGAIN } else { rest };
            tokio::select! {
                () = agent.registry.ended.notified() => (),
                () = ending.changed.notified() => (),
                () = sleep(look_again), if limited => (),
            }
            continue;
        };
        let claim = claims.with_requests(claim, &agent.keys).await;
        let wait = CLAIM_WAIT.min(limits.max_idle.saturating_sub(idle)).as_secs().max(1);
        let claimed = tokio::select! {
            claimed = agent.client.claim(terms.pilot, &claim, if hold { wait } else { 0 }) => claimed,
            () = ending.changed.notified() => continue,
        };
        match claimed {
            Ok(claimed) => {
                outage = Outage::default();
                for (lease, proxy) in claims.answered(claimed.leases) {
                    let stops = agent.registry.add(&lease);
                    let received = attempt::Received { lease, proxy, stops };
                    tokio::spawn(attempt::run(Arc::clone(agent), received, claims.terms()));
                }
            }
            Err(e) if e.is_forgotten() => return Err(Forgotten),
            Err(e) if e.is_no_pilot() => {
                tracing::error!(error = %e, "the queue takes no more from this pilot");
                return Ok(End::Refused);
            }
            Err(e) => {
                let busy = agent.registry.used().leases > 0;
                let patience = if busy { Duration::MAX } else { limits.give_up };
                tokio::select! {
                    borne = outage.bear(&e, patience) => if let Err(end) = borne { return Ok(end) },
                    () = ending.changed.notified() => (),
                }
                if busy {
                    // Idle without the queue counts from the end of the last payload, too.
                    outage.since = None;
                }
                // The queue could not say whether there is work: that is no idle time.
                idle_since = Instant::now();
            }
        }
    }
}

/// Whether the pilot has a reason of its own to end.
fn own_end(limits: Limits, busy: bool, idle: Duration, failures: u32) -> Option<End> {
    if failures >= limits.max_failures {
        return Some(End::Unfit);
    }
    if busy {
        return None;
    }
    if limits.time_left() == Some(0) {
        return Some(End::Time);
    }
    (idle >= limits.max_idle).then_some(End::Idle)
}

/// A time without the queue.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    failures: u32,
    pauses: Pauses,
}

impl Outage {
    /// Waits before the next attempt; fails when it has lasted too long.
    async fn bear(&mut self, error: &ClientError, patience: Duration) -> Result<(), End> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= patience {
            tracing::error!(error = %error, seconds = since.elapsed().as_secs(), "giving up on the queue");
            return Err(End::Unreachable);
        }
        if self.failures.is_multiple_of(10) {
            tracing::warn!(error = %error, "trying again");
        }
        self.failures = self.failures.saturating_add(1);
        sleep(self.pauses.after_failure()).await;
        Ok(())
    }
}

/// Waits for what still runs, or ends it. A drained pilot finishes what it has unless a signal comes as
/// well; so does one that ends for a reason that says nothing about what already runs.
async fn leave(agent: &Agent, pilot: Uuid, end: &Result<End, Forgotten>, ending: &Ending) {
    let mut give_up = None;
    // What has not begun is for others, also while what runs goes on.
    agent.registry.recall_waiting();
    while agent.registry.used().leases > 0 {
        let signalled = ending.signal.load(Ordering::SeqCst);
        let reason = match end {
            Err(Forgotten) => Some(StopReason::Lost),
            Ok(End::Drained | End::Refused | End::Unfit | End::Probe(_)) if !signalled => None,
            Ok(_) => Some(StopReason::Drain),
        };
        if let Some(reason) = reason {
            agent.registry.stop_all(reason);
            let give_up = *give_up.get_or_insert_with(|| Instant::now() + GRACE + FAREWELL);
            if Instant::now() > give_up {
                return tracing::error!(%pilot, leases = agent.registry.used().leases, "payloads did not end in time");
            }
        }
        timeout(Duration::from_secs(1), agent.registry.ended.notified()).await.ok();
    }
}

/// Hands back the leases that were not reported.
async fn farewell(agent: &Agent, pilot: Uuid, end: &Result<End, Forgotten>) {
    let Ok(end) = end else { return };
    let bye = Bye { reason: end.reason(), failed: matches!(end, End::Unfit | End::Probe(_)) };
    if !matches!(timeout(BYE, agent.client.bye(pilot, &bye)).await, Ok(Ok(()))) {
        tracing::warn!(%pilot, "could not say good-bye: leases still held run out by themselves");
    }
}
