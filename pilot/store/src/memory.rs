//! The store in memory. It forgets everything at the end of the process; what it does is what SQLite does.

use crate::{Filter, Key, Living, Notice, Result, Store, StoreError, Transaction};
use pilot_api::{Demand, HistoryEntry, PayloadState, Pilot, RawSpec};
use pilot_core::change::{Ended, NewDelegation, NewPayloads, NewPilot, Opened};
use pilot_core::model::{self, Delegation, Earlier, Group, OpenLease};
use pilot_core::{Change, Need, Requirements, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

/// An open store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Tables>>);

#[derive(Debug, Clone)]
struct PayloadRow {
    seq: i64,
    owner: String,
    delegation: Uuid,
    spec: i64,
    array_index: Option<u64>,
    submission: Option<Uuid>,
    submitted: u64,
    state: PayloadState,
    reason: Option<String>,
    cancel_wanted: bool,
    attempts: u32,
    returns: u32,
    avoid: Option<(String, u64)>,
}

#[derive(Debug, Clone)]
struct AttemptRow {
    payload: Uuid,
    lease: Uuid,
    pilot: Uuid,
    shown: pilot_api::Attempt,
}

#[derive(Debug, Clone)]
struct LeaseRow {
    attempt: Uuid,
    payload: Uuid,
    pilot: Uuid,
    renewed: u64,
    claim: Option<Uuid>,
    order: Option<Uuid>,
}

#[derive(Debug, Clone)]
struct PilotRow {
    new: NewPilot,
    state: pilot_api::PilotState,
    seen: u64,
    drain: bool,
}

#[derive(Debug, Clone)]
struct DelegationRow {
    new: NewDelegation,
    chain: Option<String>,
    not_after: u64,
}

#[derive(Debug, Default)]
struct Tables {
    payloads: BTreeMap<Uuid, PayloadRow>,
    /// Waiting payloads by requirements and age.
    waiting: BTreeMap<Requirements, BTreeSet<(i64, Uuid)>>,
    specs: Vec<RawSpec>,
    attempts: BTreeMap<Uuid, AttemptRow>,
    /// Attempts by their leases, and payloads by their submission; what was taken back is still named here.
    attempt_of: BTreeMap<Uuid, Uuid>,
    submissions: BTreeMap<Uuid, Vec<Uuid>>,
    leases: BTreeMap<Uuid, LeaseRow>,
    pilots: BTreeMap<Uuid, PilotRow>,
    delegations: BTreeMap<Uuid, DelegationRow>,
    blobs: BTreeMap<(String, String), u64>,
    notices: BTreeMap<Uuid, (String, u32)>,
    history: Vec<(Uuid, HistoryEntry)>,
    last: i64,
}

/// How to take one change back.
#[derive(Debug)]
enum Undo {
    Payload(Uuid, Option<PayloadRow>),
    Attempt(Uuid, Option<AttemptRow>),
    Lease(Uuid, Option<LeaseRow>),
    Pilot(Uuid, Option<PilotRow>),
    Delegation(Uuid, Option<DelegationRow>),
    Blob((String, String), Option<u64>),
    Notice(Uuid, Option<(String, u32)>),
    History(usize),
    Specs(usize),
}

/// A change under way; dropped without a commit it is taken back.
#[derive(Debug)]
pub struct MemoryTransaction {
    tables: OwnedMutexGuard<Tables>,
    undo: Vec<Undo>,
}

fn put<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    }
}

impl Tables {
    fn set_payload(&mut self, id: Uuid, row: Option<PayloadRow>) -> Option<PayloadRow> {
        if let Some(requirements) = self.payloads.get(&id).map(|p| self.requirements(p.spec)) {
            let seq = self.payloads[&id].seq;
            if let Some(group) = self.waiting.get_mut(&requirements) {
                group.remove(&(seq, id));
            }
        }
        if let Some(new) = row.as_ref().filter(|p| p.state == PayloadState::Waiting) {
            let requirements = self.requirements(new.spec);
            self.waiting.entry(requirements).or_default().insert((new.seq, id));
        }
        put(&mut self.payloads, id, row)
    }

