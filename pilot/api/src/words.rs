//! States, outcomes and orders: the closed sets of words of the interface.

use serde::{Deserialize, Serialize};
use std::fmt;
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

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

pub(crate) fn unknown_word(text: &str) -> UnknownWord {
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
    /// A limit was exceeded: walltime, memory, disk.
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
