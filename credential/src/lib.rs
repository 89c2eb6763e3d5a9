//! X.509 credentials of the grid: who is behind a proxy, and may we believe it?
//!
//! | looking for | see |
//! |---|---|
//! | the whole judgement of a proxy file | [`verify`] |
//! | the judgement of a TLS peer's chain | [`verify_chain`] |
//! | the rules between certificates (RFC 5280, RFC 3820, GT3 draft, GT2) | [`chain`] |
//! | one certificate, read and classified | [`cert`] |
//! | the way up to a trusted root; name constraints | [`anchor`], [`constraints`] |
//! | the hashed CA directory: CAs, signing policies, namespaces, revocation lists | [`cadir`], [`signing_policy`], [`namespaces`], [`crl`] |
//! | what is wrong with the files of both directories, for `site-policy check` | [`inspect`] |
//! | VOMS attribute certificates | [`voms`] |
//! | making proxies for others | the crate `delegation` |
//! | PEM, DER and names | [`pem`], [`der`], [`name`] |
//!
//! Every parser takes `&[u8]` or `&str` and does no I/O, so that it can be fuzzed alone. Only [`cadir`], [`voms::lsc`]'s
//! callers and [`file`](mod@file) read files. The order of the checks is described in `docs/credentials.md`.
//!
//! Must never: run as root, or forgive a byte that it does not understand. Called by: `glexec-verify`, and every server and client
//! whose peers show proxies.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod cadir;
pub mod cert;
pub mod chain;
pub mod constraints;
pub mod crl;
pub mod der;
pub mod file;
pub mod inspect;
pub mod key;
pub mod name;
pub mod namespaces;
pub mod pem;
mod revocation;
pub mod signature;
pub mod signing_policy;
mod verdict;
pub mod voms;

pub use file::{identity_of_file, write_private};
pub use pem::{certificates, split_pem};
pub use verdict::{Trust, verify, verify_chain};

use identity::{Refusal, RefusalKind};

/// A refusal of the class with its reason, made fit for one log line: it may quote the credential.
pub(crate) fn refuse(kind: RefusalKind, reason: impl Into<String>) -> Refusal {
    Refusal { kind, reason: identity::one_line(&reason.into()) }
}