    fn requirements(&self, spec: i64) -> Requirements {
        Requirements::of(&self.specs[usize::try_from(spec).unwrap_or(0)])
    }

    fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Payload(id, row) => drop(self.set_payload(id, row)),
            Undo::Attempt(id, row) => drop(put(&mut self.attempts, id, row)),
            Undo::Lease(id, row) => drop(put(&mut self.leases, id, row)),
            Undo::Pilot(id, row) => drop(put(&mut self.pilots, id, row)),
            Undo::Delegation(id, row) => drop(put(&mut self.delegations, id, row)),
            Undo::Blob(key, row) => drop(put(&mut self.blobs, key, row)),
            Undo::Notice(id, row) => drop(put(&mut self.notices, id, row)),
            Undo::History(length) => self.history.truncate(length),
            Undo::Specs(length) => self.specs.truncate(length),
        }
    }

    fn payload(&self, id: Uuid) -> Option<model::Payload> {
        let row = self.payloads.get(&id)?;
        let delegation = self.delegations.get(&row.delegation)?;
        let lease = self.leases.iter().find(|(_, l)| l.payload == id);
        let spec = &self.specs[usize::try_from(row.spec).unwrap_or(0)];
        Some(model::Payload {
            id,
            seq: row.seq,
            owner: row.owner.clone(),
            state: row.state,
            attempts: row.attempts,
            returns: row.returns,
            cancel_wanted: row.cancel_wanted,
            requirements: Requirements::of(spec),
            array_index: row.array_index,
            spec: row.spec,
            notify: spec.notify.clone(),
            proxy_until: delegation.not_after,
            avoid: row.avoid.clone(),
            lease: lease.and_then(|(lease, l)| {
                Some(OpenLease {
                    id: *lease,
                    attempt: l.attempt,
                    number: row.attempts,
                    pilot: l.pilot,
                    host: self.pilots.get(&l.pilot)?.new.registration.host.clone(),
                    renewed: l.renewed,
                    claim: l.claim,
                    order: l.order,
                })
            }),
        })
    }

    fn pilot(&self, id: Uuid) -> Option<model::Pilot> {
        let row = self.pilots.get(&id)?;
        let told = &row.new.registration;
        let held = self.leases.values().filter(|l| l.pilot == id).filter_map(|l| self.payload(l.payload));
        let mut held: Vec<_> = held.collect();
        held.sort_by_key(|p| p.seq);
        Some(model::Pilot {
            id,
            dn: row.new.dn.clone(),
            host: told.host.clone(),
            state: row.state,
            drain: row.drain,
            slots: told.slots,
            cores: told.cores,
            memory: told.memory,
            seen: row.seen,
            secret: row.new.secret.clone(),
            held,
        })
    }

    fn attempt(&self, id: Uuid) -> Option<model::Attempt> {
        let row = self.attempts.get(&id)?;
        let open = self.leases.contains_key(&row.lease);
        Some(model::Attempt {
            id,
            lease: row.lease,
            pilot: row.pilot,
            dn: self.pilots.get(&row.pilot)?.new.dn.clone(),
            secret: self.pilots.get(&row.pilot)?.new.secret.clone(),
            reported: row.shown.report.is_some(),
            payload: if open { self.payload(row.payload) } else { None },
        })
    }

    fn delegation(&self, id: Uuid) -> Option<Delegation> {
        self.delegations.get(&id).map(|row| Delegation {
            owner: row.new.owner.clone(),
            csr: row.new.csr.clone(),
            chain: row.chain.clone(),
            not_after: row.not_after,
        })
    }

    fn earlier(&self, id: Uuid) -> Option<Earlier> {
        let named = self.submissions.get(&id)?.iter();
        let mut rows: Vec<_> = named.filter_map(|id| Some((id, self.payloads.get(id)?))).collect();
        rows.sort_by_key(|(_, row)| row.seq);
        let (first, last) = (rows.first()?.1, rows.last()?.1);
        Some(Earlier {
            owner: first.owner.clone(),
            spec: self.specs[usize::try_from(first.spec).unwrap_or(0)].clone(),
            array: first.array_index.zip(last.array_index),
            ids: rows.iter().map(|(id, _)| **id).collect(),
        })
    }

    fn load(&self, view: &mut View, need: &Need) {
        use pilot_api::PilotState as P;
        match need {
            Need::Payload(id) => view.payload = self.payload(*id),
            Need::Lease(id) => view.payload = self.leases.get(id).and_then(|l| self.payload(l.payload)),
            Need::Pilot { id, named } => {
                view.pilot = self.pilot(*id);
                let reported = |lease: &&Uuid| {
                    let attempt = self.attempt_of.get(lease).and_then(|a| self.attempts.get(a));
                    attempt.is_some_and(|a| a.pilot == *id && a.shown.report.is_some())
                };
                view.delivered = named.iter().filter(reported).copied().collect();
            }
            Need::Attempts(ids) => view.attempts = ids.iter().filter_map(|id| self.attempt(*id)).collect(),
            Need::Groups { host } => {
                let groups = self.waiting.iter().enumerate().filter(|(_, (_, ids))| !ids.is_empty());
                view.groups = groups
                    .filter_map(|(key, (r, _))| {
                        Some(Group { key: i64::try_from(key).ok()?, requirements: *r })
                    })
                    .collect();
                let takes = |p: &PilotRow| {
                    !p.drain && matches!(p.state, P::Starting | P::Validating | P::Ready | P::Busy)
                };
                view.other_hosts = self.pilots.values().any(|p| takes(p) && p.new.registration.host != *host);
            }
            Need::Waiting { groups, limit, avoiding } => {
                let avoids = |p: &model::Payload| match (avoiding, &p.avoid) {
                    (Some((host, now)), Some((bad, until))) => host == bad && until > now,
                    (None, _) | (_, None) => false,
                };
                let most = usize::try_from(*limit).unwrap_or(usize::MAX);
                view.waiting = groups
                    .iter()
                    .filter_map(|key| self.waiting.values().nth(usize::try_from(*key).ok()?))
                    .flat_map(|ids| {
                        ids.iter().filter_map(|(_, id)| self.payload(*id)).filter(|p| !avoids(p)).take(most)
                    })
                    .collect();
            }
            Need::Submission { id, owner, delegation, blobs } => {
                view.earlier = self.earlier(*id);
                view.delegation = self.delegation(*delegation);
                let size =
                    |hash: &String| Some((hash.clone(), *self.blobs.get(&(hash.clone(), owner.clone()))?));
                view.blobs = blobs.iter().filter_map(size).collect();
            }
            Need::Delegation(id) => view.delegation = self.delegation(*id),
            Need::Specs(keys) => {
                let spec = |key: &i64| Some((*key, self.specs.get(usize::try_from(*key).ok()?)?.clone()));
                view.specs = keys.iter().filter_map(spec).collect();
            }
        }
    }

    fn shown(&self, id: Uuid) -> Option<pilot_api::Payload> {
        let row = self.payloads.get(&id)?;
        let mut attempts: Vec<_> =
            self.attempts.values().filter(|a| a.payload == id).map(|a| a.shown.clone()).collect();
        attempts.sort_by_key(|a| a.number);
        Some(pilot_api::Payload {
            id,
            owner: row.owner.clone(),
            state: row.state,
            reason: row.reason.clone(),
            spec: self.specs[usize::try_from(row.spec).unwrap_or(0)].clone(),
            array_index: row.array_index,
            array: row.submission,
            submitted: row.submitted,
            attempts,
        })
    }
}

