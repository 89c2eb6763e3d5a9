//! `gridfw`: openings of the site's firewall for as long as a job runs, by the interface of Grid'5000.
//!
//! | looking for | see |
//! |---|---|
//! | what a request may say | [`openings`], [`ports`] |
//! | who asks, and whether it may be opened | [`who`], [`decide`] |
//! | openings as elements of sets, and as text for nft | [`elements`], [`render`] |
//! | what holds them, here and elsewhere | [`backend`], [`agent`] |
//! | what is kept, and when it goes | [`store`], [`keeper`] |
//! | batch system, name service, programs | [`system`], [`queue`] |
//! | paths and status codes | [`http`] |
//! | the configuration file | [`config`] |
//!
//! Must never: touch a table of nftables that is not its own, or take a job's word for whose it is. Called by: nobody; people
//! and programs talk to it over HTTP.
#![forbid(unsafe_code)]

mod agent;
mod backend;
mod config;
mod decide;
mod elements;
mod http;
mod keeper;
mod openings;
mod ports;
mod queue;
mod render;
mod store;
mod system;
mod who;

use agent::{Agent, Remote};
use backend::{DryRun, Firewall, Nft};
use clap::Parser;
use config::{Backend, Config, Elsewhere};
use keeper::{Keeper, Parts};
use queue::Pilots;
use service::check::{self, Finding};
use service::{Address, Failure, Hooks, Server, Signals};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use store::{Sqlite, Store};
use system::{Batch, Commands, Host, Jobs};
use tokio::sync::Notify;
use who::Now;

/// Open the site's firewall for jobs, as long as they run, by the interface of Grid'5000's reconfigurable firewall.
///
/// Prints one line, `listening on https://ADDR`, when it is ready (http:// without a certificate, which is for a front end on
/// this host: loopback only). SIGHUP looks at jobs and firewalls at once, and reads the certificate, `[front]`, `[users]` and `[policy]` again; SIGTERM ends, and
/// leaves what is open. Exit code: 0 ended by a signal, 1 --check found an error, 2 usage or configuration, 3 cannot listen,
/// certificate, store or firewall unusable.
#[derive(Parser)]
#[command(name = "gridfw", version, max_term_width = 100)]
struct Args {
    /// Address or host name, and port, to listen on; port 0 picks a free one [default: localhost:8446]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Address>,
    /// What holds the openings on this host [default: nft]
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Hold what another gridfw says: one of [agent] masters in the configuration. Keeps no store and asks no batch system
    #[arg(long, conflicts_with_all = ["batch", "store"], requires = "cert")]
    agent: bool,
    /// Whose jobs they are for
    #[arg(long, value_enum)]
    batch: Option<Batch>,
    /// URL of the queue for --batch queue [default: as in the configuration]
    #[arg(long, value_name = "URL", env = "PILOT_QUEUE")]
    queue: Option<String>,
    /// Who is believed, what may be opened, what is closed [default: /etc/pilotage/gridfw.toml, if it is there]
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where openings and the audit trail are kept [default: /var/lib/pilotage/gridfw/gridfw.db]
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Certificate of this service, PEM
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Directory of trusted CAs
    #[arg(long, env = "X509_CERT_DIR", default_value = "/etc/grid-security/certificates")]
    ca_dir: PathBuf,
    /// Directory of VOMS servers, for callers with attribute certificates; default: vomsdir beside the CA directory
    #[arg(long, env = "X509_VOMS_DIR")]
    voms_dir: Option<PathBuf>,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Look at configuration, certificate, address, store, batch system and firewall, say what is wrong, and end
    #[arg(long)]
    check: bool,
    /// Print who opened and closed what, and why, of one job or of all, one JSON object a line, the newest first, and end
    #[arg(long, value_name = "JOBID", num_args = 0..=1)]
    audit: Option<Option<String>>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.check, &args.audit) {
        (true, _) => {
            tokio::task::spawn_blocking(move || look(args)).await.unwrap_or_else(|e| Err(Failure::missing(e)))
        }
        (false, Some(job)) => audit(&args, job.as_deref()).map(|()| 0),
        (false, None) => serve(args).await.map(|()| 0),
    };
    ExitCode::from(service::ended("gridfw", done))
}

