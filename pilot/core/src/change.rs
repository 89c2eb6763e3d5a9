//! What a decision wants stored, what is to be done once it is stored, and what the asker is told.

use crate::event::Tried;
use crate::model::Requirements;
use crate::rules::Illegal;
use pilot_api::{HeartbeatReply, Outcome, PayloadState, PilotState, RawSpec, Registration, Report};
use uuid::Uuid;

/// A decision.
#[derive(Debug, Clone)]
#[must_use]
pub struct Decision {
    /// To be stored in this order, all or nothing.
    pub changes: Vec<Change>,
    /// To be done once the changes are durable.
    pub effects: Vec<Effect>,
    /// What the asker is told, once the changes are durable.
    pub answer: Answer,
}

/// One thing to store.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// New payloads that wait.
    Submitted(Box<NewPayloads>),
    /// A payload's state.
    Payload {
        /// Which.
        id: Uuid,
        /// State from now on.
        state: PayloadState,
        /// Whether its owner wants it ended.
        cancel_wanted: bool,
        /// Why it is in that state.
        reason: Option<String>,
    },
    /// What a payload may use from now on.
    Grown {
        /// The payload.
        payload: Uuid,
        /// All that it asks for.
        requirements: Requirements,
    },
    /// Another delegation for a payload.
    Delegated {
        /// The payload.
        payload: Uuid,
        /// The delegation.
        delegation: Uuid,
    },
    /// A new attempt with its lease.
    Opened(Opened),
    /// The end of an attempt and of its lease.
    Ended(Box<Ended>),
    /// A renewal.
    Renewed {
        /// The lease.
        lease: Uuid,
        /// When.
        at: u64,
    },
    /// An order for the holder of a lease to cancel.
    Ordered {
        /// Its id.
        id: Uuid,
        /// The lease.
        lease: Uuid,
        /// When.
        at: u64,
    },
    /// An order that was carried out or given up.
    Obeyed {
        /// Its id.
        id: Uuid,
    },
    /// A line of a payload's history.
    History(History),
    /// A URL has to be told what happens to a payload, if it is not known already.
    Notice {
        /// The payload.
        payload: Uuid,
        /// Where to.
        url: String,
    },
    /// How a notice fared.
    NoticeTried {
        /// The payload.
        payload: Uuid,
        /// One more try is counted, or none, or it is forgotten.
        tried: Tried,
    },
    /// A new pilot.
    Pilot(Box<NewPilot>),
    /// A pilot's state.
    PilotState {
        /// Which.
        id: Uuid,
        /// State from now on.
        state: PilotState,
        /// Its last sign of life.
        seen: u64,
        /// Why, where it has ended.
        reason: Option<String>,
    },
    /// A pilot is told to take no more work.
    Draining {
        /// Which.
        id: Uuid,
    },
    /// A delegation in preparation.
    Delegation(Box<NewDelegation>),
    /// A delegation is signed.
    Signed {
        /// Which.
        id: Uuid,
        /// Chain, PEM.
        chain: String,
        /// End of the proxy, seconds.
        not_after: u64,
    },
    /// A user possesses a blob that is on disk.
    Blob {
        /// Its hash.
        sha256: String,
        /// Bytes.
        size: u64,
        /// Who.
        owner: String,
        /// When.
        at: u64,
    },
}

/// New payloads with one specification.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPayloads {
    /// Id of the submission: that of the payload, or of the array.
    pub id: Uuid,
    /// Owner.
    pub owner: String,
    /// Delegation.
    pub delegation: Uuid,
    /// What runs.
    pub spec: RawSpec,
    /// Whether the payloads are an array's elements.
    pub is_array: bool,
    /// Id and array index of each.
    pub elements: Vec<(Uuid, Option<u64>)>,
    /// When.
    pub at: u64,
}

/// A new attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The payload.
    pub payload: Uuid,
    /// The attempt.
    pub attempt: Uuid,
    /// Its number.
    pub number: u32,
    /// The lease.
    pub lease: Uuid,
    /// The holder.
    pub pilot: Uuid,
    /// The claim that it answers.
    pub claim: Option<Uuid>,
    /// When.
    pub at: u64,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// The payload.
    pub payload: Uuid,
    /// The attempt.
    pub attempt: Uuid,
    /// The lease.
    pub lease: Uuid,
    /// Its class.
    pub outcome: Outcome,
    /// What the pilot reported; `None` when it did not.
    pub report: Option<Report>,
    /// Whether the pilot handed the payload back in order.
    pub returned: bool,
    /// Hosts to avoid, and until when.
    pub avoid: Option<(Vec<String>, u64)>,
    /// When.
    pub at: u64,
}

