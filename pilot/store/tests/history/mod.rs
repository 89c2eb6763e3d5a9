//! Random histories of a queue, and what must hold in all of them.

use pilot_api::*;
use pilot_core::change::NewDelegation;
use pilot_core::event::{Ask, ByOwner, ByPilot, Holder, Register, Sign, Submit};
use pilot_core::{Answer, Change, Decision, Effect, Event, Refused, Switching, View, decide};
use pilot_store::{Filter, Store, Transaction};
use std::collections::BTreeMap;
use std::future::Future;
use uuid::Uuid;

const OWNERS: [&str; 2] = ["/CN=Alice", "/CN=Bob"];
const DN: &str = "/CN=Pilot";
const HOSTS: [&str; 2] = ["wn1", "wn2"];

/// One thing that happens. Numbers choose among what there is, so that any part of a history is a history, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Submit { owner: u8, elements: u8, cores: u8, walltime: bool, short_proxy: bool },
    SubmitAgain(u16),
    Register(u8),
    Claim { pilot: u8, max: u8, again: bool },
    Renew(u8),
    Result { lease: u16, outcome: u8, returned: bool, twice: bool },
    LateResult(u16),
    Cancel(u16),
    Hold(u16),
    Release(u16),
    LeaseDue { lease: u16, stale: bool },
    PilotDue(u8),
    Leave(u8),
    Drain(u8),
    Pass(u16),
    Commit,
    Crash,
    Restart,
}

/// A history from a seed.
pub fn random(seed: u64, length: usize) -> Vec<Op> {
    let mut dice = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| op(&mut dice)).collect()
}

fn op(dice: &mut fastrand::Rng) -> Op {
    match dice.u32(0..1000) {
        0..120 => Op::Submit {
            owner: dice.u8(0..2),
            elements: if dice.u8(0..20) == 0 { dice.u8(2..9) } else { 1 },
            cores: dice.u8(1..4),
            walltime: dice.bool(),
            short_proxy: dice.u8(0..30) == 0,
        },
        120..130 => Op::SubmitAgain(dice.u16(..)),
        130..150 => Op::Register(dice.u8(0..2)),
        150..370 => Op::Claim { pilot: dice.u8(..), max: dice.u8(1..4), again: dice.u8(0..10) == 0 },
        370..520 => Op::Renew(dice.u8(..)),
        520..740 => Op::Result {
            lease: dice.u16(..),
            outcome: dice.u8(0..5),
            returned: dice.u8(0..10) == 0,
            twice: dice.u8(0..10) == 0,
        },
        740..770 => Op::LateResult(dice.u16(..)),
        770..800 => Op::Cancel(dice.u16(..)),
        800..820 => Op::Hold(dice.u16(..)),
        820..850 => Op::Release(dice.u16(..)),
        850..900 => Op::LeaseDue { lease: dice.u16(..), stale: dice.bool() },
        900..910 => Op::PilotDue(dice.u8(..)),
        910..915 => Op::Leave(dice.u8(..)),
        915..918 => Op::Drain(dice.u8(..)),
        918..960 => Op::Pass(dice.u16(1..5000)),
        960..997 => Op::Commit,
        997..999 => Op::Crash,
        _ => Op::Restart,
    }
}

/// What was told so far; what a crash takes back is taken back here, too.
#[derive(Debug, Clone, Default)]
struct Told {
    payloads: Vec<Uuid>,
    owner: BTreeMap<Uuid, &'static str>,
    state: BTreeMap<Uuid, PayloadState>,
    lines: BTreeMap<Uuid, u32>,
    submissions: Vec<Submit>,
    pilots: Vec<(Uuid, u64)>,
    /// By lease: payload, attempt, pilot, last renewal.
    open: Vec<(Uuid, Uuid, Uuid, Uuid, u64)>,
    closed: Vec<(Uuid, Uuid)>,
    claims: BTreeMap<Uuid, (Uuid, Vec<Uuid>)>,
    history: u64,
}

/// A store, a clock, and what was told.
pub struct World<S: Store> {
    store: S,
    told: Told,
    now: u64,
    ids: fastrand::Rng,
    forget_ends: bool,
}

