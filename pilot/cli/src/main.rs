//! The program `pilot`: the queue, the pilot's agent, and the users' commands. Everything is done in the libraries beside it.

use clap::{Parser, Subcommand};
use pilot_agent as agent;
use pilot_factory as factory;
use pilot_queue as queue;
use pilot_user as user;
use std::process::ExitCode;

/// Runs users' payloads on grid sites, each under its own user's account.
///
/// Exit codes: 0 done, 1 no or failed, 2 usage, 3 cannot reach or damaged.
#[derive(Debug, Parser)]
#[command(name = "pilot", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the central queue.
    Queue(Box<queue::Args>),
    /// Run payloads from the queue on this worker node.
    Run(Box<agent::Args>),
    /// Keep enough pilots queued at each site's batch system.
    Factory(Box<factory::Args>),
    /// Start one payload; called by `pilot run` where pilot-runner is not installed.
    #[command(hide = true)]
    Runner,
    #[command(flatten)]
    User(user::Command),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Queue(args) => queue::run(*args),
        Command::Run(args) => agent::run(*args),
        Command::Factory(args) => factory::run(*args),
        Command::Runner => ExitCode::from(pilot_runner::run(None)),
        Command::User(command) => user::run(command),
    }
}
