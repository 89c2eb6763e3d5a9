//! The queue's HTTP interface: what travels between users, queue and pilots.
//!
//! JSON over HTTPS with proxies as client certificates, all paths below `/v1`. Times are seconds since the epoch,
//! sizes are bytes, ids are UUIDv7. Errors are [`Problem`] (RFC 9457).
//!
//! | who | call | body -> answer |
//! |---|---|---|
//! | user | `POST /v1/delegations` | [`NewDelegation`] or nothing -> [`Delegation`] |
//! | user | `PUT /v1/delegations/{id}` | [`SignedChain`] -> 204 |
//! | user | `PUT /v1/blobs/{sha256}` | bytes -> 204 (hash checked) |
//! | user | `POST /v1/payloads` | [`Submission`] -> [`Submitted`] |
//! | user | `GET /v1/payloads?limit=N&state=S,S&array=ID&begins=HEX&before=ID` | -> `Vec<`[`Payload`]`>` as [`Payload::listed`]: own ones, oldest first; the newest N that match, 1000 (`PAGE`) at most; `before` the first one of an answer asks for the page of older ones |
//! | user | `GET /v1/payloads/{id}?wait=S&final=1` | -> [`Payload`]; with `wait` held until it is final or S seconds passed |
//! | user | `GET /v1/payloads/{id}/events` | -> `Vec<`[`HistoryEntry`]`>` |
//! | user | `GET /v1/events?after=SEQ` | -> `text/event-stream` of own payloads' [`StateEvent`]s, each with its sequence number as `id`; from now on without `after`, which `Last-Event-ID` goes before |
//! | user | `POST /v1/payloads/{id}/cancel` | -> [`Payload`]; 409 when it is done or failed already |
//! | user | `POST /v1/payloads/{id}/hold` | -> [`Payload`]; a waiting payload is not given out |
//! | user | `POST /v1/payloads/{id}/release` | [`Release`] -> [`Payload`]; waiting again, with a new delegation if one is named |
//! | user | `GET /v1/payloads/{id}/logs/{stdout,stderr}?offset=N&wait=S` | -> bytes; header `x-log-end: 1` once no more will come; `x-log-attempt: N` tells whose log it is, `&attempt=N` asks for another than the newest |
//! | user | `GET /v1/payloads/{id}/output` | -> tar stream of the last attempt's output files |
//! | user | `GET /v1/pilots` | -> `Vec<`[`Pilot`]`>` |
//! | pilot | `POST /v1/pilots` | [`Registration`] -> [`Registered`] |
//! | pilot | `POST /v1/pilots/{p}/claim?wait=S` | [`Claim`] -> [`Claimed`], empty after the wait |
//! | pilot | `GET /v1/blobs/{sha256}` | -> bytes |
//! | pilot | `POST /v1/attempts/{a}/delegation` | [`CertificateRequest`] -> [`SignedChain`] |
//! | pilot | `POST /v1/pilots/{p}/sync?wait=S` | [`Heartbeat`] -> [`HeartbeatReply`]: renews leases, returns orders; with `wait` it is held until there is one |
//! | pilot | `PUT /v1/attempts/{a}/logs/{stdout,stderr}?lease=L&offset=N` | bytes -> 204; 409 `wrong_offset` with the right one in [`Problem::offset`] |
//! | pilot | `PUT /v1/attempts/{a}/output?lease=L` | tar stream -> 204 |
//! | pilot | `POST /v1/results` | `Vec<`[`NamedResult`]`>` -> `Vec<`[`ResultAnswer`]`>` |
//! | user | `GET /v1/status` | -> [`Status`] |
//! | pilot | `POST /v1/attempts/{a}/result` | [`AttemptResult`] -> 204; idempotent for one lease, 409 for a superseded one |
//! | pilot | `POST /v1/pilots/{p}/drain` | -> 204; that pilot (of the same DN) is told to take no more work |
//! | factory | `GET /v1/demand` | -> `Vec<`[`Demand`]`>`: what waits, by user and requirements |
//! | factory | `GET /v1/runs?since=S&until=S&after=ID` | -> `Vec<`[`ClaimedRun`]`>`: what pilots told of attempts that ended from `since` until just before `until`, of all users, in the order of their ids, 1000 (`PAGE`) at most; `after` the last one of an answer asks for the next |
//! | pilot | `POST /v1/pilots/{p}/bye` | [`Bye`] -> 204; leases not reported go back at once |
//! | all | `GET /healthz` | -> `ok` |
//!
//! A pilot shows its secret ([`SECRET_HEADER`]) with every call; every request and answer says its version ([`VERSION_HEADER`]).
//!
//! Order for a pilot: logs and output first, then the result: the result ends the lease. `wait` is in whole seconds;
//! the queue may answer earlier (a sync is held one heartbeat at most, a claim one lease or 60 s).
//!
//! Must never: do input or output, or know how anything is stored. Called by: every other room of the pilot.

mod events;
mod limits;
pub mod names;
mod output;
mod pilots;
mod spec;
mod switching;
mod users;
mod words;

use serde::{Deserialize, Serialize};
use std::fmt;

pub use events::{Callback, SIGNATURE_HEADER, StateEvent};
pub use limits::{Factor, LimitKind, LimitReached, WarnSignal, amount};
pub use names::{Patterns, output_pattern, plain_path};
pub use output::OutputSummary;
pub use pilots::{
    Attached, AttemptResult, Bye, CertificateRequest, Claim, Claimed, Demand, Heartbeat, HeartbeatReply,
    Lease, LeaseUpdate, NamedResult, Order, Pilot, Registered, Registration, Rest, ResultAnswer,
};
pub use spec::{
    InputFile, MAX_SPEC, MissingOutput, PayloadSpec, RawSpec, SpecError, check_variable, is_sha256,
};
/// The values of an enumeration, in the order of the declaration: `VARIANTS`.
pub use strum::VariantArray;
pub use switching::{ClaimedRun, RefusedPilot, all_switched};
pub use users::{
    Attempt, Delegation, HistoryEntry, NewDelegation, PAGE, Payload, Release, Report, SignedChain, Status,
    Storage, Submission, Submitted,
};
pub use words::{OrderKind, Outcome, PayloadState, PilotState, UnknownWord};

/// Names this version of the interface in every request and every answer; a request without it is version 1.
pub const VERSION_HEADER: &str = "pilot-api";
/// The present version. 2: results in batches, secrets of pilots, short lists.
pub const VERSION: u32 = 2;
/// The oldest version that the queue understands.
pub const OLDEST: u32 = 1;
/// Header of every call of a pilot: a random word of its own, the same from its registration to its end. Whoever does not show it
/// moves none of its leases, whatever ids and credentials he has.
pub const SECRET_HEADER: &str = "pilot-secret";

/// How often a user's proxy is delegated on its way to a payload: to the queue, and from there to the pilot. `glexec`
/// only copies what it gets.
pub const DELEGATIONS: u32 = 2;

/// An error answer, `application/problem+json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable word for programs, such as `lease_superseded`.
    pub code: String,
    /// One line for people: what is wrong and what to do.
    pub title: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// With `wrong_offset`: where the next byte of the log belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, HTTP {})", self.title, self.code, self.status)
    }
}

impl std::error::Error for Problem {}