impl MemoryTransaction {
    fn change_payload(&mut self, id: Uuid, change: impl FnOnce(&mut PayloadRow)) -> Result<()> {
        let missing = || StoreError::Damaged(format!("payload {id} is missing"));
        let mut row = self.tables.payloads.get(&id).cloned().ok_or_else(missing)?;
        change(&mut row);
        let old = self.tables.set_payload(id, Some(row));
        self.undo.push(Undo::Payload(id, old));
        Ok(())
    }

    fn change_lease(&mut self, id: Uuid, change: impl FnOnce(&mut LeaseRow)) {
        if let Some(old) = self.tables.leases.get(&id).cloned() {
            let mut row = old.clone();
            change(&mut row);
            self.tables.leases.insert(id, row);
            self.undo.push(Undo::Lease(id, Some(old)));
        }
    }

    fn change_pilot(&mut self, id: Uuid, change: impl FnOnce(&mut PilotRow)) {
        if let Some(old) = self.tables.pilots.get(&id).cloned() {
            let mut row = old.clone();
            change(&mut row);
            self.tables.pilots.insert(id, row);
            self.undo.push(Undo::Pilot(id, Some(old)));
        }
    }

    fn record(&mut self, payload: Uuid, entry: HistoryEntry) {
        self.undo.push(Undo::History(self.tables.history.len()));
        let seq = i64::try_from(self.tables.history.len()).unwrap_or(i64::MAX).saturating_add(1);
        self.tables.history.push((payload, HistoryEntry { seq, ..entry }));
    }