/// A line of a payload's history, also written to the log.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The payload.
    pub payload: Uuid,
    /// The attempt it is about.
    pub attempt: Option<Uuid>,
    /// When.
    pub at: u64,
    /// DN of the user or pilot, or `queue`.
    pub actor: String,
    /// State afterwards.
    pub state: PayloadState,
    /// Cause, one line.
    pub cause: String,
}

/// A new pilot.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPilot {
    /// Id.
    pub id: Uuid,
    /// DN that it authenticated with.
    pub dn: String,
    /// What it said of itself.
    pub registration: Registration,
    /// Digest that its later calls must match.
    pub secret: Option<String>,
    /// When.
    pub at: u64,
}

/// A delegation in preparation.
#[derive(Clone, PartialEq)]
pub struct NewDelegation {
    /// Id.
    pub id: Uuid,
    /// Owner.
    pub owner: String,
    /// Private key, PEM.
    pub key: String,
    /// The request to sign, PEM.
    pub csr: String,
    /// When.
    pub at: u64,
}

impl std::fmt::Debug for NewDelegation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewDelegation")
            .field("id", &self.id)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// Something to be done after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Wake pilots that wait for work.
    OfferWork,
    /// Wake those who wait for news of a payload.
    PayloadChanged(Uuid),
    /// Wake a pilot: an order, a lost lease, or room.
    PilotNews(Uuid),
    /// Look at a lease again when its term is over without another renewal.
    Watch {
        /// The lease.
        lease: Uuid,
        /// The renewal to compare with then.
        renewed: u64,
    },
    /// A lease is over.
    Unwatch(Uuid),
    /// Look at a pilot again when its term is over without another sign of life.
    WatchPilot {
        /// The pilot.
        pilot: Uuid,
        /// The sign of life to compare with then.
        seen: u64,
    },
    /// A pilot is gone.
    UnwatchPilot(Uuid),
    /// Tell URLs that want to know of a change.
    SendNotices,
    /// A pilot changed its state: a line for the log.
    PilotChanged {
        /// Which.
        pilot: Uuid,
        /// Its DN.
        actor: String,
        /// Before.
        from: PilotState,
        /// From now on.
        state: PilotState,
        /// Why, one line.
        why: String,
    },
}

/// What the asker is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is done.
    Done,
    /// The payloads.
    Submitted(Vec<Uuid>),
    /// The work that was given.
    Leased(Vec<Given>),
    /// Nothing was given although there is room: some payloads had to be held first. Ask again.
    AskAgain,
    /// The answer to a heartbeat.
    Heartbeat(HeartbeatReply),
    /// One answer per result, in order.
    Results(Vec<Result<(), Refused>>),
    /// The request to sign.
    Request(String),
    /// It is not done.
    Refused(Refused),
}

/// A payload that was given to a pilot.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The lease.
    pub lease: Uuid,
    /// The attempt.
    pub attempt: Uuid,
    /// Its number.
    pub number: u32,
    /// The payload.
    pub payload: Uuid,
    /// Its owner.
    pub owner: String,
    /// Key of its specification.
    pub spec: i64,
    /// What it may use: counts more than the specification.
    pub requirements: Requirements,
    /// Index within its array.
    pub array_index: Option<u64>,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is none, or none that the asker may know of.
    Unknown(&'static str),
    /// The lease is over.
    Superseded,
    /// The state does not allow it.
    Illegal(Illegal),
    /// The id names something else already.
    IdTaken(&'static str),
    /// The delegation has not been signed.
    DelegationIncomplete,
    /// The delegated proxy has expired.
    DelegationExpired,
    /// The delegation has been signed with another chain.
    AlreadySigned,
    /// An input file is not there in that length.
    BlobMissing {
        /// Its name in the payload.
        path: String,
        /// Its hash.
        sha256: String,
        /// Bytes.
        size: u64,
    },
    /// The call does not come from the pilot that registered under this id.
    NotThatPilot,
    /// The pilot does not switch, and this rule of the operator asks for it.
    MustSwitch {
        /// The rule.
        rule: String,
        /// The pilot's worker node.
        host: String,
    },
}
