//! The site's policy: its files, and the decision itself.
//!
//! This crate is a leaf. It reads no file but the text it is handed, holds no `unsafe`, has no Cargo
//! features, and is linked into the setuid program, so it stays small.
//!
//! | looking for | see |
//! |---|---|
//! | who may get what: the decision | [`decide`], and [`judge`] for what needs only values |
//! | which files root may trust | [`trusted`] |
//! | `/etc/pilotage/policy.toml` | [`file`](mod@file) |
//! | `/etc/glexec.conf` | [`glexec_conf`] |
//! | `grid-mapfile`, `voms-mapfile`, ban files | [`mapfile`] |
//! | pool accounts and their leases | [`pool`] |
//! | bans of LCAS | [`lcas`] |
//! | lists of callers | [`callers`] |
//! | uid and gid ranges | [`ids`] |
//! | callback ports | [`ports`] |
//! | grid services and where they listen | [`services`] |
//!
//! Must never: open a file, ask a service, or name another program in the image. Called by: `glexec`, `site-policy`, agent and
//! `accounting`.
#![forbid(unsafe_code)]

pub mod callers;
pub mod decide;
pub mod file;
pub mod glexec_conf;
pub mod ids;
pub mod judge;
pub mod lcas;
pub mod mapfile;
pub mod pool;
pub mod ports;
pub mod services;
pub mod trusted;

pub use file::SitePolicy;
pub use glexec_conf::GlexecConf;
