//! What users send, and what they are shown: delegations, submissions, payloads with their attempts and history.

use crate::{LimitReached, Outcome, OutputSummary, PayloadState, RawSpec, RefusedPilot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

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
    /// Whether all its attempts went to pilots that switch to the user's account; `None` before the first.
    #[serde(default)]
    pub switched: Option<bool>,
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
    /// Whether that pilot switches to the user's account; `None` when the queue has forgotten the pilot.
    #[serde(default)]
    pub switched: Option<bool>,
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
    /// The limit that ended it, with outcome `limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitReached>,
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

/// How the queue is, for one user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The user's payloads by state.
    pub payloads: BTreeMap<String, u64>,
    /// The queue's disk.
    pub storage: Storage,
    /// Pilots that were refused within the last hour because they do not switch, the latest first.
    #[serde(default)]
    pub refused_pilots: Vec<RefusedPilot>,
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
