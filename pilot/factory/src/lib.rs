//! `pilot factory`: keeps as many pilots at each site's batch system as waiting payloads need.
//!
//! | looking for | see |
//! |---|---|
//! | how many pilots, where, and why: the decision | [`decide`] |
//! | what a look changes about a pilot | [`entry`] |
//! | one round: look, settle, decide, submit | `round` |
//! | what outlives a restart | [`ledger`] |
//! | `factory.toml` | [`config`] |
//!
//! Must never: end a pilot, or submit one that is not in the ledger first. Batch systems are spoken to in [`batch`]'s words,
//! the queue through [`pilot_client`].
#![forbid(unsafe_code)]

mod command;
pub mod config;
pub mod decide;
pub mod entry;
mod explain;
pub mod ledger;
mod round;

use config::Config;
use decide::Plan;
use identity::shown::log_value;
use ledger::{Ledger, LedgerError};
use pilot_client::{Client, ClientError, Settings};
use round::Checked;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Options of `pilot factory`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Configuration
    #[arg(long, value_name = "F", default_value = "/etc/pilotage/factory.toml")]
    config: PathBuf,
    /// Look at configuration, ledger, queue and batch systems, say what is wrong, and end
    #[arg(long)]
    check: bool,
    /// Say once what would be submitted and why; submit nothing, write nothing
    #[arg(long, conflicts_with = "check")]
    dry_run: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say what the factory has decided lately, and why
    Explain(explain::Args),
}

/// Why the factory ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Client(e) => e.exit_code(),
            Self::Ledger(_) | Self::Start(_) => 3,
        }
    }
}

