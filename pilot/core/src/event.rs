//! What can happen to the queue, as somebody asks for it.

use crate::model::{Need, View};
use crate::switching::Switching;
use pilot_api::{AttemptResult, Claim, Heartbeat, Outcome, RawSpec, Registration};
use uuid::Uuid;

/// Something that somebody asks for, or that time brings. Ids are made outside, so that a decision is pure.
#[derive(Debug, Clone)]
pub enum Event {
    /// A user submits; the submission has been checked.
    Submit(Box<Submit>),
    /// A user holds a payload back.
    Hold(ByOwner),
    /// A user lets it wait again, perhaps with another delegation.
    Release(ByOwner, Option<Uuid>),
    /// A user wants it ended. The id is for the order to its holder.
    Cancel(ByOwner, Uuid),
    /// A user starts a delegation.
    Delegate(Box<crate::change::NewDelegation>),
    /// A user has signed a delegation; chain and key have been checked.
    Sign(Box<Sign>),
    /// A user has uploaded a blob; it is on disk.
    Upload(crate::change::Change),
    /// A pilot presents itself.
    Register(Box<Register>),
    /// A pilot asks for work.
    Claim(Box<Ask>),
    /// A pilot is alive.
    Heartbeat(ByPilot, Heartbeat),
    /// A pilot reports ends: attempt and result.
    Results(Holder, Vec<(Uuid, AttemptResult)>),
    /// A pilot leaves, with its reason, and whether that is its node.
    Leave(ByPilot, String, bool),
    /// A pilot is told to take no more work.
    Drain(ByPilot),
    /// A lease was watched for a whole term, and this was its last renewal.
    LeaseDue(Uuid, u64),
    /// A pilot was watched for a whole term, and this was its last sign of life.
    PilotDue(Uuid, u64),
    /// What came of telling a URL about a payload.
    NoticeTried(Uuid, Tried),
}

/// What came of telling a URL about a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// Nobody took it.
    Failed,
    /// Everything up to this sequence number was taken, or given up.
    Told(i64),
    /// There is nothing more to tell.
    Over,
}

/// A payload and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByOwner {
    /// The payload.
    pub payload: Uuid,
    /// The asking user's DN.
    pub user: String,
}

/// Who acts for leases: a pilot that shows nothing but itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The asking DN.
    pub dn: String,
    /// Digest of the secret that was shown, with that DN.
    pub secret: Option<String>,
}

/// A pilot and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByPilot {
    /// The pilot.
    pub pilot: Uuid,
    /// The asking DN.
    pub dn: String,
    /// Digest of the secret that was shown, with that DN.
    pub secret: Option<String>,
}

/// A submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Submit {
    /// Its id, by which it is known again.
    pub id: Uuid,
    /// Owner.
    pub owner: String,
    /// Delegation.
    pub delegation: Uuid,
    /// What runs.
    pub spec: RawSpec,
    /// First and last index.
    pub array: Option<(u64, u64)>,
    /// Id and index of each payload.
    pub elements: Vec<(Uuid, Option<u64>)>,
}

/// A signed delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// The delegation.
    pub id: Uuid,
    /// Whose it must be.
    pub owner: String,
    /// Chain, PEM.
    pub chain: String,
    /// End of the proxy, seconds.
    pub not_after: u64,
}

/// A registration.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// The pilot's id.
    pub id: Uuid,
    /// DN.
    pub dn: String,
    /// What it says of itself.
    pub registration: Registration,
    /// Digest that its later calls must match.
    pub secret: Option<String>,
    /// Where it would have to switch.
    pub switching: Switching,
}

/// A claim.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who asks.
    pub by: ByPilot,
    /// For what.
    pub claim: Claim,
    /// Where it would have to switch.
    pub switching: Switching,
    /// Lease and attempt ids, as many as can be given at once.
    pub ids: Vec<(Uuid, Uuid)>,
}

impl Event {
    /// What has to be loaded next before [`decide`](crate::decide()); asked again after each load, with what was found
    /// and how often was loaded.
    pub fn need(&self, view: &View, loaded: u32, now: u64) -> Option<Need> {
        match self {
            Self::Claim(ask) => return crate::claims::need(ask, view, loaded, now),
            Self::Release(by, Some(_)) if loaded == 0 => return Some(Need::Payload(by.payload)),
            Self::Release(_, Some(delegation)) if loaded == 1 => return Some(Need::Delegation(*delegation)),
            Self::Results(_, results)
                if loaded == 1 && results.iter().any(|r| r.1.outcome == Outcome::Limit) =>
            {
                return Some(Need::Largest);
            }
            _ if loaded > 0 => return None,
            _ => {}
        }
        match self {
            Self::Submit(s) => Some(Need::Submission {
                id: s.id,
                owner: s.owner.clone(),
                delegation: s.delegation,
                blobs: s.spec.inputs.iter().map(|i| i.sha256.clone()).collect(),
            }),
            Self::Hold(by) | Self::Release(by, _) | Self::Cancel(by, _) => Some(Need::Payload(by.payload)),
            Self::Delegate(new) => Some(Need::Delegation(new.id)),
            Self::Sign(sign) => Some(Need::Delegation(sign.id)),
            Self::Upload(_) | Self::NoticeTried(..) => None,
            Self::Register(r) => Some(Need::Pilot { id: r.id, named: Vec::new() }),
            Self::Claim(ask) => Some(Need::Pilot { id: ask.by.pilot, named: Vec::new() }),
            Self::Heartbeat(by, body) => {
                Some(Need::Pilot { id: by.pilot, named: body.leases.iter().map(|l| l.lease).collect() })
            }
            Self::Results(_, results) => Some(Need::Attempts(results.iter().map(|r| r.0).collect())),
            Self::Leave(by, ..) | Self::Drain(by) => Some(Need::Pilot { id: by.pilot, named: Vec::new() }),
            Self::LeaseDue(lease, _) => Some(Need::Lease(*lease)),
            Self::PilotDue(pilot, _) => Some(Need::Pilot { id: *pilot, named: Vec::new() }),
        }
    }
}
