//! The central queue: `pilot queue`. `docs/queue.md` describes it for users and operators.
//!
//! For: serving the interface of [`pilot_api`] over HTTPS, waking those who wait, and upkeep. Must never: decide what happens
//! to a payload (that is [`pilot_core`]), or know how it is stored ([`pilot_store`]). Called by: the program `pilot`.
//!
//! | module | what it does |
//! |---|---|
//! | [`validate`] | decides what is let in |
//! | [`engine`] | the one writer: load, decide, store, in common transactions |
//! | [`effects`], [`waiting`] | what follows a commit: who is woken, what is watched |
//! | [`state`] | the running queue |
//! | [`files`] | blobs, logs, outputs |
//! | [`upkeep`], [`retention`], [`notices`] | what happens without being asked |
//! | [`lanes`] | fair turns for costly work |
//! | [`proxies`] | delegation in and out |
//! | [`http`] | who may ask what, and the answers |
//! | [`backup`] | copies of everything |
//! | [`config`] | options |

pub mod backup;
pub mod config;
pub mod effects;
pub mod engine;
pub mod files;
pub mod http;
pub mod lanes;
pub mod notices;
pub mod proxies;
pub mod retention;
pub mod state;
pub mod upkeep;
pub mod validate;
pub mod waiting;

#[cfg(test)]
mod tests;

pub use config::{Args, Settings};
use pilot_store::Store;
use service::check::{self, Finding};
use service::{Failure, Hooks, Server};
use state::Queue;
use std::path::Path;
use std::process::ExitCode;

/// Carries `pilot queue` out: serves until SIGTERM or SIGINT. 0 after a clean end, 1 when `--check` finds an error, 2 for wrong
/// options, 3 when something that it needs is missing or damaged.
pub fn run(args: Args) -> ExitCode {
    ExitCode::from(service::ended("pilot queue", carry_out(args)))
}

fn carry_out(args: Args) -> Result<u8, Failure> {
    let runtime = || tokio::runtime::Runtime::new().map_err(Failure::missing);
    let missing = |error: anyhow::Error| Failure::missing(format!("{error:#}"));
    if let Some(action) = args.action.clone() {
        return runtime()?.block_on(backup::run(&action, &args)).map(|()| 0).map_err(missing);
    }
    let only_check = args.check;
    let settings = Settings::from_args(args).map_err(Failure::usage)?;
    if only_check {
        return Ok(check::report(&look(&settings)));
    }
    runtime()?.block_on(serve(settings)).map(|()| 0).map_err(missing)
}

/// `--check`: what would keep the queue from starting, or users and pilots from using it.
fn look(settings: &Settings) -> Vec<Finding> {
    let mut findings = check::certificate(&settings.cert, &settings.key, &settings.trust);
    findings.push(check::listen(&settings.listen));
    let parent = |file: &Path| match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => Path::new(".").to_owned(),
    };
    findings.push(check::writable("directory of the store", &parent(&settings.store)));
    let files = if settings.files.is_dir() { settings.files.clone() } else { parent(&settings.files) };
    findings.push(check::writable("directory of inputs, logs and outputs", &files));
    findings.push(match settings.pilots.len() {
        0 => Finding::Doubtful(
            "pilot_dn: no subject may act as a pilot, so nothing will be run; name one".into(),
        ),
        n => Finding::Good(format!("pilot_dn: {n}")),
    });
    findings
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let signals = service::begin(settings.log_file.as_deref())?;
    let tls = transport::ServerTls::new(&settings.cert, &settings.key, settings.trust.clone())?;
    let _lock = pilot_store::sqlite::Lock::take(&settings.store).map_err(anyhow::Error::msg)?;
    let server = Server::bind(&settings.listen, signals).await?.with_limits(settings.limits());
    let queue = Queue::open(settings).await?;
    let tasks = upkeep::start(&queue);
    tracing::info!(url = server.url(), store = ?queue.settings.store, "queue started");
    let closing = queue.closing.clone();
    // The queue keeps nothing of its files in memory that a signal would have to refresh.
    let hooks = Hooks { reload: || (), end: move || closing.cancel() };
    server.run(tls, http::router(queue.clone()), hooks).await?;
    drop(tasks);
    queue.store.close().await;
    tracing::info!("queue ended");
    Ok(())
}
