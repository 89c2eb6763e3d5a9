//! What to ask the queue for, and what came of it.

use super::attempt::Terms;
use super::keys::Keys;
use super::registry::{Registry, Used, Whole};
use delegation::{CsrPem, KeyPem};
use pilot_api::{Claim, Lease, Registered};
use std::time::Duration;
use uuid::Uuid;

/// The claims of one pilot, one after the other.
#[derive(Debug)]
pub struct Claims {
    whole: Whole,
    heartbeat: Duration,
    most_ahead: u32,
    most_attached: u64,
    /// Whether the queue signs what comes with a claim.
    takes_requests: bool,
    /// Kept until an answer has come: one that was lost on the way may have given leases, which the same claim gets again.
    id: Uuid,
    /// Keys that no lease has got yet, in the order of their requests.
    keys: Vec<(KeyPem, CsrPem)>,
    /// Whether the last answer gave anything: only then is there more to take ahead.
    more: bool,
}

impl Claims {
    /// For a pilot that has just registered.
    pub fn new(whole: Whole, terms: &Registered) -> Self {
        let heartbeat = Duration::from_millis(terms.heartbeat_ms);
        let (most_ahead, most_attached) = (terms.most_ahead, terms.most_attached.into());
        let (takes_requests, id) = (most_ahead > 0, Uuid::now_v7());
        Self {
            whole,
            heartbeat,
            most_ahead,
            most_attached,
            takes_requests,
            id,
            keys: Vec::new(),
            more: false,
        }
    }

    /// What holds for all leases.
    pub fn terms(&self) -> Terms {
        Terms { whole: self.whole, patience: self.heartbeat, most_attached: self.most_attached }
    }

    /// How many leases to hold beyond the slots.
    pub fn ahead(&self, registry: &Registry) -> u32 {
        registry.ahead(self.whole.slots, self.heartbeat, self.most_ahead)
    }

    /// What to ask for, and whether the queue may hold the answer back until there is something; `None` when there is no room.
    /// While all slots are taken the queue is asked for more ahead before what waits has run out, and never waits with its
    /// answer: a slot may become free meanwhile, and then more is wanted.
    pub fn next(&self, used: Used, ahead: u32, time_left: Option<u64>) -> Option<(Claim, bool)> {
        let Whole { slots, cores, memory } = self.whole;
        let cores = cores.saturating_sub(used.cores);
        let now = slots.saturating_sub(used.leases).min(cores);
        let missing = ahead.saturating_sub(used.leases.saturating_sub(slots));
        if now == 0 && (missing == 0 || used.waiting > ahead / 2 || !self.more) {
            return None;
        }
        let claim = Claim {
            id: Some(self.id),
            max: now.saturating_add(missing),
            cores,
            memory: memory.map(|memory| memory.saturating_sub(used.memory)),
            time_left,
            prefetch: ahead,
            requests: Vec::new(),
        };
        Some((claim, now > 0))
    }

    /// Adds requests for proxies, where the queue takes them. Without any, each payload asks by itself.
    pub async fn with_requests(&mut self, claim: Claim, keys: &Keys) -> Claim {
        let wanted = usize::try_from(claim.max).unwrap_or(usize::MAX);
        if !self.takes_requests {
            return claim;
        }
        match keys.some(wanted.saturating_sub(self.keys.len())).await {
            Ok(more) => self.keys.extend(more),
            Err(e) => tracing::warn!(error = format!("{e:#}"), "no keys to go with a claim"),
        }
        let requests = self.keys.iter().take(wanted).map(|(_, request)| request.clone()).collect();
        Claim { requests, ..claim }
    }

