//! What users bring: delegations and payloads. The same id again is the same thing, so that a lost answer costs nothing.

use crate::change::{Answer, Change, Effect, NewDelegation, NewPayloads, Refused};
use crate::decide::Plan;
use crate::event::{Sign, Submit};
use crate::model::View;
use crate::payloads::usable;

pub(crate) fn submit(plan: &mut Plan, view: &View, submit: &Submit) -> Result<Answer, Refused> {
    if let Some(earlier) = &view.earlier {
        let same =
            earlier.owner == submit.owner && earlier.spec == submit.spec && earlier.array == submit.array;
        return match same {
            true => Ok(Answer::Submitted(earlier.ids.clone())),
            false => Err(Refused::IdTaken("payload")),
        };
    }
    usable(view.delegation.as_ref(), &submit.owner, plan.seconds())?;
    for input in &submit.spec.inputs {
        if !view.blobs.iter().any(|(hash, size)| *hash == input.sha256 && *size == input.size) {
            let (path, sha256) = (input.path.clone(), input.sha256.clone());
            return Err(Refused::BlobMissing { path, sha256, size: input.size });
        }
    }
    let ids: Vec<_> = submit.elements.iter().map(|e| e.0).collect();
    plan.changes.push(Change::Submitted(Box::new(NewPayloads {
        id: submit.id,
        owner: submit.owner.clone(),
        delegation: submit.delegation,
        spec: submit.spec.clone(),
        is_array: submit.array.is_some(),
        elements: submit.elements.clone(),
        at: plan.now,
    })));
    if let Some(url) = &submit.spec.notify {
        plan.changes.extend(ids.iter().map(|id| Change::Notice { payload: *id, url: url.clone() }));
        plan.effects.push(Effect::SendNotices);
    }
    plan.effects.push(Effect::OfferWork);
    plan.effects.extend(ids.iter().map(|id| Effect::PayloadChanged(*id)));
    Ok(Answer::Submitted(ids))
}

pub(crate) fn delegate(plan: &mut Plan, view: &View, new: &NewDelegation) -> Result<Answer, Refused> {
    match &view.delegation {
        // A request that was lost on the way is sent again; the key is the first one's.
        Some(known) if known.owner == new.owner && !known.csr.is_empty() => {
            Ok(Answer::Request(known.csr.clone()))
        }
        Some(_) => Err(Refused::IdTaken("delegation")),
        None => {
            plan.changes.push(Change::Delegation(Box::new(new.clone())));
            Ok(Answer::Request(new.csr.clone()))
        }
    }
}

/// The same chain again is fine, another one is not.
pub(crate) fn sign(plan: &mut Plan, view: &View, sign: &Sign) -> Result<Answer, Refused> {
    let found = view.delegation.as_ref().filter(|d| d.owner == sign.owner);
    let found = found.ok_or(Refused::Unknown("delegation"))?;
    match &found.chain {
        Some(chain) if *chain == sign.chain => Ok(Answer::Done),
        Some(_) => Err(Refused::AlreadySigned),
        None => {
            let (chain, not_after) = (sign.chain.clone(), sign.not_after);
            plan.changes.push(Change::Signed { id: sign.id, chain, not_after });
            Ok(Answer::Done)
        }
    }
}