/// Carries the command out: 0 ended by a signal or done, 1 refused or `--check` found an error, 2 the configuration is wrong, 3 the
/// ledger is damaged or taken, or the queue cannot be reached.
pub fn run(args: Args) -> ExitCode {
    // Without a file there is nothing to fail.
    service::logs::start(None).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(carry_out(args)),
        Err(e) => Err(Failure::Start(e)),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            // Standard error may be closed; the exit code still tells.
            let _ = writeln!(std::io::stderr(), "pilot factory: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn carry_out(args: Args) -> Result<ExitCode, Failure> {
    if let Some(Action::Explain(wanted)) = &args.action {
        let config = Config::load(wanted.config()).map_err(Failure::Config)?;
        explain::run(wanted, &config)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(&args.config).map_err(Failure::Config)?;
    let client = client(&config)?;
    if args.check {
        return Ok(check(&config, &client).await);
    }
    if args.dry_run {
        let entries = match config.ledger.exists() {
            true => Ledger::look(&config.ledger)?.entries(round::now())?,
            false => Vec::new(),
        };
        let mut sight = round::look(&config, &client, &entries).await?;
        let plan = round::decide(&config, &mut sight, &mut Checked::new()).await;
        explain::plan(&plan);
        return Ok(ExitCode::SUCCESS);
    }
    serve(args, config, client).await?;
    Ok(ExitCode::SUCCESS)
}

fn client(config: &Config) -> Result<Client, ClientError> {
    let queue = config.queue.as_str().to_owned();
    Client::new(&Settings { queue, proxy: config.proxy.clone(), ca_dir: config.ca_dir.clone() })
}

/// `--check`.
async fn check(config: &Config, client: &Client) -> ExitCode {
    let mut good = true;
    let mut say = |what: &str, found: Result<String, String>| {
        let (word, text) = match &found {
            Ok(text) => ("ok", text),
            Err(text) => ("error", text),
        };
        good &= found.is_ok();
        let _ = writeln!(std::io::stdout(), "{word}: {what}: {}", identity::shown::terminal(text));
    };
    say("ledger", ledger_check(config));
    let sight = round::look(config, client, &[]).await;
    match sight {
        Ok(mut sight) => {
            let waiting: u64 = sight.demand.iter().map(|d| d.waiting).sum();
            say("queue", Ok(format!("{waiting} payloads wait")));
            let plan = round::decide(config, &mut sight, &mut Checked::new()).await;
            for (site, view) in &sight.views {
                let asked = view.strangers.clone().map(|_| "its jobs can be listed".to_owned());
                let run = view.satisfiable.clone().unwrap_or(Ok(()));
                say(&format!("site {site}"), asked.and_then(|text| run.map(|()| text)));
            }
            drop(plan);
        }
        Err(e) => say("queue", Err(e.to_string())),
    }
    ExitCode::from(u8::from(!good))
}

fn ledger_check(config: &Config) -> Result<String, String> {
    let dir = config.ledger.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(std::path::Path::new("."));
    let there = std::fs::metadata(dir).map_err(|e| format!("{}: {e}; make it", dir.display()))?;
    match config.ledger.exists() {
        true => Ledger::look(&config.ledger)
            .and_then(|ledger| ledger.entries(round::now()))
            .map(|entries| format!("{} pilots in it", entries.len()))
            .map_err(|e| e.to_string()),
        false if there.is_dir() => Ok(format!("{} will be made", config.ledger.display())),
        false => Err(format!("{} is no directory", dir.display())),
    }
}

/// Rounds until a signal ends them. SIGHUP reads the configuration again; the count is in the ledger and stays.
async fn serve(args: Args, mut config: Config, mut client: Client) -> Result<(), Failure> {
    let catch = |kind| signal(kind).map_err(Failure::Start);
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let mut hangup = catch(SignalKind::hangup())?;
    let mut ledger = Ledger::open(&config.ledger)?;
    let mut checked = Checked::new();
    tracing::info!(queue = config.queue.as_str(), ledger = %config.ledger.display(), sites = config.sites.len(), "factory started");
    // Nobody but systemd listens, and a system without it is none the worse.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        // A submission that is cut off is in the ledger, and the next look finds it or not.
        tokio::select! {
            done = work(&config, &client, &mut ledger, &mut checked) => done?,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        tokio::select! {
            () = tokio::time::sleep(config.interval) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match reload(&args, &config) {
                Ok((new, new_client)) => {
                    (config, client, checked) = (new, new_client, Checked::new());
                    tracing::info!(sites = config.sites.len(), "configuration read again");
                }
                Err(reason) => tracing::error!(reason = %log_value(&reason), "the configuration is wrong; going on with the one from before"),
            },
        }
    }
    tracing::info!("factory ended; its pilots go on");
    Ok(())
}

fn reload(args: &Args, old: &Config) -> Result<(Config, Client), String> {
    let config = Config::load(&args.config)?;
    if config.ledger != old.ledger {
        return Err("ledger cannot be changed while the factory runs; restart it".into());
    }
    let client = client(&config).map_err(|e| e.to_string())?;
    Ok((config, client))
}

/// One round. A queue that cannot be asked is a reason to submit nothing, not to end.
async fn work(
    config: &Config,
    client: &Client,
    ledger: &mut Ledger,
    checked: &mut Checked,
) -> Result<(), LedgerError> {
    let entries = ledger.entries(round::now())?;
    let mut sight = match round::look(config, client, &entries).await {
        Ok(sight) => sight,
        Err(e) => {
            tracing::warn!(reason = %log_value(&e.to_string()), "the queue cannot be asked");
            let reason = format!("submits nothing while the queue cannot be asked: {e}");
            let reasons: Vec<_> = config.sites.iter().map(|s| (s.name.clone(), reason.clone())).collect();
            return ledger.decided(&reasons, round::now());
        }
    };
    ledger.write(&sight.changed)?;
    for e in &sight.changed {
        tracing::info!(site = e.site, name = e.name, state = e.state.as_str(), host = e.host.as_deref().unwrap_or("-"), why = %log_value(&e.why), "pilot changed");
    }
    let mut plan: Plan = round::decide(config, &mut sight, checked).await;
    let done = round::act(config, ledger, &mut plan).await;
    ledger.decided(&plan.reasons, round::now())?;
    done
}