    fn submitted(&mut self, new: &NewPayloads) {
        self.undo.push(Undo::Specs(self.tables.specs.len()));
        self.tables.submissions.insert(new.id, new.elements.iter().map(|e| e.0).collect());
        let spec = i64::try_from(self.tables.specs.len()).unwrap_or(i64::MAX);
        self.tables.specs.push(new.spec.clone());
        for (id, index) in &new.elements {
            self.tables.last += 1;
            let row = PayloadRow {
                seq: self.tables.last,
                owner: new.owner.clone(),
                delegation: new.delegation,
                spec,
                array_index: *index,
                submission: new.is_array.then_some(new.id),
                submitted: new.at / 1000,
                state: PayloadState::Waiting,
                reason: None,
                cancel_wanted: false,
                attempts: 0,
                returns: 0,
                avoid: None,
            };
            let old = self.tables.set_payload(*id, Some(row));
            self.undo.push(Undo::Payload(*id, old));
            for (state, cause) in [(PayloadState::Received, "submitted"), (PayloadState::Waiting, "accepted")]
            {
                let entry = HistoryEntry {
                    seq: 0,
                    at: new.at / 1000,
                    actor: new.owner.clone(),
                    state,
                    cause: cause.to_owned(),
                };
                self.record(*id, entry);
            }
        }
    }

    fn opened(&mut self, o: &Opened) -> Result<()> {
        let shown = pilot_api::Attempt {
            id: o.attempt,
            number: o.number,
            pilot: o.pilot,
            leased: o.at / 1000,
            outcome: None,
            ended: None,
            report: None,
        };
        let attempt = AttemptRow { payload: o.payload, lease: o.lease, pilot: o.pilot, shown };
        self.tables.attempt_of.insert(o.lease, o.attempt);
        let old = self.tables.attempts.insert(o.attempt, attempt);
        self.undo.push(Undo::Attempt(o.attempt, old));
        if self.tables.leases.values().any(|l| l.payload == o.payload) {
            return Err(StoreError::Damaged(format!("payload {} has a lease already", o.payload)));
        }
        let lease = LeaseRow {
            attempt: o.attempt,
            payload: o.payload,
            pilot: o.pilot,
            renewed: o.at,
            claim: o.claim,
            order: None,
        };
        let old = self.tables.leases.insert(o.lease, lease);
        self.undo.push(Undo::Lease(o.lease, old));
        self.change_payload(o.payload, |p| p.attempts = o.number)
    }