/// What command line and file say together.
struct Setup {
    config: Config,
    listen: Address,
    backend: Backend,
    store: PathBuf,
}

fn load(args: &Args) -> Result<Config, Failure> {
    let standard = Path::new("/etc/pilotage/gridfw.toml");
    Config::load(args.config.as_deref().unwrap_or(standard), args.config.is_some()).map_err(Failure::usage)
}

fn setup(args: &Args) -> Result<Setup, Failure> {
    let config = load(args)?;
    let written = config.listen.as_deref().unwrap_or("localhost:8446").parse::<Address>();
    let listen =
        args.listen.clone().map_or(written, Ok).map_err(|e| Failure::usage(format!("listen: {e}")))?;
    let backend = args.backend.or(config.backend).unwrap_or(Backend::Nft);
    let store = args.store.clone().unwrap_or_else(|| config.store.clone());
    if args.cert.is_none() && !is_loopback(&listen) {
        let reason = format!(
            "{listen} can be reached from elsewhere: give --cert and --key, or listen on localhost behind a front end"
        );
        return Err(Failure::usage(reason));
    }
    if args.cert.is_none() && config.remote.iter().any(|remote| remote.shown.is_none()) {
        return Err(Failure::usage(
            "[[remote]]: agents want to see who speaks; give cert and key there, or --cert and --key",
        ));
    }
    if backend == Backend::None && (args.agent || config.remote.is_empty()) {
        return Err(Failure::usage(
            "backend none: nothing would hold an opening; name agents in [[remote]], or take nft",
        ));
    }
    if args.agent && config.masters.is_empty() {
        return Err(Failure::usage("--agent: nobody may say what is open; name subjects in [agent] masters"));
    }
    Ok(Setup { config, listen, backend, store })
}

fn batch(args: &Args, config: &Config) -> Result<Batch, Failure> {
    let missing = "no batch system is named; give --batch oar, --batch slurm or --batch queue, or batch in the configuration";
    args.batch.or(config.batch).ok_or_else(|| Failure::usage(missing))
}

fn is_loopback(address: &Address) -> bool {
    let number = address.host().parse::<std::net::IpAddr>();
    address.host() == "localhost" || number.is_ok_and(|a| a.is_loopback())
}

fn trust(args: &Args) -> credential::Trust {
    let mut trust = credential::Trust::in_dir(args.ca_dir.clone());
    trust.voms_dir = args.voms_dir.clone().unwrap_or(trust.voms_dir);
    trust
}

/// `--check`.
fn look(args: Args) -> Result<u8, Failure> {
    let shown =
        args.config.as_deref().unwrap_or(Path::new("/etc/pilotage/gridfw.toml")).display().to_string();
    let setup = match setup(&args) {
        Ok(setup) => setup,
        Err(failure) => return Ok(check::report(&[Finding::Bad(failure.reason().to_owned())])),
    };
    let mut findings = vec![trusted(&args, &setup.config, &shown)];
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        findings.extend(check::certificate(cert, key, &trust(&args)));
    }
    findings.push(check::listen(&setup.listen));
    let host = Host::here();
    let found = |what: &str, done: Result<String, String>| match done {
        Ok(good) => Finding::Good(format!("{what}: {good}")),
        Err(reason) => Finding::Bad(format!("{what}: {reason}")),
    };
    if !args.agent {
        let place = setup.store.parent().filter(|p| !p.as_os_str().is_empty());
        findings.push(check::writable("store", place.unwrap_or(Path::new("."))));
        let jobs = jobs(&args, &setup.config, &Now::new(setup.config.believed.clone()), &host)
            .map_err(|failure| failure.reason().to_owned());
        let jobs = jobs.and_then(|jobs| jobs.now());
        findings
            .push(found("batch system", jobs.map(|jobs| format!("{} jobs that are not over", jobs.len()))));
        for agent in remotes(&args, &setup.config) {
            findings.push(found(agent.name(), agent.holds(&Default::default()).map(|_| "answers".into())));
        }
    }
    if setup.backend == Backend::Nft {
        let table = setup.config.table.clone();
        findings.push(found(
            "nft",
            Nft::new(table, host.clone()).may_touch().map(|()| "our table, or none".into()),
        ));
        if let Err(reason) = host.run(&["conntrack", "--version"], "") {
            findings.push(Finding::Doubtful(format!("flush=1 cannot cut connections: {reason}")));
        }
    }
    Ok(check::report(&findings))
}