impl<S: Store> World<S> {
    pub fn new(store: S) -> Self {
        let ids = fastrand::Rng::with_seed(1);
        Self { store, told: Told::default(), now: 1_800_000_000_000, ids, forget_ends: false }
    }

    /// Breaks a rule: the end of an attempt is not told to the store.
    pub fn forgetting_ends(self) -> Self {
        Self { forget_ends: true, ..self }
    }

    fn id(&mut self) -> Uuid {
        Uuid::from_u128(self.ids.u128(..))
    }

    fn pick<T: Clone>(list: &[T], n: usize) -> Option<T> {
        (!list.is_empty()).then(|| list[n % list.len()].clone())
    }

    /// Mostly one of the newest payloads: old ones are over.
    fn recent(&self, n: u16) -> Option<Uuid> {
        let list = &self.told.payloads;
        let from = if n.is_multiple_of(8) { 0 } else { list.len().saturating_sub(40) };
        Self::pick(&list[from..], usize::from(n))
    }

    fn by(pilot: Uuid) -> ByPilot {
        ByPilot { pilot, dn: DN.into(), secret: None }
    }

    fn by_owner(&self, payload: Uuid) -> ByOwner {
        ByOwner { payload, user: self.told.owner[&payload].into() }
    }
}

fn delegation(owner: &str, short: bool) -> Uuid {
    Uuid::from_u128(OWNERS.iter().position(|o| *o == owner).unwrap() as u128 * 2 + u128::from(short) + 1)
}

fn spec(cores: u8, walltime: bool) -> RawSpec {
    // One in three asks for another try with more.
    let grows = cores == 1;
    let json = serde_json::json!({
        "command": ["true"], "cores": cores, "walltime": walltime.then_some(60), "memory": grows.then_some(100),
        "retry_memory": grows.then_some("2x"),
    });
    serde_json::from_value(json).unwrap()
}

async fn one<T: Transaction>(tx: &mut T, event: &Event, now: u64) -> Result<Decision, String> {
    let mut view = View::default();
    let mut loaded = 0;
    while let Some(need) = event.need(&view, loaded, now) {
        tx.load(&mut view, &need).await.map_err(|e| format!("{e} at {event:?}"))?;
        loaded += 1;
    }
    Ok(decide(&view, event, now))
}

/// Plays a history; tells what holds no more. The end of the story: state and reason of each payload.
pub async fn run<S: Store, F: Future<Output = S>>(
    mut world: World<S>,
    ops: &[Op],
    reopen: impl Fn(S) -> F,
) -> Result<Vec<(PayloadState, usize)>, String> {
    let mut tx = world.store.begin().await.map_err(|e| e.to_string())?;
    for owner in OWNERS {
        for short in [false, true] {
            let id = delegation(owner, short);
            let new =
                NewDelegation { id, owner: owner.into(), key: "k".into(), csr: "r".into(), at: world.now };
            world.happen(&mut tx, &Event::Delegate(Box::new(new))).await?;
            let not_after = if short { world.now / 1000 + 20 } else { u64::MAX / 4000 };
            let sign = Sign { id, owner: owner.into(), chain: "c".into(), not_after };
            world.happen(&mut tx, &Event::Sign(Box::new(sign))).await?;
        }
    }
    tx.commit().await.map_err(|e| e.to_string())?;
    let mut durable = world.told.clone();
    let mut tx = Some(world.store.begin().await.map_err(|e| e.to_string())?);
    for op in ops {
        match op {
            Op::Commit => {
                if let Some(tx) = tx.take() {
                    tx.commit().await.map_err(|e| e.to_string())?;
                }
                durable.clone_from(&world.told);
            }
            Op::Crash | Op::Restart => {
                drop(tx.take());
                world.told.clone_from(&durable);
                if *op == Op::Restart {
                    world.store = reopen(world.store).await;
                }
            }
            Op::Pass(ms) => world.now += u64::from(*ms),
            _ => {}
        }
        if tx.is_none() {
            tx = Some(world.store.begin().await.map_err(|e| e.to_string())?);
        }
        if let Some(tx) = &mut tx {
            world.play(tx, *op).await.map_err(|why| format!("{why} at {op:?}"))?;
        }
    }
    if let Some(tx) = tx.take() {
        tx.commit().await.map_err(|e| e.to_string())?;
    }
    world.finish().await?;
    world.check().await
}

