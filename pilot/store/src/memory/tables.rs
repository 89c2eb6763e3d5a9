//! What the store in memory holds, how it answers what a decision needs, and how one change is taken back.

use crate::Key;
use pilot_api::{HistoryEntry, PayloadState, RawSpec};
use pilot_core::change::{NewDelegation, NewPilot};
use pilot_core::model::{self, Delegation, Earlier, Group, OpenLease};
use pilot_core::{Need, Requirements, View};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(Debug, Clone)]
pub(super) struct PayloadRow {
    pub(super) seq: i64,
    pub(super) owner: String,
    pub(super) delegation: Uuid,
    pub(super) spec: i64,
    pub(super) requirements: Requirements,
    pub(super) array_index: Option<u64>,
    pub(super) submission: Option<Uuid>,
    pub(super) submitted: u64,
    pub(super) state: PayloadState,
    pub(super) reason: Option<String>,
    pub(super) cancel_wanted: bool,
    pub(super) attempts: u32,
    pub(super) returns: u32,
    pub(super) avoid: Option<(Vec<String>, u64)>,
}

#[derive(Debug, Clone)]
pub(super) struct AttemptRow {
    pub(super) payload: Uuid,
    pub(super) lease: Uuid,
    pub(super) pilot: Uuid,
    pub(super) shown: pilot_api::Attempt,
}

#[derive(Debug, Clone)]
pub(super) struct LeaseRow {
    pub(super) attempt: Uuid,
    pub(super) payload: Uuid,
    pub(super) pilot: Uuid,
    pub(super) renewed: u64,
    pub(super) claim: Option<Uuid>,
    pub(super) order: Option<Uuid>,
}

#[derive(Debug, Clone)]
pub(super) struct PilotRow {
    pub(super) new: NewPilot,
    pub(super) state: pilot_api::PilotState,
    pub(super) seen: u64,
    pub(super) drain: bool,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct DelegationRow {
    pub(super) new: NewDelegation,
    pub(super) chain: Option<String>,
    pub(super) not_after: u64,
}

/// URL, tries, and what was told.
pub(super) type NoticeRow = (String, u32, i64);

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) payloads: BTreeMap<Uuid, PayloadRow>,
    /// Waiting payloads by requirements and age.
    pub(super) waiting: BTreeMap<Requirements, BTreeSet<(i64, Uuid)>>,
    pub(super) specs: Vec<RawSpec>,
    pub(super) attempts: BTreeMap<Uuid, AttemptRow>,
    /// Attempts by their leases, and payloads by their submission; what was taken back is still named here.
    pub(super) attempt_of: BTreeMap<Uuid, Uuid>,
    pub(super) submissions: BTreeMap<Uuid, Vec<Uuid>>,
    pub(super) leases: BTreeMap<Uuid, LeaseRow>,
    pub(super) pilots: BTreeMap<Uuid, PilotRow>,
    pub(super) delegations: BTreeMap<Uuid, DelegationRow>,
    pub(super) blobs: BTreeMap<(String, String), u64>,
    pub(super) notices: BTreeMap<Uuid, NoticeRow>,
    pub(super) history: Vec<(Uuid, HistoryEntry)>,
    pub(super) last: i64,
}

/// How to take one change back.
#[derive(Debug)]
pub(super) enum Undo {
    Payload(Uuid, Option<PayloadRow>),
    Attempt(Uuid, Option<AttemptRow>),
    Lease(Uuid, Option<LeaseRow>),
    Pilot(Uuid, Option<PilotRow>),
    Delegation(Uuid, Option<DelegationRow>),
    Blob((String, String), Option<u64>),
    Notice(Uuid, Option<NoticeRow>),
    History(usize),
    Specs(usize),
}

pub(super) fn put<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    }
}

impl Tables {
    pub(super) fn set_payload(&mut self, id: Uuid, row: Option<PayloadRow>) -> Option<PayloadRow> {
        if let Some((requirements, seq)) = self.payloads.get(&id).map(|p| (p.requirements, p.seq))
            && let Some(group) = self.waiting.get_mut(&requirements)
        {
            group.remove(&(seq, id));
        }
        if let Some(new) = row.as_ref().filter(|p| p.state == PayloadState::Waiting) {
            self.waiting.entry(new.requirements).or_default().insert((new.seq, id));
        }
        put(&mut self.payloads, id, row)
    }