    /// An answer has come: its leases, each with its proxy if that came along.
    pub fn answered(&mut self, leases: Vec<Lease>) -> Vec<(Lease, Option<String>)> {
        (self.id, self.more) = (Uuid::now_v7(), !leases.is_empty());
        // A key whose request has been sent for a lease is that lease's, whether or not it was signed.
        let keys = self.keys.drain(..leases.len().min(self.keys.len()));
        let mut keys = keys.map(|(key, _)| key).collect::<Vec<_>>().into_iter();
        let with_proxy = |mut lease: Lease| {
            let (chain, key) = (lease.chain.take(), keys.next());
            let proxy = chain.zip(key).and_then(|(chain, key)| delegation::join(&chain, &key).ok());
            (lease, proxy)
        };
        leases.into_iter().map(with_proxy).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use delegation::KeyKind;

    fn claims(most_ahead: u32) -> Claims {
        let terms = Registered {
            pilot: Uuid::nil(),
            lease_ms: 60_000,
            heartbeat_ms: 12_000,
            most_ahead,
            most_attached: 0,
        };
        Claims::new(Whole { slots: 2, cores: 4, memory: Some(100) }, &terms)
    }

    fn used(leases: u32, waiting: u32) -> Used {
        let slots = (leases - waiting).min(2);
        Used { leases, waiting, slots, cores: leases, memory: 0 }
    }

    #[test]
    fn free_slots_are_claimed_with_patience_and_the_rest_without() {
        let mut claims = claims(64);
        let asked = |claims: &Claims, used, ahead| {
            claims.next(used, ahead, None).map(|(claim, hold)| (claim.max, claim.prefetch, hold))
        };
        assert_eq!(asked(&claims, used(0, 0), 0), Some((2, 0, true)));
        assert_eq!(asked(&claims, used(1, 0), 0), Some((1, 0, true)));
        assert_eq!(asked(&claims, used(2, 0), 0), None);
        assert_eq!(asked(&claims, used(2, 0), 10), None, "the last claim gave nothing");
        claims.more = true;
        assert_eq!(asked(&claims, used(2, 0), 10), Some((10, 10, false)));
        assert_eq!(asked(&claims, used(0, 0), 10), Some((12, 10, true)));
        assert_eq!(asked(&claims, used(8, 6), 10), None, "enough waits");
        assert_eq!(asked(&claims, used(7, 5), 10), Some((5, 10, false)));
        assert_eq!(asked(&claims, used(12, 0), 10), None, "results on their way count with the queue");
    }

    #[test]
    fn cores_bound_what_begins_at_once() {
        let all = Used { leases: 1, waiting: 0, slots: 1, cores: 4, memory: 100 };
        assert!(claims(0).next(all, 0, None).is_none());
        let some = Used { cores: 3, ..all };
        let (claim, _) = claims(0).next(some, 0, Some(9)).unwrap();
        assert_eq!((claim.max, claim.cores, claim.memory, claim.time_left), (1, 1, Some(0), Some(9)));
    }

    #[tokio::test]
    async fn a_claim_is_repeated_with_its_name_and_requests_until_an_answer_comes() {
        let (mut claims, keys) = (claims(64), Keys::new(KeyKind::EcdsaP256));
        let claim = |claims: &Claims| claims.next(used(0, 0), 1, None).unwrap().0;
        let plain = claim(&claims);
        let first = claims.with_requests(plain, &keys).await;
        let plain = claim(&claims);
        let again = claims.with_requests(plain, &keys).await;
        assert_eq!((first.id, &first.requests), (again.id, &again.requests));
        assert_eq!(first.requests.len(), 3);
        let json = serde_json::json!({"command": ["x"]});
        let lease = Lease {
            lease: Uuid::nil(),
            attempt: Uuid::nil(),
            number: 1,
            payload: Uuid::nil(),
            owner: "/CN=u".into(),
            spec: serde_json::from_value(json).unwrap(),
            array_index: None,
            chain: Some("nonsense".into()),
        };
        let taken = claims.answered(vec![lease]);
        assert!(taken[0].1.is_none(), "a chain that does not fit is asked for again");
        let plain = claim(&claims);
        let next = claims.with_requests(plain, &keys).await;
        assert!(next.id != first.id && next.requests[..2] == first.requests[1..], "no key is used twice");
    }

    #[tokio::test]
    async fn a_queue_of_before_gets_nothing_that_it_does_not_know() {
        let mut claims = claims(0);
        let (claim, _) = claims.next(used(0, 0), 0, None).unwrap();
        let claim = claims.with_requests(claim, &Keys::new(KeyKind::EcdsaP256)).await;
        let json = serde_json::to_value(&claim).unwrap();
        assert!(json.get("prefetch").is_none() && json.get("requests").is_none(), "{json}");
    }
}