impl<S: Store> World<S> {
    async fn play<T: Transaction>(&mut self, tx: &mut T, op: Op) -> Result<(), String> {
        match op {
            Op::Submit { owner, elements, cores, walltime, short_proxy } => {
                self.submit(tx, OWNERS[usize::from(owner)], elements, spec(cores, walltime), short_proxy)
                    .await?;
            }
            Op::SubmitAgain(n) => self.submit_again(tx, n).await?,
            Op::Register(host) => self.register(tx, HOSTS[usize::from(host)]).await?,
            Op::Claim { pilot, max, again } => self.claim(tx, pilot, max, again).await?,
            Op::Renew(n) => self.renew(tx, n).await?,
            Op::Result { lease, outcome, returned, twice } => {
                self.result(tx, lease, Outcome::VARIANTS[usize::from(outcome)], returned, twice).await?;
            }
            Op::LateResult(n) => {
                if let Some((lease, attempt)) = Self::pick(&self.told.closed, usize::from(n)) {
                    let result = AttemptResult {
                        lease,
                        outcome: Outcome::Ok,
                        returned: false,
                        report: Report::default(),
                    };
                    self.happen(
                        tx,
                        &Event::Results(Holder { dn: DN.into(), secret: None }, vec![(attempt, result)]),
                    )
                    .await?;
                }
            }
            Op::Cancel(n) => {
                let order = self.id();
                if let Some(payload) = self.recent(n) {
                    self.happen(tx, &Event::Cancel(self.by_owner(payload), order)).await?;
                }
            }
            Op::Hold(n) => {
                if let Some(payload) = self.recent(n) {
                    self.happen(tx, &Event::Hold(self.by_owner(payload))).await?;
                }
            }
            Op::Release(n) => {
                if let Some(payload) = self.recent(n) {
                    let fresh = delegation(self.told.owner[&payload], false);
                    self.happen(tx, &Event::Release(self.by_owner(payload), Some(fresh))).await?;
                }
            }
            Op::LeaseDue { lease, stale } => self.lease_due(tx, lease, stale).await?,
            Op::PilotDue(n) => {
                if let Some((pilot, seen)) = Self::pick(&self.told.pilots, usize::from(n)) {
                    self.happen(tx, &Event::PilotDue(pilot, seen)).await?;
                }
            }
            Op::Leave(n) => {
                if let Some((pilot, _)) = Self::pick(&self.told.pilots, usize::from(n)) {
                    self.happen(
                        tx,
                        &Event::Leave(Self::by(pilot), "its time is over".into(), n.is_multiple_of(2)),
                    )
                    .await?;
                    self.told.pilots.retain(|p| p.0 != pilot);
                }
            }
            Op::Drain(n) => {
                if let Some((pilot, _)) = Self::pick(&self.told.pilots, usize::from(n)) {
                    self.happen(tx, &Event::Drain(Self::by(pilot))).await?;
                }
            }
            Op::Pass(_) | Op::Commit | Op::Crash | Op::Restart => {}
        }
        Ok(())
    }

    async fn result<T: Transaction>(
        &mut self,
        tx: &mut T,
        lease: u16,
        outcome: Outcome,
        returned: bool,
        twice: bool,
    ) -> Result<(), String> {
        let Some((lease, _, attempt, ..)) = Self::pick(&self.told.open, usize::from(lease)) else {
            return Ok(());
        };
        let limit = LimitReached { kind: LimitKind::Memory, allowed: 100, used: 101 };
        let report = Report { limit: (outcome == Outcome::Limit).then_some(limit), ..Report::default() };
        let result = AttemptResult { lease, outcome, returned, report };
        for _ in 0..=u8::from(twice) {
            let holder = Holder { dn: DN.into(), secret: None };
            let answer = self.happen(tx, &Event::Results(holder, vec![(attempt, result.clone())])).await?;
            if answer != Answer::Results(vec![Ok(())]) {
                return Err(format!("a result of a lease in force is refused: {answer:?}"));
            }
        }
        Ok(())
    }

