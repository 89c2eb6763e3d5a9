//! Another try with more: a payload that reached a limit and asked for that is repeated with a greater one, as far as a pilot
//! can have so much.

use crate::model::{Largest, Payload, Requirements};
use pilot_api::{Factor, LimitKind, LimitReached, amount};

/// What the next try may use, and the line that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Growth {
    pub requirements: Requirements,
    pub said: String,
}

/// What a payload gets after this limit: nothing if it has not asked for more, else more or why there is no more.
pub(crate) fn growth(
    payload: &Payload,
    reached: &LimitReached,
    largest: &Largest,
) -> Option<Result<Growth, String>> {
    let has = payload.requirements;
    let (factor, now, most): (Factor, u64, Option<u64>) = match reached.kind {
        LimitKind::Walltime => return None,
        LimitKind::Memory => (payload.retry.memory?, has.memory?, largest.memory),
        LimitKind::Disk => (payload.retry.disk?, has.disk?, largest.disk),
    };
    let (wanted, kind) = (factor.of(now), reached.kind);
    let next = most.map_or(wanted, |most| wanted.min(most));
    if next <= now {
        return Some(Err(format!(
            "not tried again: no pilot that is there has more {kind} than {}",
            amount(most?)
        )));
    }
    let requirements = match kind {
        LimitKind::Disk => Requirements { disk: Some(next), ..has },
        LimitKind::Memory | LimitKind::Walltime => Requirements { memory: Some(next), ..has },
    };
    let bounded = if next < wanted { ", the most that a pilot has" } else { "" };
    Some(Ok(Growth { requirements, said: format!("tried again with {} of {kind}{bounded}", amount(next)) }))
}
