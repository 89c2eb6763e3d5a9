//! One change after the other, each with how to take it back.

use super::MemoryTransaction;
use super::tables::{AttemptRow, DelegationRow, LeaseRow, NoticeRow, PayloadRow, PilotRow, Undo, put};
use crate::{Result, StoreError};
use pilot_api::{HistoryEntry, PayloadState};
use pilot_core::change::{Ended, NewPayloads, Opened};
use pilot_core::event::Tried;
use pilot_core::{Change, Requirements};
use uuid::Uuid;

/// What is left of a notice after a try.
fn tried_again((url, tries, told): &NoticeRow, tried: Tried) -> Option<NoticeRow> {
    match tried {
        Tried::Failed => Some((url.clone(), tries + 1, *told)),
        Tried::Told(seq) => Some((url.clone(), 0, seq)),
        Tried::Over => None,
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
                requirements: Requirements::of(&new.spec),
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
            switched: None,
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

    pub(super) fn one(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Submitted(new) => self.submitted(new),
            Change::Payload { id, state, cancel_wanted, reason } => {
                return self.change_payload(*id, |p| {
                    (p.state, p.cancel_wanted, p.reason) = (*state, *cancel_wanted, reason.clone());
                });
            }
            Change::Grown { payload, requirements } => {
                return self.change_payload(*payload, |p| p.requirements = *requirements);
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
                if !self.tables.notices.contains_key(payload) {
                    self.tables.notices.insert(*payload, (url.clone(), 0, 0));
                    self.undo.push(Undo::Notice(*payload, None));
                }
            }
            Change::NoticeTried { payload, tried } => {
                if let Some(old) = self.tables.notices.get(payload).cloned() {
                    put(&mut self.tables.notices, *payload, tried_again(&old, *tried));
                    self.undo.push(Undo::Notice(*payload, Some(old)));
                }
            }
            Change::Pilot(new) => {
                let row = PilotRow {
                    new: (**new).clone(),
                    state: pilot_api::PilotState::Starting,
                    seen: new.at,
                    drain: false,
                    reason: None,
                };
                let old = self.tables.pilots.insert(new.id, row);
                self.undo.push(Undo::Pilot(new.id, old));
            }
            Change::PilotState { id, state, seen, reason } => {
                self.change_pilot(*id, |p| (p.state, p.seen, p.reason) = (*state, *seen, reason.clone()));
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
