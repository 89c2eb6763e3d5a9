//! The users' commands: everything that people do with the queue from their own machine.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage or credential, 3 the queue is out of reach or sent nonsense;
//! `wait` and `submit --wait` exit with the payload's own code.

mod jobs;
mod logs;
mod output;
mod submit;
mod text;
mod wait;

use pilot_client::{Client, ClientError, Connection};
use serde::Serialize;
use std::io::{ErrorKind, Write};
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
    Cancel(Box<wait::Ids>),
    /// Keep waiting payloads from starting
    Hold(Box<wait::Ids>),
    /// Let held payloads wait again, with a fresh proxy
    Release(Box<wait::ReleaseArgs>),
    /// Wait for payloads; exits with the code of the first that did not end well
    Wait(Box<wait::Ids>),
    /// Bring a payload's output files home
    Output(Box<output::Args>),
    /// List the pilots
    Pilots(Box<Common>),
    /// Let a pilot end once it has finished what it runs
    Drain(Box<jobs::ShowArgs>),
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

    fn about(id: &uuid::Uuid, error: ClientError) -> Self {
        Self { text: format!("{id}: {error}"), code: error.exit_code() }
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
            eprintln!("pilot: cannot start: {e}");
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(dispatch(command)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("pilot: {}", text::clean(&failure.text));
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
        Command::Cancel(args) => wait::cancel(*args).await,
        Command::Hold(args) => wait::hold(*args).await,
        Command::Release(args) => wait::release(*args).await,
        Command::Wait(args) => wait::wait(*args).await,
        Command::Output(args) => output::run(*args).await,
        Command::Pilots(args) => jobs::pilots(*args).await,
        Command::Drain(args) => jobs::drain(*args).await,
        Command::Status(args) => jobs::status(*args).await,
    }
}

/// Writes to standard output; a closed pipe (`pilot jobs | head`) is no failure.
fn print(text: &str) -> Result<u8> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::no(format!("cannot write: {e}"))),
        _ => Ok(0),
    }
}

fn print_json(value: &impl Serialize) -> Result<u8> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Failure::no(format!("cannot write JSON: {e}")))?;
    print(&format!("{text}\n"))
}
