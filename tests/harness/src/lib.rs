//! What the end-to-end tests and the demo share: machines of their own on this very host.
//!
//! | looking for | see |
//! |---|---|
//! | the real programs at their real paths, private accounts and files | [`Machine`] |
//! | starting a program as an account, and what became of it | [`Run`], [`Running`], [`Ran`] |
//! | the machine's own grid: authority, users, proxies | [`Machine::pki`], [`Machine::proxy`] |
//! | long-running programs, the mapping service | [`Service`], [`Machine::mapping_server`] |
//! | skipping what cannot run here | [`needs`](macro@needs), [`need`] |
//! | full disks, failing calls, wrong answers, stepped clocks | [`fault`] |
//! | a throw-away grid: CA, people, proxies, VOMS | [`pki`] |
//! | proving that nothing is left behind | [`left`] |
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

// `#[needs]` writes `::harness::need`, also in the tests of this crate.
#[cfg(test)]
extern crate self as harness;

mod accounts;
mod cgroup;
pub mod fault;
mod grid;
mod install;
pub mod left;
mod machine;
pub mod need;
pub mod pki;
mod processes;
mod run;
mod service;
mod slot;
mod view;

pub use ::needs::needs;
pub use accounts::Account;
pub use install::{BUILT, SOURCE, bin_dir, image_dir};
pub use machine::{Builder, GLEXEC_LOG, Machine};
pub use run::{Ran, Run, Running};
pub use service::{Service, free_port};