    async fn submit<T: Transaction>(
        &mut self,
        tx: &mut T,
        owner: &'static str,
        elements: u8,
        spec: RawSpec,
        short: bool,
    ) -> Result<(), String> {
        let id = self.id();
        let array = (elements > 1).then_some((0, u64::from(elements) - 1));
        let elements = match array {
            None => vec![(id, None)],
            Some((_, high)) => (0..=high).map(|index| (self.id(), Some(index))).collect(),
        };
        let owned = owner.to_owned();
        let submit = Submit { id, owner: owned, delegation: delegation(owner, short), spec, array, elements };
        match self.happen(tx, &Event::Submit(Box::new(submit.clone()))).await? {
            Answer::Submitted(ids) => {
                for id in ids {
                    self.told.payloads.push(id);
                    self.told.owner.insert(id, owner);
                    self.told.state.insert(id, PayloadState::Waiting);
                    self.told.lines.insert(id, 2);
                    self.told.history += 2;
                }
                self.told.submissions.push(submit);
            }
            Answer::Refused(Refused::DelegationExpired) if short => {}
            other => return Err(format!("a good submission is answered {other:?}")),
        }
        Ok(())
    }

    async fn submit_again<T: Transaction>(&mut self, tx: &mut T, n: u16) -> Result<(), String> {
        let Some(earlier) = Self::pick(&self.told.submissions, usize::from(n)) else { return Ok(()) };
        let ids: Vec<Uuid> = earlier.elements.iter().map(|e| e.0).collect();
        // The elements get new ids in a second try; the first ones must come back.
        let elements =
            earlier.elements.iter().map(|e| (if earlier.array.is_some() { self.id() } else { e.0 }, e.1));
        let again = Submit { elements: elements.collect(), ..earlier.clone() };
        match self.happen(tx, &Event::Submit(Box::new(again))).await? {
            Answer::Submitted(same) if same == ids => Ok(()),
            other => Err(format!("the same submission again is answered {other:?}")),
        }
    }

    async fn register<T: Transaction>(&mut self, tx: &mut T, host: &str) -> Result<(), String> {
        if self.told.pilots.len() > 6 {
            return Ok(());
        }
        let id = self.id();
        let json = serde_json::json!({"host": host, "slots": 4, "cores": 6, "memory": null, "switches_identity": true,
                                      "time_left": null});
        let registration: Registration = serde_json::from_value(json).unwrap();
        let register =
            Register { id, dn: DN.into(), registration, secret: None, switching: Switching::default() };
        self.happen(tx, &Event::Register(Box::new(register))).await?;
        self.told.pilots.push((id, self.now));
        Ok(())
    }

    async fn claim<T: Transaction>(&mut self, tx: &mut T, n: u8, max: u8, again: bool) -> Result<(), String> {
        let Some((pilot, _)) = Self::pick(&self.told.pilots, usize::from(n)) else { return Ok(()) };
        let earlier = self.told.claims.get(&pilot).cloned().filter(|_| again);
        let id = earlier.as_ref().map_or_else(|| self.id(), |e| e.0);
        let claim = Claim { id: Some(id), max: max.into(), cores: 6, ..Claim::default() };
        let ids = (0..max).map(|_| (self.id(), self.id())).collect();
        let event =
            Event::Claim(Box::new(Ask { by: Self::by(pilot), claim, switching: Switching::default(), ids }));
        let Answer::Leased(given) = self.happen(tx, &event).await? else { return Ok(()) };
        let leases: Vec<Uuid> = given.iter().map(|g| g.lease).collect();
        if let Some((_, before)) = earlier {
            let still: Vec<Uuid> =
                before.into_iter().filter(|l| self.told.open.iter().any(|o| o.0 == *l)).collect();
            if !still.is_empty() && still.iter().any(|l| !leases.contains(l)) {
                return Err(format!("the same claim again gets {leases:?} instead of {still:?}"));
            }
        }
        self.told.claims.insert(pilot, (id, leases));
        Ok(())
    }

