//! The pilot's agent.

pub mod lease;
pub mod ports;

use std::process::ExitCode;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Carries the command out.
pub fn run(_args: Args) -> ExitCode {
    eprintln!("pilot: this command is not built yet");
    ExitCode::from(2)
}