    pub(super) fn take_back(&mut self, undo: Undo) {
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

    pub(super) fn payload(&self, id: Uuid) -> Option<model::Payload> {
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
            requirements: row.requirements,
            retry: model::Retry::of(spec),
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

    pub(super) fn pilot(&self, id: Uuid) -> Option<model::Pilot> {
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
            disk: told.disk,
            switches: told.switches_identity,
            seen: row.seen,
            secret: row.new.secret.clone(),
            held,
        })
    }

    pub(super) fn attempt(&self, id: Uuid) -> Option<model::Attempt> {
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

    pub(super) fn delegation(&self, id: Uuid) -> Option<Delegation> {
        self.delegations.get(&id).map(|row| Delegation {
            owner: row.new.owner.clone(),
            csr: row.new.csr.clone(),
            chain: row.chain.clone(),
            not_after: row.not_after,
        })
    }

    pub(super) fn earlier(&self, id: Uuid) -> Option<Earlier> {
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

    pub(super) fn load(&self, view: &mut View, need: &Need) {
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
            Need::Groups => {
                let groups = self.waiting.iter().enumerate().filter(|(_, (_, ids))| !ids.is_empty());
                view.groups = groups
                    .filter_map(|(key, (r, _))| {
                        Some(Group { key: i64::try_from(key).ok()?, requirements: *r })
                    })
                    .collect();
            }
            Need::Waiting { groups, limit, host, now } => {
                let avoids = |p: &model::Payload| {
                    p.avoid.as_ref().is_some_and(|(bad, until)| {
                        until > now && bad.contains(host) && self.somebody_else(bad)
                    })
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
            Need::Largest => view.largest = self.largest(),
            Need::Specs(keys) => {
                let spec = |key: &i64| Some((*key, self.specs.get(usize::try_from(*key).ok()?)?.clone()));
                view.specs = keys.iter().filter_map(spec).collect();
            }
        }
    }

    /// Whether a pilot takes work on none of these hosts.
    fn somebody_else(&self, hosts: &[String]) -> bool {
        let takes = |p: &PilotRow| !p.drain && pilot_core::rules::takes_work(p.state);
        self.pilots.values().any(|p| takes(p) && !hosts.contains(&p.new.registration.host))
    }

    fn largest(&self) -> model::Largest {
        let takes = |p: &&PilotRow| !p.drain && pilot_core::rules::takes_work(p.state);
        let told = || self.pilots.values().filter(takes).map(|p| &p.new.registration);
        // One that knows no limit has more than any other.
        let most = |of: fn(&pilot_api::Registration) -> Option<u64>| {
            told().map(of).collect::<Option<Vec<_>>>()?.into_iter().max()
        };
        model::Largest { memory: most(|r| r.memory), disk: most(|r| r.disk) }
    }

    pub(super) fn shown(&self, id: Uuid) -> Option<pilot_api::Payload> {
        let row = self.payloads.get(&id)?;
        let mut attempts: Vec<_> =
            self.attempts.values().filter(|a| a.payload == id).map(|a| a.shown.clone()).collect();
        attempts.sort_by_key(|a| a.number);
        for attempt in &mut attempts {
            attempt.switched = self.pilots.get(&attempt.pilot).map(|p| p.new.registration.switches_identity);
        }
        let mut spec = self.specs[usize::try_from(row.spec).unwrap_or(0)].clone();
        row.requirements.put_into(&mut spec);
        Some(pilot_api::Payload {
            switched: pilot_api::all_switched(&attempts),
            id,
            owner: row.owner.clone(),
            state: row.state,
            reason: row.reason.clone(),
            spec,
            array_index: row.array_index,
            array: row.submission,
            submitted: row.submitted,
            attempts,
        })
    }
}

impl DelegationRow {
    pub(super) fn key(&self) -> Key {
        Key { key: self.new.key.clone(), chain: self.chain.clone(), not_after: self.not_after }
    }
}
