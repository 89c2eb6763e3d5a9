//! Faults that tests inject: what a program meets on machines that are not healthy.
//!
//! | fault | see |
//! |---|---|
//! | a full disk | [`Disk`] |
//! | system calls on files that fail or take long: fsync, write, open, rename ... | [`FaultyCalls`] |
//! | wrong answers of the queue: an error, half, nothing, late; the answer lost | [`FaultyProxy`] |
//! | expired and renewed credentials | [`Pki::short_proxy`](crate::pki::Pki::short_proxy), [`replace_file`] |
//! | a clock that is stepped | [`Clock`] |
//! | the program replaced by an upgrade | [`upgrade`] |
//! | signals, many and at any time | [`SignalStorm`] |
//!
//! Nothing here pretends: the kernel, the C library or a TLS peer gives the wrong answer, and the real program under
//! test meets it. `docs/faults.md` says what a user sees of each.

mod calls;
mod clock;
mod disk;
mod http;
mod programs;
mod proxy;

pub use calls::FaultyCalls;
pub use clock::Clock;
pub(crate) use clock::library as faketime_library;
pub use disk::{Disk, private_mounts};
pub use programs::{SignalStorm, replace_file, upgrade};
pub use proxy::{Answer, FaultyProxy};