    fn ended(&mut self, e: &Ended) -> Result<()> {
        if let Some(old) = self.tables.attempts.get(&e.attempt).cloned() {
            let mut row = old.clone();
            row.shown.outcome = Some(e.outcome);
            row.shown.ended = Some(e.at / 1000);
            row.shown.report = e.report.clone();
            self.tables.attempts.insert(e.attempt, row);
            self.undo.push(Undo::Attempt(e.attempt, Some(old)));
        }
        let old = self.tables.leases.remove(&e.lease);
        self.undo.push(Undo::Lease(e.lease, old));
        self.change_payload(e.payload, |p| {
            p.returns += u32::from(e.returned);
            p.avoid = e.avoid.clone();
        })
    }

    fn one(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Submitted(new) => self.submitted(new),
            Change::Payload { id, state, cancel_wanted, reason } => {
                return self.change_payload(*id, |p| {
                    (p.state, p.cancel_wanted, p.reason) = (*state, *cancel_wanted, reason.clone());
                });
            }
            Change::Delegated { payload, delegation } => {
                return self.change_payload(*payload, |p| p.delegation = *delegation);
            }
            Change::Opened(o) => return self.opened(o),
            Change::Ended(e) => return self.ended(e),
            Change::Renewed { lease, at } => self.change_lease(*lease, |l| l.renewed = *at),
            Change::Ordered { id, lease, .. } => self.change_lease(*lease, |l| l.order = Some(*id)),
            Change::Obeyed { id } => {
                let of =
                    self.tables.leases.iter().find(|(_, l)| l.order == Some(*id)).map(|(lease, _)| *lease);
                of.into_iter().for_each(|lease| self.change_lease(lease, |l| l.order = None));
            }
            Change::History(h) => {
                let (actor, cause) = (h.actor.clone(), h.cause.clone());
                self.record(
                    h.payload,
                    HistoryEntry { seq: 0, at: h.at / 1000, actor, state: h.state, cause },
                );
            }
            Change::Notice { payload, url } => {
                let old = self.tables.notices.insert(*payload, (url.clone(), 0));
                self.undo.push(Undo::Notice(*payload, old));
            }
            Change::NoticeTried { payload, settled } => {
                if let Some((url, tries)) = self.tables.notices.get(payload).cloned() {
                    let new = (!settled).then(|| (url.clone(), tries + 1));
                    put(&mut self.tables.notices, *payload, new);
                    self.undo.push(Undo::Notice(*payload, Some((url, tries))));
                }
            }
            Change::Pilot(new) => {
                let row = PilotRow {
                    new: (**new).clone(),
                    state: pilot_api::PilotState::Starting,
                    seen: new.at,
                    drain: false,
                };
                let old = self.tables.pilots.insert(new.id, row);
                self.undo.push(Undo::Pilot(new.id, old));
            }
            Change::PilotState { id, state, seen } => {
                self.change_pilot(*id, |p| (p.state, p.seen) = (*state, *seen));
            }
            Change::Draining { id } => self.change_pilot(*id, |p| p.drain = true),
            Change::Delegation(new) => {
                let row = DelegationRow { new: (**new).clone(), chain: None, not_after: 0 };
                let old = self.tables.delegations.insert(new.id, row);
                self.undo.push(Undo::Delegation(new.id, old));
            }
            Change::Signed { id, chain, not_after } => {
                if let Some(old) = self.tables.delegations.get(id).cloned() {
                    let row =
                        DelegationRow { chain: Some(chain.clone()), not_after: *not_after, ..old.clone() };
                    self.tables.delegations.insert(*id, row);
                    self.undo.push(Undo::Delegation(*id, Some(old)));
                }
            }
            Change::Blob { sha256, size, owner, .. } => {
                let key = (sha256.clone(), owner.clone());
                let old = self.tables.blobs.insert(key.clone(), *size);
                self.undo.push(Undo::Blob(key, old));
            }
        }
        Ok(())
    }
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            self.tables.take_back(undo);
        }
    }
}

