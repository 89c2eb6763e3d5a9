//! The central queue: `pilot queue`. `docs/queue.md` describes it for users and operators.
//!
//! | module | what it does |
//! |---|---|
//! | [`rules`](pilot_core::rules) | decides what happens to payloads and pilots: pure functions |
//! | [`validate`] | decides what is let in |
//! | [`store`] | remembers: SQLite |
//! | [`files`] | remembers: blobs, logs, outputs |
//! | [`state`] | the running queue and the operations on it |
//! | [`waiting`] | bells and clocks |
//! | [`upkeep`] | what happens without being asked |
//! | [`proxies`] | delegation in and out |
//! | [`http`] | who may ask what, and the answers; [`problem`] has the refusals |
//! | [`config`] | options |

pub mod config;
pub mod files;
pub mod http;
pub mod problem;
pub mod proxies;
pub mod state;
pub mod store;
pub mod upkeep;
pub mod validate;
pub mod waiting;

#[cfg(test)]
mod tests;

pub use config::{Args, Settings};
use state::Queue;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Carries `pilot queue` out: serves until SIGTERM or SIGINT. 0 after a clean end, 2 for wrong options, 3 when
/// something that it needs is missing or damaged.
pub fn run(args: Args) -> ExitCode {
    let settings = match Settings::from_args(args) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("pilot queue: {error}");
            return ExitCode::from(2);
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // A second subscriber in one process is no reason not to serve.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pilot queue: cannot start: {error}");
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(serve(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pilot queue: {error:#}");
            ExitCode::from(3)
        }
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    use anyhow::Context;
    let tls = transport::ServerTls::new(&settings.cert, &settings.key, settings.trust.clone())?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr()?;
    let queue = Queue::open(settings).await?;
    let tasks = upkeep::start(&queue);
    writeln!(std::io::stdout(), "listening on https://{address}")?;
    std::io::stdout().flush()?;
    tracing::info!(%address, store = %queue.settings.store.display(), "queue started");
    let closing = queue.closing.clone();
    let shutdown = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        closing.cancel();
    };
    transport::serve(listener, tls, http::router(queue.clone()), shutdown).await?;
    drop(tasks);
    queue.store.close().await;
    tracing::info!("queue ended");
    Ok(())
}
