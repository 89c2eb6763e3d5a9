//! End-to-end tests: the real programs, run against each other. The tests are in `tests/`, one file per topic; what
//! they share is the crate `harness`, and for the contract of gLExec [`contract`], and for queue and pilot [`site`].
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

pub mod contract;
pub mod gridengine;
pub mod lcmaps;
mod network;
pub mod networks;
pub mod security;
pub mod site;
pub mod slurm;
pub mod storm;
pub mod talker;
