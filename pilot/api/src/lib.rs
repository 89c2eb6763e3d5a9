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
//! | pilot | `POST /v1/pilots/{p}/bye` | [`Bye`] -> 204; leases not reported go back at once |
//! | all | `GET /healthz` | -> `ok` |
//!
//! A pilot shows its secret ([`SECRET_HEADER`]) with every call; every request and answer says its version ([`VERSION_HEADER`]).
//!
//! Order for a pilot: logs and output first, then the result: the result ends the lease. `wait` is in whole seconds;
//! the queue may answer earlier (a sync is held one heartbeat at most, a claim one lease or 60 s).
//!
//! Must never: do input or output, or know how anything is stored. Called by: every other room of the pilot.

pub mod names;
mod output;
mod spec;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use strum::{Display, EnumString, IntoStaticStr};
use uuid::Uuid;

pub use names::{Patterns, output_pattern, plain_path};
pub use output::OutputSummary;
pub use spec::{
    InputFile, MAX_SPEC, MissingOutput, PayloadSpec, RawSpec, SpecError, check_variable, is_sha256,
};
/// The values of an enumeration, in the order of the declaration: `VARIANTS`.
pub use strum::VariantArray;

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

/// Starts a delegation. The body may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDelegation {
    /// Its id, made by the client: the same again gets the same request.
    #[serde(default)]
    pub id: Option<Uuid>,
}

/// A delegation in preparation: sign the request and send the chain back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delegation {
    /// Names the delegation in [`Submission`].
    pub id: Uuid,
    /// PKCS#10 request, PEM. The key stays with the queue.
    pub csr: String,
}

/// A request for a proxy: the key stays with the sender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// The lease that entitles the sender.
    pub lease: Uuid,
    /// PKCS#10 request, PEM.
    pub csr: String,
}

/// The new proxy certificate first, then the chain of its issuer, PEM, no key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedChain {
    /// PEM text.
    pub chain: String,
}

/// Submit a payload, or an array of the same payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Id of the payload, or of the array, made by the client: the same again is the same payload, so that a lost answer
    /// does not double it. The queue makes one where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// A completed delegation of the submitting user.
    pub delegation: Uuid,
    /// What to run.
    pub spec: RawSpec,
    /// First and last index; each element finds its own in `PILOT_ARRAY_INDEX`.
    #[serde(default)]
    pub array: Option<(u64, u64)>,
}

/// The ids of what was submitted, in order of the array index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submitted {
    /// Payload ids.
    pub ids: Vec<Uuid>,
}

/// Let a held payload wait again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Takes the place of the payload's delegation, for instance of one that has expired.
    #[serde(default)]
    pub delegation: Option<Uuid>,
}

/// A word that names no value of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownWord(pub String);

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown word {:?}", self.0)
    }
}

impl std::error::Error for UnknownWord {}

/// The word of a value, the same in JSON, in tables for people, and in the queue's store.
macro_rules! as_str {
    ($($name:ty),+) => {$(
        impl $name {
            /// The word, as in JSON.
            pub fn as_str(self) -> &'static str {
                self.into()
            }
        }
    )+};
}

as_str!(PayloadState, Outcome, PilotState, OrderKind);

fn unknown_word(text: &str) -> UnknownWord {
    UnknownWord(text.to_owned())
}

/// States of a payload (`architecture.md` section 9).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownWord, parse_err_fn = unknown_word)]
#[allow(missing_docs)]
pub enum PayloadState {
    Received,
    Waiting,
    Held,
    Matched,
    Running,
    Completing,
    Done,
    Failed,
    Killed,
}

impl PayloadState {
    /// Nothing follows after this state.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Killed)
    }
}

/// How an attempt ended; the class decides about a retry, never the exit code.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownWord, parse_err_fn = unknown_word)]
pub enum Outcome {
    /// The payload returned 0.
    Ok,
    /// The payload returned another code or died by a signal of its own.
    User,
    /// A limit was exceeded: walltime, memory.
    Limit,
    /// Ended on the user's wish.
    Killed,
    /// The site, the helper or the node failed: not the user's fault.
    Infra,
    /// The lease ran out without a word from the pilot.
    Lost,
    /// Another attempt took over before this one reported.
    Superseded,
}