    async fn renew<T: Transaction>(&mut self, tx: &mut T, n: u8) -> Result<(), String> {
        let Some((pilot, _)) = Self::pick(&self.told.pilots, usize::from(n)) else { return Ok(()) };
        let held: Vec<Uuid> = self.told.open.iter().filter(|o| o.3 == pilot).map(|o| o.0).collect();
        let leases = held.iter().map(|l| LeaseUpdate { lease: *l, state: PayloadState::Running }).collect();
        let body = Heartbeat { leases, state: PilotState::Busy, acked: Vec::new() };
        match self.happen(tx, &Event::Heartbeat(Self::by(pilot), body)).await? {
            Answer::Heartbeat(reply) if reply.lost.is_empty() => Ok(()),
            Answer::Refused(Refused::Illegal(_)) => Ok(()),
            other => Err(format!("leases in force are answered {other:?}")),
        }
    }

    async fn lease_due<T: Transaction>(&mut self, tx: &mut T, n: u16, stale: bool) -> Result<(), String> {
        let Some((lease, .., renewed)) = Self::pick(&self.told.open, usize::from(n)) else { return Ok(()) };
        let watched = if stale { renewed - 1 } else { renewed };
        self.happen(tx, &Event::LeaseDue(lease, watched)).await?;
        let ended = !self.told.open.iter().any(|o| o.0 == lease);
        match stale && ended {
            true => Err("a lease that was renewed meanwhile is ended".into()),
            false => Ok(()),
        }
    }

    /// Decides, stores, and looks at what was decided.
    async fn happen<T: Transaction>(&mut self, tx: &mut T, event: &Event) -> Result<Answer, String> {
        let mut decision = one(tx, event, self.now).await?;
        if self.forget_ends {
            decision.changes.retain(|c| !matches!(c, Change::Ended(_)));
        }
        tx.apply(&decision.changes).await.map_err(|e| format!("{e} at {event:?}"))?;
        for change in &decision.changes {
            self.note(change)?;
        }
        for effect in &decision.effects {
            if let Effect::WatchPilot { pilot, seen } = effect {
                self.told.pilots.iter_mut().filter(|p| p.0 == *pilot).for_each(|p| p.1 = *seen);
            }
        }
        Ok(decision.answer)
    }

