//! Everything that ever runs as root.
//!
//! The story of a run is [`pipeline`], on one screen. The crate `policy` decides (`judge`); this crate acts.
//!
//! | room | what it does |
//! |---|---|
//! | [`admit`] | from a process whose state the caller chose to a permitted account |
//! | [`session`] | what exists while an identity is switched: session, cgroup leaf, record, working directory |
//! | [`run`] | the payload: switch, exec, supervise, end |
//! | [`monitor`] | `glexec-monitor`, the optional daemon |
//! | [`sys`] | system calls that need `unsafe` |
//!
//! No byte of a file or a peer that a caller controls is parsed here: files go to helpers without privilege, unread. The
//! caller's argv and environment are parsed, by [`admit::request`] alone, which is small, pure and fuzzed.

mod admit;
mod failure;
mod log;
pub mod monitor;
mod pipeline;
mod run;
mod session;
mod sys;

pub use admit::request;
pub use pipeline::main;