/// States of a pilot.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownWord, parse_err_fn = unknown_word)]
#[allow(missing_docs)]
pub enum PilotState {
    Submitted,
    Starting,
    Validating,
    Ready,
    Busy,
    Draining,
    Done,
    Failed,
    Lost,
}

/// A payload as its owner sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payload {
    /// Id.
    pub id: Uuid,
    /// Subject of the owner's end-entity certificate.
    pub owner: String,
    /// Current state.
    pub state: PayloadState,
    /// One line on why it is in this state, where there is more to say.
    pub reason: Option<String>,
    /// What runs.
    pub spec: RawSpec,
    /// Index within its array.
    pub array_index: Option<u64>,
    /// Id of its array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Uuid>,
    /// When it was submitted.
    pub submitted: u64,
    /// All attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

/// Most payloads of one answer to `GET /v1/payloads`.
pub const PAGE: u32 = 1000;

/// Characters of a reason in a list.
const LISTED_REASON: usize = 200;

impl Payload {
    /// As it stands in a list, where there may be a thousand: a brief specification, and of the newest attempt only who, where
    /// and how it ended.
    #[must_use]
    pub fn listed(mut self) -> Self {
        self.spec = self.spec.brief();
        let mut newest = self.attempts.pop();
        if let Some(report) = newest.as_mut().and_then(|attempt| attempt.report.as_mut()) {
            let reason = report.reason.as_ref().map(|text| text.chars().take(LISTED_REASON).collect());
            let (host, account) = (std::mem::take(&mut report.host), report.account.take());
            *report = Report { exit_code: report.exit_code, reason, host, account, ..Report::default() };
        }
        self.attempts = newest.into_iter().collect();
        self
    }
}

/// One execution of a payload on one pilot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// Id.
    pub id: Uuid,
    /// Counts from 1; also the fence: a report with a lower number than the newest is refused.
    pub number: u32,
    /// The pilot that holds or held the lease.
    pub pilot: Uuid,
    /// When the lease was given.
    pub leased: u64,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// When it ended.
    pub ended: Option<u64>,
    /// What the pilot reported.
    pub report: Option<Report>,
}

/// Facts about an execution, from the worker node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Exit code as a shell would show it: 128+n after signal n; `None` when nothing was started.
    pub exit_code: Option<i32>,
    /// Why the attempt ended like this, one line.
    pub reason: Option<String>,
    /// Host name of the worker node.
    pub host: String,
    /// Local account the payload ran under.
    pub account: Option<String>,
    /// Uid of that account.
    pub uid: Option<u32>,
    /// Session id of `glexec`, equal to the record id.
    pub session: Option<String>,
    /// Leased callback ports, `low-high`.
    pub ports: Option<String>,
    /// Elapsed time in milliseconds.
    pub wall_ms: Option<u64>,
    /// User and system CPU time in milliseconds.
    pub cpu_ms: Option<u64>,
    /// What became of the output files; `None` when none were asked for, or nothing ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputSummary>,
}

/// An entry of a payload's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Grows over the whole queue.
    pub seq: i64,
    /// When.
    pub at: u64,
    /// DN of the user or pilot that caused it, or `queue`.
    pub actor: String,
    /// State afterwards.
    pub state: PayloadState,
    /// Cause, one line.
    pub cause: String,
}

/// A pilot presents itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The pilot's id, made by itself: the same again is the same pilot. The queue makes one where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Worker node.
    pub host: String,
    /// Payloads it can run at the same time.
    pub slots: u32,
    /// Cores of the whole pilot.
    pub cores: u32,
    /// Memory of the whole pilot.
    pub memory: Option<u64>,
    /// Whether payloads run under the user's own account.
    pub switches_identity: bool,
    /// Seconds left in the batch slot; `None` when unlimited.
    pub time_left: Option<u64>,
}

/// The queue's terms.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registered {
    /// Names the pilot from now on.
    pub pilot: Uuid,
    /// Length of a lease in milliseconds.
    pub lease_ms: u64,
    /// How often to sync, in milliseconds.
    pub heartbeat_ms: u64,
}

