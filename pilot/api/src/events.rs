//! Changes of state, as streams tell them and as callbacks carry them.

use crate::{HistoryEntry, Payload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Header of a callback: base64 of the signature over its body, by the key of the queue's host certificate, SHA-256 (RSA as
/// PKCS#1 v1.5, or ECDSA).
pub const SIGNATURE_HEADER: &str = "pilot-signature";

/// One change of one payload's state. Sequence numbers grow over the whole queue, with gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEvent {
    /// Whose state.
    pub payload: Uuid,
    /// What happened.
    #[serde(flatten)]
    pub entry: HistoryEntry,
}

/// The body of a callback: the payload, in the state that the event led to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Callback {
    /// The change. Whoever has seen its sequence number, or a higher one of this payload, has seen this callback.
    pub event: HistoryEntry,
    /// The payload.
    #[serde(flatten)]
    pub payload: Payload,
}