/// Who may say something here.
fn trusted(args: &Args, config: &Config, file: &str) -> Finding {
    let Config { believed, masters, .. } = config;
    match (args.agent, believed.front_ends.len(), believed.users.len()) {
        (true, ..) => Finding::Good(format!("{file}: {} masters", masters.len())),
        (_, 0, 0) => Finding::Doubtful(format!(
            "{file}: nobody is believed; name front ends in [front] or subjects in [users]"
        )),
        (_, fronts, users) => Finding::Good(format!("{file}: {fronts} front ends, {users} users")),
    }
}

/// `--audit`.
fn audit(args: &Args, job: Option<&str>) -> Result<(), Failure> {
    let path = args.store.clone().unwrap_or(load(args)?.store);
    if !path.exists() {
        return Err(Failure::missing(format!("{}: there is no store; name it with --store", path.display())));
    }
    let trail =
        Sqlite::open(&path).and_then(|store| store.trail(job, usize::MAX)).map_err(Failure::missing)?;
    let text: String =
        trail.iter().map(|line| format!("{}\n", identity::shown::json(&line.to_string()))).collect();
    // Whoever closed the output has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// What holds openings on this host, if anything does.
fn local(setup: &Setup) -> Option<Box<dyn Firewall>> {
    let table = setup.config.table.clone();
    match setup.backend {
        Backend::Nft => Some(Box::new(Nft::new(table, Host::here()))),
        Backend::DryRun => Some(Box::new(DryRun(table))),
        Backend::None => None,
    }
}

fn remotes(args: &Args, config: &Config) -> Vec<Box<dyn Firewall>> {
    let own = args.cert.clone().zip(args.key.clone());
    let remote = |elsewhere: &Elsewhere| -> Option<Box<dyn Firewall>> {
        let (cert, key) = elsewhere.shown.clone().or_else(|| own.clone())?;
        let (url, ca_dir) = (elsewhere.url.clone(), args.ca_dir.clone());
        Some(Box::new(Remote { url, cert, key, ca_dir, host: Host::here() }))
    };
    config.remote.iter().filter_map(remote).collect()
}

/// Who knows whose nodes are whose.
fn jobs(args: &Args, config: &Config, believed: &Now, host: &Host) -> Result<Box<dyn Jobs>, Failure> {
    let batch = batch(args, config)?;
    let host = host.clone();
    if batch != Batch::Queue {
        return Ok(Box::new(Commands { batch, host }));
    }
    let named = config.queue.as_ref();
    let url = match (&args.queue, named) {
        (Some(url), _) => {
            config::origin(url).map_err(|reason| Failure::usage(format!("--queue: {reason}")))?
        }
        (None, Some(queue)) => queue.url.clone(),
        (None, None) => {
            return Err(Failure::usage("--batch queue: which queue? give --queue, or [queue] url"));
        }
    };
    let own = || args.cert.clone().zip(args.key.clone());
    let shown = named.and_then(|queue| queue.shown.clone()).or_else(own);
    let (cert, key) = shown.ok_or_else(|| {
        Failure::usage("--batch queue: the queue wants to see who asks; give cert and key in [queue], or --cert and --key")
    })?;
    let (ca_dir, believed) = (args.ca_dir.clone(), believed.clone());
    Ok(Box::new(Pilots { url, cert, key, ca_dir, believed, host }))
}

fn parts(args: &Args, setup: &Setup, believed: &Now) -> Result<Parts, Failure> {
    let host = Host::here();
    Ok(Parts {
        store: Box::new(Sqlite::open(&setup.store).map_err(Failure::missing)?),
        firewalls: local(setup).into_iter().chain(remotes(args, &setup.config)).collect(),
        jobs: jobs(args, &setup.config, believed, &host)?,
        names: Box::new(host),
        rules: setup.config.rules.clone(),
        always_cut: setup.config.always_cut,
    })
}

async fn serve(args: Args) -> Result<(), Failure> {
    let signals = service::begin(args.log_file.as_deref())?;
    let setup = setup(&args)?;
    let tls = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            Some(transport::ServerTls::new(cert, key, trust(&args)).map_err(Failure::missing)?)
        }
        _ => None,
    };
    if setup.backend == Backend::Nft {
        let nft = Nft::new(setup.config.table.clone(), Host::here());
        let looked = tokio::task::spawn_blocking(move || nft.may_touch()).await;
        looked.map_err(Failure::missing)?.map_err(Failure::missing)?;
    }
    let ended = match (args.agent, tls, local(&setup)) {
        (true, Some(tls), Some(firewall)) => {
            let agent = Agent { firewall, masters: setup.config.masters, held: Default::default() };
            let server = Server::bind(&setup.listen, signals).await?;
            server.run(tls, agent::router(Arc::new(agent)), Hooks { reload: || (), end: || () }).await
        }
        (_, tls, _) => keep(args, setup, signals, tls).await?,
    };
    ended.map_err(Failure::missing)?;
    tracing::info!("ended; what is open stays open");
    Ok(())
}

