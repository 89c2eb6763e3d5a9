//! The site's policy: the words that every room shares and the decision itself.
//!
//! This crate is a leaf. It reads no file but the text it is handed, holds no `unsafe`, has no Cargo
//! features, and is linked into the setuid program, so it stays small.
//!
//! | looking for | see |
//! |---|---|
//! | who may get what: the decision | [`judge`] |
//! | `/etc/pilotage/policy.toml` | [`file`] |
//! | `/etc/glexec.conf` | [`glexec_conf`] |
//! | `grid-mapfile`, `voms-mapfile`, ban files | [`mapfile`] |
//! | DN, FQAN, account, identity | [`identity`] |
//! | uid and gid ranges | [`ids`] |
//! | callback ports | [`ports`] |
//! | the frames between `glexec` and its children | [`wire`] |
#![forbid(unsafe_code)]

pub mod duration;
pub mod file;
pub mod glexec_conf;
pub mod identity;
pub mod ids;
pub mod judge;
pub mod mapfile;
pub mod ports;
pub mod wire;

pub use file::SitePolicy;
pub use glexec_conf::GlexecConf;
