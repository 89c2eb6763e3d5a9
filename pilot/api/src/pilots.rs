//! What pilots and factories send, and what they are told: registration, claims, leases, heartbeats, results, demand.

use crate::{OrderKind, Outcome, PayloadState, PilotState, Problem, RawSpec, Report};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A request for a proxy: the key stays with the sender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// The lease that entitles the sender.
    pub lease: Uuid,
    /// PKCS#10 request, PEM.
    pub csr: String,
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
    /// Bytes free for working directories when it came; `None` when it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
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
    /// How many leases beyond its slots a pilot may ask for. A queue of before claims had [`Claim::prefetch`] and
    /// [`Claim::requests`] says nothing, and takes neither.
    #[serde(default)]
    pub most_ahead: u32,
    /// How many bytes a result may bring along ([`Attached`]), each log and the output by itself; none with an older queue.
    #[serde(default)]
    pub most_attached: u32,
}

/// Ask for work.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    /// How many leases the pilot may hold beyond its slots, to begin them when others end; none for a pilot that says nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prefetch: u32,
    /// Certificate requests for proxies, PEM: the first for the first lease, and so on. No two leases share a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
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
    /// The proxy for the request at this lease's place in the claim, PEM. Where there is none, the pilot asks for it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
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
    /// What has not been sent yet of logs and output.
    #[serde(default, skip_serializing_if = "Attached::is_empty")]
    pub attached: Attached,
}

/// The rest of the logs and a small output, stored before the result counts: a short payload costs one request, not four.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// The rest of standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Rest>,
    /// The rest of standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Rest>,
    /// Tar of the output files, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl Attached {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// About how much it adds to a request, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let rests = [&self.stdout, &self.stderr].into_iter().flatten().map(|rest| rest.base64.len());
        rests.chain(self.output.iter().map(String::len)).sum()
    }
}

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rest {
    /// Where in the log it begins, in bytes.
    pub offset: u64,
    /// The bytes, in base64.
    pub base64: String,
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

/// A pilot leaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bye {
    /// Why, one line.
    pub reason: String,
    /// Whether its node, or something on it, is the reason.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
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
    /// Why it has ended, as far as that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