/// Ask for work.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Names the claim: the same again gets the same leases, when the answer was lost on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// How many payloads at most.
    pub max: u32,
    /// Free cores.
    pub cores: u32,
    /// Free memory.
    pub memory: Option<u64>,
    /// Seconds left in the batch slot.
    pub time_left: Option<u64>,
}

/// Work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claimed {
    /// One entry per payload.
    pub leases: Vec<Lease>,
}

/// The right to run one payload, until it runs out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lease {
    /// Goes with every report; nobody else knows it.
    pub lease: Uuid,
    /// The attempt.
    pub attempt: Uuid,
    /// Its number.
    pub number: u32,
    /// The payload.
    pub payload: Uuid,
    /// Its owner.
    pub owner: String,
    /// What to run.
    pub spec: RawSpec,
    /// Index within its array.
    pub array_index: Option<u64>,
}

/// A pilot's heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Leases it still holds.
    pub leases: Vec<LeaseUpdate>,
    /// What the pilot is doing.
    pub state: PilotState,
    /// Orders it has carried out or given up: ids of [`Order`].
    #[serde(default)]
    pub acked: Vec<Uuid>,
}

/// News of one lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseUpdate {
    /// The lease.
    pub lease: Uuid,
    /// The payload's state as the pilot sees it: `matched`, `running` or `completing`.
    pub state: PayloadState,
}

/// The queue's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// Leases the pilot has lost: it must end those payloads and not report. One that it has ended itself by a result
    /// is not among them.
    pub lost: Vec<Uuid>,
    /// Repeated until acknowledged.
    pub wishes: Vec<Order>,
    /// Take no more work and end when idle.
    pub drain: bool,
}

/// Something the queue wants done about a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Acknowledged by this id.
    pub id: Uuid,
    /// The lease it is about.
    pub lease: Uuid,
    /// What.
    pub kind: OrderKind,
}

/// Kinds of orders.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownWord, parse_err_fn = unknown_word)]
pub enum OrderKind {
    /// End the payload; report outcome `killed`.
    Cancel,
}

/// The final word on an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptResult {
    /// The lease.
    pub lease: Uuid,
    /// How it ended.
    pub outcome: Outcome,
    /// The pilot had to end in order (SIGTERM, drain, end of its batch job) and hands the payload back: nobody has failed,
    /// the attempt does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub returned: bool,
    /// Facts.
    pub report: Report,
}

/// One of many results of `POST /v1/results`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedResult {
    /// The attempt.
    pub attempt: Uuid,
    /// The lease; this and the rest as in [`AttemptResult`].
    pub lease: Uuid,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the pilot hands the payload back in order.
    #[serde(default)]
    pub returned: bool,
    /// Facts.
    pub report: Report,
}

/// What became of one of many results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultAnswer {
    /// The attempt.
    pub attempt: Uuid,
    /// Why it was refused; missing when it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// How the queue is, for one user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The user's payloads by state.
    pub payloads: BTreeMap<String, u64>,
    /// The queue's disk.
    pub storage: Storage,
}

/// The disk with inputs, logs and outputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Storage {
    /// Bytes, used and free.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
    /// Percent; above it no new inputs are taken, and what is over is forgotten sooner.
    pub high_water: u8,
    /// Whether it is above.
    pub full: bool,
    /// Seconds that payloads, logs and outputs are kept after their end.
    pub retention: u64,
}

/// A pilot leaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bye {
    /// Why, one line.
    pub reason: String,
}

/// A pilot as operators see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pilot {
    /// Id.
    pub id: Uuid,
    /// DN it authenticated with.
    pub dn: String,
    /// What it said of itself.
    pub registration: Registration,
    /// State.
    pub state: PilotState,
    /// Last sign of life.
    pub seen: u64,
    /// Payloads it is running.
    pub running: u32,
    /// Payloads that it was ever given.
    #[serde(default)]
    pub attempts: u32,
}

/// Waiting payloads of one user that ask for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Subject of the user.
    pub owner: String,
    /// Cores of one payload.
    pub cores: u32,
    /// Memory of one payload in bytes, where it names any.
    pub memory: Option<u64>,
    /// Longest run of one payload in seconds, where it names any.
    pub walltime: Option<u64>,
    /// How many wait.
    pub waiting: u64,
}

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
