//! The users' commands: everything that people do with the queue from their own machine.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage or credential, 3 the queue is out of reach or sent nonsense;
//! `wait` and `submit --wait` exit with the payload's own code.
//!
//! Must never: write to a terminal what others wrote without escaping it, or replace a file unasked. Called by: the program `pilot`.

mod callback;
mod hints;
mod jobs;
mod logs;
mod output;
mod runs;
mod say;
mod select;
mod steer;
mod submit;
mod text;
mod unpack;
mod wait;

use pilot_client::{Client, ClientError, Connection};
use std::process::ExitCode;
use std::time::Duration;

/// How long a short command tries to reach the queue.
const RETRY: Duration = Duration::from_secs(5);

/// Commands of users.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Hand in a payload; prints its id
    Submit(Box<submit::Args>),
    /// List your payloads
    Jobs(Box<jobs::JobsArgs>),
    /// Show everything about a payload
    Show(Box<jobs::ShowArgs>),
    /// Print what a payload wrote
    Logs(Box<logs::Args>),
    /// End payloads
    Cancel(Box<steer::CancelArgs>),
    /// Keep waiting payloads from starting
    Hold(Box<steer::HoldArgs>),
    /// Let held payloads wait again, with a fresh proxy
    Release(Box<steer::ReleaseArgs>),
    /// Wait for payloads; exits with the code of the first that did not end well
    Wait(Box<wait::Args>),
    /// Bring a payload's output files home
    Output(Box<output::Args>),
    /// Tell what pilots said of each attempt that ended, for `accounting reconcile --claims`; for subjects of --factory-dn
    Runs(Box<runs::Args>),
    /// List the pilots
    Pilots(Box<Common>),
    /// Say why a payload waits, or why it ended as it did
    Explain(Box<jobs::ShowArgs>),
    /// Let a pilot end once it has finished what it runs
    Drain(Box<jobs::DrainArgs>),
    /// Show what the queue is doing
    Status(Box<Common>),
}

/// Options of every command.
#[derive(Debug, clap::Args)]
pub struct Common {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.connection.settings()?)?)
    }
}

/// Why a command failed, and its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    text: String,
    code: u8,
}

/// What commands return.
type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    fn no(text: String) -> Self {
        Self { text, code: 1 }
    }

    fn usage(text: String) -> Self {
        Self { text, code: 2 }
    }

    fn unreachable(text: String) -> Self {
        Self { text, code: 3 }
    }

    /// Whoever read the output has gone, as `head` does: nothing is left to do, and nothing is wrong.
    fn unread() -> Self {
        Self { text: String::new(), code: 0 }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { text: error.to_string(), code: error.exit_code() }
    }
}

/// Carries the command out.
pub fn run(command: Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            say::note(&format!("cannot start: {e}"));
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(dispatch(command)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.text.is_empty() {
                say::note(&failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}

async fn dispatch(command: Command) -> Result<u8> {
    match command {
        Command::Submit(args) => submit::run(*args).await,
        Command::Jobs(args) => jobs::jobs(*args).await,
        Command::Show(args) => jobs::show(*args).await,
        Command::Logs(args) => logs::run(*args).await,
        Command::Cancel(args) => steer::cancel(*args).await,
        Command::Hold(args) => steer::hold(*args).await,
        Command::Release(args) => steer::release(*args).await,
        Command::Wait(args) => wait::wait(*args).await,
        Command::Output(args) => output::run(*args).await,
        Command::Runs(args) => runs::run(*args).await,
        Command::Pilots(args) => jobs::pilots(*args).await,
        Command::Explain(args) => jobs::explain(*args).await,
        Command::Drain(args) => jobs::drain(*args).await,
        Command::Status(args) => jobs::status(*args).await,
    }
}
