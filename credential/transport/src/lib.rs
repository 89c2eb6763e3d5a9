//! HTTPS between people and services of the grid: both sides show a certificate, and a client's may be a proxy.
//!
//! The server half ([`ServerTls`], [`serve`]) lets any client finish the handshake, judges its chain with
//! [`credential::verify_chain`] and answers refused ones with the reason, so that users see more than a TLS alert. Nobody takes more than [`Limits`]
//! allow. Handlers find the client in the request extension [`Peer`]. The client half ([`client`](mod@client), [`client_from_pem`]) trusts the CA directory only.
//!
//! Must never: decide what an authenticated peer may do. Called by: servers through `service`, and clients of ours.
#![forbid(unsafe_code)]

mod client;
mod limits;
mod pace;
mod server;

pub use client::{client, client_from_pem};
pub use limits::Limits;
pub use server::{Peer, ServerTls, serve};

use std::path::{Path, PathBuf};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{path}: {source}; check that it exists and that this user may read it")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A certificate, key or CA directory is not usable.
    #[error("{0}")]
    Credential(String),
    /// The CA directory is not usable.
    #[error("CA directory: {0}")]
    CaDirectory(String),
    /// OpenSSL failed.
    #[error("OpenSSL failed: {0}")]
    Library(#[from] openssl::error::ErrorStack),
    /// The HTTP client cannot be built.
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

impl From<identity::Refusal> for Error {
    fn from(refusal: identity::Refusal) -> Self {
        Error::Credential(refusal.reason)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}
