//! Usage records of identity switches, and the spool that keeps them.
//!
//! One session of `glexec` is one record: a file of events, one JSON object a line, synced before the payload
//! runs and moved from `open/` to `closed/` when it is final. A refused call leaves a record as well.
//! This crate is linked into the setuid program: no `unsafe`, no Cargo features; `serde`, `serde_json`, and the constants of `libc`.
//!
//! | looking for | see |
//! |---|---|
//! | what a record says | [`event`] |
//! | how a line is written and checked | [`line`](mod@line) |
//! | writing: open, append, close, deny | [`spool`] |
//! | reading: the folded [`Record`] and [`Damaged`] files | [`read`] |
//! | UTC times as RFC 3339 | [`time`] |
//! | argument texts that are safe to store | [`text`] |
//! | what the caller says about the work and its batch job | [`claim`] |
//! | the kernel's counters of a cgroup | [`counters`] |
//!
//! Must never: answer before what it wrote is on the disk. Called by: `glexec`, which writes, and `accounting`, which reads.
#![forbid(unsafe_code)]

pub mod claim;
pub mod counters;
mod crc;
pub mod event;
pub mod line;
mod place;
pub mod read;
pub mod spool;
pub mod text;
pub mod time;

pub use event::{Batch, Claimed, Denied, Event, Exit, LeasedPorts, Opened, Role, Subject, Usage};
pub use read::{Damaged, Record, State};
pub use spool::{OpenRecord, Spool};