/// The service that decides.
async fn keep(
    args: Args,
    setup: Setup,
    signals: Signals,
    tls: Option<transport::ServerTls>,
) -> Result<std::io::Result<()>, Failure> {
    let believed = Now::new(setup.config.believed.clone());
    let parts = parts(&args, &setup, &believed)?;
    let keeper = Arc::new(Keeper::new(parts).map_err(Failure::missing)?);
    let server = Server::bind(&setup.listen, signals).await?;
    // Before the first request: what was stored holds, and what ended meanwhile is gone.
    let first = Arc::clone(&keeper);
    tokio::task::spawn_blocking(move || first.look()).await.map_err(Failure::missing)?;
    let wake = Arc::new(Notify::new());
    let looking = tokio::spawn(look_again(Arc::clone(&keeper), setup.config.every, Arc::clone(&wake)));
    let service = http::Service {
        keeper: Arc::clone(&keeper),
        believed: believed.clone(),
        sites: setup.config.sites.into(),
    };
    let router = http::router(service);
    let reload = move || {
        match load(&args) {
            Ok(config) => {
                keeper.change_terms(config.rules, config.always_cut);
                believed.set(config.believed);
                tracing::info!("[front], [users] and [policy] read again");
            }
            // What was good before is better than nothing.
            Err(failure) => tracing::error!(reason = failure.reason(), "the configuration is left as it was"),
        }
        wake.notify_one();
    };
    let hooks = Hooks { reload, end: || () };
    let ended = match tls {
        Some(tls) => server.run(tls, router, hooks).await,
        None => server.run_plain(router, hooks).await,
    };
    looking.abort();
    Ok(ended)
}

/// Again and again, and at once when woken.
async fn look_again(keeper: Arc<Keeper>, every: std::time::Duration, wake: Arc<Notify>) {
    loop {
        // A wake or the end of the pause: both mean the same.
        let _ = tokio::time::timeout(every, wake.notified()).await;
        let keeper = Arc::clone(&keeper);
        if let Err(error) = tokio::task::spawn_blocking(move || keeper.look()).await {
            tracing::error!(%error, "could not look at jobs and firewalls");
        }
    }
}