impl Transaction for MemoryTransaction {
    async fn load(&mut self, view: &mut View, need: &Need) -> Result<()> {
        self.tables.load(view, need);
        Ok(())
    }

    async fn apply(&mut self, changes: &[Change]) -> Result<()> {
        changes.iter().try_for_each(|change| self.one(change))
    }

    async fn commit(mut self) -> Result<()> {
        self.undo.clear();
        Ok(())
    }
}

impl Store for MemoryStore {
    type Transaction = MemoryTransaction;

    async fn begin(&self) -> Result<MemoryTransaction> {
        Ok(MemoryTransaction { tables: self.0.clone().lock_owned().await, undo: Vec::new() })
    }

    async fn load(&self, view: &mut View, need: &Need) -> Result<()> {
        self.0.lock().await.load(view, need);
        Ok(())
    }

    async fn payload(&self, id: Uuid) -> Result<Option<pilot_api::Payload>> {
        Ok(self.0.lock().await.shown(id))
    }

    async fn payloads(&self, filter: &Filter) -> Result<Vec<pilot_api::Payload>> {
        let tables = self.0.lock().await;
        let before = filter.before.and_then(|id| tables.payloads.get(&id)).map(|p| p.seq);
        let begins = |id: &Uuid| filter.begins.as_ref().is_none_or(|text| id.to_string().starts_with(text));
        let wanted = |(id, p): &(&Uuid, &PayloadRow)| {
            p.owner == filter.owner
                && (filter.states.is_empty() || filter.states.contains(&p.state))
                && (filter.array.is_none() || filter.array == p.submission)
                && (begins(id) || p.submission.as_ref().is_some_and(begins))
                && (filter.before.is_none() || before.is_some_and(|b| p.seq < b))
        };
        let mut found: Vec<_> = tables.payloads.iter().filter(wanted).map(|(id, p)| (p.seq, *id)).collect();
        found.sort_unstable();
        let skip = found.len().saturating_sub(usize::try_from(filter.limit).unwrap_or(usize::MAX));
        Ok(found
            .into_iter()
            .skip(skip)
            .filter_map(|(_, id)| tables.shown(id))
            .map(pilot_api::Payload::listed)
            .collect())
    }

    async fn counts(&self, owner: &str) -> Result<Vec<(PayloadState, u64)>> {
        let mut counts: BTreeMap<&str, (PayloadState, u64)> = BTreeMap::new();
        let tables = self.0.lock().await;
        for payload in tables.payloads.values().filter(|p| p.owner == owner) {
            counts.entry(payload.state.as_str()).or_insert((payload.state, 0)).1 += 1;
        }
        Ok(counts.into_values().collect())
    }

    async fn history(&self, payload: Uuid) -> Result<Vec<HistoryEntry>> {
        let tables = self.0.lock().await;
        Ok(tables.history.iter().filter(|(id, _)| *id == payload).map(|(_, entry)| entry.clone()).collect())
    }

    async fn pilots(&self, since: u64) -> Result<Vec<Pilot>> {
        let tables = self.0.lock().await;
        let mut found: Vec<_> = tables.pilots.iter().filter(|(_, p)| p.seen > since).collect();
        found.sort_by_key(|(id, p)| std::cmp::Reverse((p.seen, **id)));
        let running = |id: Uuid| tables.leases.values().filter(|l| l.pilot == id).count();
        let attempts = |id: Uuid| tables.attempts.values().filter(|a| a.shown.pilot == id).count();
        Ok(found
            .into_iter()
            .take(1000)
            .map(|(id, p)| Pilot {
                id: *id,
                dn: p.new.dn.clone(),
                registration: p.new.registration.clone(),
                state: p.state,
                seen: p.seen / 1000,
                running: u32::try_from(running(*id)).unwrap_or(u32::MAX),
                attempts: u32::try_from(attempts(*id)).unwrap_or(u32::MAX),
            })
            .collect())
    }

