//! The store in memory. It forgets everything at the end of the process; what it does is what SQLite does.

mod apply;
mod tables;

use crate::{Filter, Key, Living, Notice, Result, Runs, Store, Transaction};
use pilot_api::{ClaimedRun, Demand, HistoryEntry, PayloadState, Pilot, StateEvent};
use pilot_core::{Change, Need, Requirements, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::{AttemptRow, DelegationRow, LeaseRow, NoticeRow, PayloadRow, Tables, Undo};
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

/// An open store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Tables>>);

/// A change under way; dropped without a commit it is taken back.
#[derive(Debug)]
pub struct MemoryTransaction {
    tables: OwnedMutexGuard<Tables>,
    undo: Vec<Undo>,
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
                reason: p.reason.clone(),
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

    async fn runs(&self, asked: &Runs) -> Result<Vec<ClaimedRun>> {
        let tables = self.0.lock().await;
        let run = |(id, attempt): (&Uuid, &AttemptRow)| {
            let shown = &attempt.shown;
            let (report, ended) = (shown.report.as_ref()?, shown.ended?);
            let pilot = &tables.pilots.get(&attempt.pilot)?.new;
            let wanted = (asked.since..asked.until).contains(&ended) && asked.after.is_none_or(|a| *id > a);
            Some(ClaimedRun {
                payload: attempt.payload,
                attempt: *id,
                pilot: attempt.pilot,
                owner: tables.payloads.get(&attempt.payload)?.owner.clone(),
                pilot_dn: pilot.dn.clone(),
                host: report.host.clone(),
                switched: pilot.registration.switches_identity,
                session: report.session.clone(),
                ended,
                wall_s: report.wall_ms.filter(|_| wanted)? as f64 / 1000.0,
                cpu_s: report.cpu_ms.unwrap_or(0) as f64 / 1000.0,
            })
        };
        Ok(tables.attempts.iter().filter_map(run).take(asked.limit as usize).collect())
    }

    async fn living(&self) -> Result<Living> {
        let tables = self.0.lock().await;
        let live = tables.pilots.iter().filter(|(_, p)| pilot_core::rules::is_live(p.state));
        Ok(Living {
            leases: tables.leases.iter().map(|(id, l)| (*id, l.renewed)).collect(),
            pilots: live.map(|(id, p)| (*id, p.seen)).collect(),
        })
    }

    async fn events(&self, owner: &str, after: i64, window: i64) -> Result<(Vec<StateEvent>, i64)> {
        let tables = self.0.lock().await;
        let newest = tables.history.last().map_or(0, |(_, entry)| entry.seq);
        let until = newest.min(after.saturating_add(window)).max(after);
        let own = |id: &Uuid| tables.payloads.get(id).is_some_and(|payload| payload.owner == owner);
        let wanted = |(id, entry): &&(Uuid, HistoryEntry)| entry.seq > after && entry.seq <= until && own(id);
        let event = |(id, entry): &(Uuid, HistoryEntry)| StateEvent { payload: *id, entry: entry.clone() };
        Ok((tables.history.iter().filter(wanted).map(event).collect(), until))
    }

    async fn newest(&self) -> Result<i64> {
        Ok(self.0.lock().await.history.last().map_or(0, |(_, entry)| entry.seq))
    }

    async fn notices(&self) -> Result<Vec<Notice>> {
        let tables = self.0.lock().await;
        let notice = |(id, (url, tries, told)): (&Uuid, &NoticeRow)| {
            let owner = tables.payloads.get(id)?.owner.clone();
            let untold = tables.history.iter().any(|(payload, entry)| payload == id && entry.seq > *told);
            untold.then(|| Notice { payload: *id, owner, url: url.clone(), tries: *tries, told: *told })
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
