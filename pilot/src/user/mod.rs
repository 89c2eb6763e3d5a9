//! The users' commands.

use std::process::ExitCode;

/// Commands of users.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what the queue is doing.
    Status {},
}

/// Carries the command out.
pub fn run(_command: Command) -> ExitCode {
    eprintln!("pilot: this command is not built yet");
    ExitCode::from(2)
}