    async fn demand(&self) -> Result<Vec<Demand>> {
        let tables = self.0.lock().await;
        let mut found: BTreeMap<(&str, Requirements), u64> = BTreeMap::new();
        for (requirements, payloads) in &tables.waiting {
            for (_, id) in payloads {
                let owner = tables.payloads.get(id).map_or("", |p| p.owner.as_str());
                *found.entry((owner, *requirements)).or_default() += 1;
            }
        }
        let demand = found.into_iter().map(|((owner, r), waiting)| Demand {
            owner: owner.to_owned(),
            cores: r.cores,
            memory: r.memory,
            walltime: r.walltime,
            waiting,
        });
        let mut demand: Vec<Demand> = demand.collect();
        demand.sort_by(|a, b| (b.waiting, &a.owner).cmp(&(a.waiting, &b.owner)));
        Ok(demand)
    }

    async fn living(&self) -> Result<Living> {
        let tables = self.0.lock().await;
        let live = tables.pilots.iter().filter(|(_, p)| pilot_core::rules::is_live(p.state));
        Ok(Living {
            leases: tables.leases.iter().map(|(id, l)| (*id, l.renewed)).collect(),
            pilots: live.map(|(id, p)| (*id, p.seen)).collect(),
        })
    }

    async fn notices(&self) -> Result<Vec<Notice>> {
        let tables = self.0.lock().await;
        let notice = |(id, (url, tries)): (&Uuid, &(String, u32))| {
            let owner = tables.payloads.get(id)?.owner.clone();
            Some(Notice { payload: *id, owner, url: url.clone(), tries: *tries })
        };
        let mut all: Vec<Notice> = tables.notices.iter().filter_map(notice).collect();
        all.sort_by_key(|n| n.tries);
        let mut taken: BTreeMap<String, u32> = BTreeMap::new();
        all.retain(|n| {
            let of_owner = taken.entry(n.owner.clone()).or_default();
            *of_owner += 1;
            *of_owner <= 10
        });
        all.truncate(100);
        Ok(all)
    }

    async fn key(&self, delegation: Uuid, owner: &str) -> Result<Option<Key>> {
        let tables = self.0.lock().await;
        let row = tables.delegations.get(&delegation).filter(|d| d.new.owner == owner);
        Ok(row.map(DelegationRow::key))
    }

    async fn key_of_payload(&self, payload: Uuid) -> Result<Option<Key>> {
        let tables = self.0.lock().await;
        let row = tables.payloads.get(&payload).and_then(|p| tables.delegations.get(&p.delegation));
        Ok(row.map(DelegationRow::key))
    }

    async fn has_blob(&self, sha256: &str, owner: &str) -> Result<bool> {
        Ok(self.0.lock().await.blobs.contains_key(&(sha256.to_owned(), owner.to_owned())))
    }

    async fn stored(&self, owner: &str, but: &str) -> Result<u64> {
        let tables = self.0.lock().await;
        let own = tables.blobs.iter().filter(|((hash, of), _)| of == owner && hash != but);
        Ok(own.map(|(_, size)| *size).sum())
    }

    async fn blob_leased(&self, sha256: &str, dn: &str) -> Result<bool> {
        let tables = self.0.lock().await;
        let needs = |l: &LeaseRow| {
            let of_dn = tables.pilots.get(&l.pilot).is_some_and(|p| p.new.dn == dn);
            let spec =
                tables.payloads.get(&l.payload).and_then(|p| tables.specs.get(usize::try_from(p.spec).ok()?));
            of_dn && spec.is_some_and(|s| s.inputs.iter().any(|i| i.sha256 == sha256))
        };
        Ok(tables.leases.values().any(needs))
    }

    async fn close(&self) {}
}

impl DelegationRow {
    fn key(&self) -> Key {
        Key { key: self.new.key.clone(), chain: self.chain.clone(), not_after: self.not_after }
    }
}