    fn note(&mut self, change: &Change) -> Result<(), String> {
        let told = &mut self.told;
        match change {
            Change::Opened(o) => {
                if told.open.iter().any(|l| l.1 == o.payload) {
                    return Err(format!("payload {} has two leases", o.payload));
                }
                told.open.push((o.lease, o.payload, o.attempt, o.pilot, o.at));
            }
            Change::Ended(e) => {
                if !told.open.iter().any(|l| l.0 == e.lease) {
                    return Err(format!("lease {} ends twice", e.lease));
                }
                told.open.retain(|l| l.0 != e.lease);
                told.closed.push((e.lease, e.attempt));
            }
            Change::Renewed { lease, at } => {
                for open in told.open.iter_mut().filter(|l| l.0 == *lease) {
                    if *at <= open.4 {
                        return Err("a renewal does not grow".into());
                    }
                    open.4 = *at;
                }
            }
            Change::Payload { id, state, .. } => {
                let before = told.state.insert(*id, *state);
                if before.is_some_and(|b| b.is_final()) {
                    return Err(format!("payload {id} was {before:?}, which is final, and becomes {state}"));
                }
            }
            Change::History(h) => {
                *told.lines.entry(h.payload).or_default() += 1;
                told.history += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Every accepted submission ends somewhere: releases what is held, and works until nothing is left.
    async fn finish(&mut self) -> Result<(), String> {
        let mut tx = self.store.begin().await.map_err(|e| e.to_string())?;
        for (lease, .., renewed) in self.told.open.clone() {
            self.happen(&mut tx, &Event::LeaseDue(lease, renewed)).await?;
        }
        self.told.pilots.clear();
        self.register(&mut tx, "wn3").await?;
        for _round in 0..1000 {
            let held = self.told.state.iter().filter(|(_, s)| **s == PayloadState::Held);
            for payload in held.map(|(id, _)| *id).collect::<Vec<_>>() {
                let fresh = delegation(self.told.owner[&payload], false);
                self.happen(&mut tx, &Event::Release(self.by_owner(payload), Some(fresh))).await?;
            }
            for _ in 0..200 {
                self.claim(&mut tx, 0, 4, false).await?;
                let results = self.told.open.iter().map(|(lease, _, attempt, ..)| {
                    let report = Report::default();
                    (*attempt, AttemptResult { lease: *lease, outcome: Outcome::Ok, returned: false, report })
                });
                let results: Vec<_> = results.collect();
                self.happen(&mut tx, &Event::Results(Holder { dn: DN.into(), secret: None }, results))
                    .await?;
                if self.told.open.is_empty() && self.told.state.values().all(|s| s.is_final()) {
                    break;
                }
            }
            if self.told.state.values().all(|s| s.is_final()) {
                return tx.commit().await.map_err(|e| e.to_string());
            }
        }
        let left = self.told.state.iter().find(|(_, s)| !s.is_final());
        Err(format!("a payload never ends: {left:?}"))
    }

    /// What the store holds is what was told.
    async fn check(&self) -> Result<Vec<(PayloadState, usize)>, String> {
        let mut story = Vec::new();
        let mut found = 0;
        for owner in OWNERS {
            self.check_events(owner).await?;
            let filter = Filter {
                owner: owner.into(),
                states: vec![],
                array: None,
                limit: u32::MAX,
                before: None,
                begins: None,
            };
            let listed = self.store.payloads(&filter).await.map_err(|e| e.to_string())?;
            found += listed.len();
            for entry in listed {
                let payload = self.store.payload(entry.id).await.map_err(|e| e.to_string())?;
                let payload = payload.ok_or_else(|| format!("{} is listed only", entry.id))?;
                let short = payload.clone().listed();
                if format!("{entry:?}") != format!("{short:?}") {
                    return Err(format!("the list has {entry:?} for {short:?}"));
                }
                if self.told.state.get(&payload.id) != Some(&payload.state) {
                    return Err(format!("{} is {} in the store", payload.id, payload.state));
                }
                let done = payload.attempts.iter().filter(|a| a.outcome == Some(Outcome::Ok)).count();
                let numbers: Vec<u32> = payload.attempts.iter().map(|a| a.number).collect();
                if done > 1 || numbers.iter().zip(1..).any(|(n, i)| *n != i) {
                    return Err(format!("{} has {done} good ends, attempts {numbers:?}", payload.id));
                }
                story.push((payload.state, payload.attempts.len()));
            }
        }
        if found != self.told.payloads.len() {
            return Err(format!("{found} payloads are stored, {} were accepted", self.told.payloads.len()));
        }
        let step = (self.told.payloads.len() / 200).max(1);
        for payload in self.told.payloads.iter().step_by(step) {
            self.check_history(*payload).await?;
        }
        Ok(story)
    }

    /// A stream tells the whole history of a user's payloads and of nobody else's, in one piece or in parts.
    async fn check_events(&self, owner: &str) -> Result<(), String> {
        let events =
            async |after, window| self.store.events(owner, after, window).await.map_err(|e| e.to_string());
        let (all, newest) = events(0, i64::MAX).await?;
        let (mut parts, mut after) = (Vec::new(), 0);
        while after < newest {
            let (part, until) = events(after, 1_000).await?;
            parts.extend(part);
            after = until;
        }
        let mut lines: BTreeMap<Uuid, u64> = BTreeMap::new();
        all.iter().for_each(|event| *lines.entry(event.payload).or_default() += 1);
        let whole = lines.iter().all(|(id, n)| u64::from(self.told.lines[id]) == *n);
        let grows = all.windows(2).all(|w| w[0].entry.seq < w[1].entry.seq);
        let told = self.store.newest().await.map_err(|e| e.to_string())?;
        match whole && grows && parts == all && told == newest {
            true => Ok(()),
            false => Err(format!("the events of {owner} have gaps")),
        }
    }

    /// No line is missing, none is there twice, and the last one tells the state.
    async fn check_history(&self, payload: Uuid) -> Result<(), String> {
        let lines = self.store.history(payload).await.map_err(|e| e.to_string())?;
        let grows = lines.windows(2).all(|w| w[0].seq < w[1].seq);
        let within = lines.iter().all(|l| l.seq > 0 && l.seq.unsigned_abs() <= self.told.history);
        if !grows || !within || lines.len() != self.told.lines[&payload] as usize {
            return Err(format!("the history of {payload} has gaps: {lines:?}"));
        }
        match lines.last().map(|l| l.state) == self.told.state.get(&payload).copied() {
            true => Ok(()),
            false => Err(format!("the history of {payload} ends in another state")),
        }
    }
}
