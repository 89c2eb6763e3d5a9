//! The site's policy: its files, and the decision itself.
//!
//! This crate is a leaf. It reads no file but the text it is handed, holds no `unsafe`, has no Cargo
//! features, and is linked into the setuid program, so it stays small.
//!
//! | looking for | see |
//! |---|---|
//! | who may get what: the decision | [`judge`] |
//! | `/etc/pilotage/policy.toml` | [`file`](mod@file) |
//! | `/etc/glexec.conf` | [`glexec_conf`] |
//! | `grid-mapfile`, `voms-mapfile`, ban files | [`mapfile`] |
//! | uid and gid ranges | [`ids`] |
//! | callback ports | [`ports`] |
#![forbid(unsafe_code)]

pub mod file;
pub mod glexec_conf;
pub mod ids;
pub mod judge;
pub mod mapfile;
pub mod ports;

// `pilot/` still asks for these here; it is being taken apart and names the right crate afterwards.
pub use ::identity;
pub use ::identity::duration;
pub mod wire {
    //! See [`identity::one_line`].
    pub use identity::one_line;
}

pub use file::SitePolicy;
pub use glexec_conf::GlexecConf;
