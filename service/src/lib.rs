//! What every server of ours needs, so that all of them start, reload, log and end alike.
//!
//! | looking for | see |
//! |---|---|
//! | `--listen`: addresses and names | [`Address`] |
//! | signals: end, reload | [`Signals`] |
//! | the life of a server: listening, ready, reloading, ending | [`Server`] |
//! | log lines: where they go and how they are made safe | [`logs`] |
//! | `--check`: what can be known before a server starts | [`check`] |
//! | configuration files | [`config`] |
//! | the first steps and the exit code | [`begin`], [`ended`], [`Failure`] |
//!
//! Servers may call this crate, and nobody else: it installs signal handlers and the log of the whole process. It never
//! decides who may do what; that is for the server's own routes.
//!
//! A server's order at the start is always the same: [`begin`] (log and signals), read what can be wrong, then
//! [`Server::bind`], then [`Server::run`]. From `begin` on SIGHUP no longer ends the process.
#![forbid(unsafe_code)]

mod address;
pub mod check;
pub mod config;
pub mod logs;
mod program;
mod server;
mod signals;

pub use address::{Address, BadAddress};
pub use program::{Failure, begin, ended};
pub use server::{Hooks, Server};
pub use signals::Signals;
pub use transport::Limits;

/// Why a server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; {remedy}")]
    Listen {
        /// As given.
        address: String,
        /// The system's reason.
        source: std::io::Error,
        /// What to do.
        remedy: String,
    },
    /// The log file cannot be opened.
    #[error("cannot write the log {path}: {source}; make its directory, and let this account write there")]
    Log {
        /// Which file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Signals cannot be caught.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] std::io::Error),
}
