//! `gridfw`: openings of the site's firewall for as long as a job runs, by the interface of Grid'5000.
//!
//! | looking for | see |
//! |---|---|
//! | what a request may say | [`openings`], [`ports`] |
//! | who asks, and whether it may be opened | [`who`], [`decide`] |
//! | openings as elements of sets, and as text for nft | [`elements`], [`render`] |
//! | what holds them | [`backend`] |
//! | what is kept, and when it goes | [`store`], [`keeper`] |
//! | batch system, name service, programs | [`system`] |
//! | paths and status codes | [`http`] |
//! | the configuration file | [`config`] |
#![forbid(unsafe_code)]

mod backend;
mod config;
mod decide;
mod elements;
mod http;
mod keeper;
mod openings;
mod ports;
mod render;
mod store;
mod system;
mod who;

use backend::{DryRun, Firewall, Nft};
use clap::Parser;
use config::{Backend, Config};
use keeper::{Keeper, Parts};
use service::check::{self, Finding};
use service::{Address, Hooks, Server, Signals};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use store::{Sqlite, Store};
use system::{Batch, Commands, Host, Jobs};
use tokio::sync::Notify;

/// Open the site's firewall for jobs, as long as they run, by the interface of Grid'5000's reconfigurable firewall.
///
/// Prints one line, `listening on https://ADDR`, when it is ready (http:// without a certificate, which is for a front end on
/// this host: loopback only). SIGHUP looks at jobs and firewalls at once, and reads the certificate again; SIGTERM ends, and
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
    /// Whose jobs they are for
    #[arg(long, value_enum)]
    batch: Option<Batch>,
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

/// Exit code and reason.
type Failure = (u8, String);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.check, &args.audit) {
        (true, _) => {
            tokio::task::spawn_blocking(move || look(args)).await.unwrap_or_else(|e| Err((3, e.to_string())))
        }
        (false, Some(job)) => audit(&args, job.as_deref()).map(|()| 0),
        (false, None) => serve(args).await.map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err((code, reason)) => {
            let _ = writeln!(std::io::stderr(), "gridfw: {reason}");
            ExitCode::from(code)
        }
    }
}

/// What command line and file say together.
struct Setup {
    config: Config,
    listen: Address,
    backend: Backend,
    batch: Batch,
    store: PathBuf,
}

fn load(args: &Args) -> Result<Config, Failure> {
    let standard = Path::new("/etc/pilotage/gridfw.toml");
    Config::load(args.config.as_deref().unwrap_or(standard), args.config.is_some())
        .map_err(|e| (2, e.to_string()))
}

fn setup(args: &Args) -> Result<Setup, Failure> {
    let config = load(args)?;
    let written = config.listen.as_deref().unwrap_or("localhost:8446").parse::<Address>();
    let listen = args.listen.clone().map_or(written, Ok).map_err(|e| (2, format!("listen: {e}")))?;
    let backend = args.backend.or(config.backend).unwrap_or(Backend::Nft);
    let missing = || {
        (
            2,
            "no batch system is named; give --batch oar or --batch slurm, or batch in the configuration"
                .to_owned(),
        )
    };
    let batch = args.batch.or(config.batch).ok_or_else(missing)?;
    let store = args.store.clone().unwrap_or_else(|| config.store.clone());
    if args.cert.is_none() && !is_loopback(&listen) {
        let reason = format!(
            "{listen} can be reached from elsewhere: give --cert and --key, or listen on localhost behind a front end"
        );
        return Err((2, reason));
    }
    Ok(Setup { config, listen, backend, batch, store })
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
        Err((_, reason)) => {
            check::report(&[Finding::Bad(reason)]);
            return Ok(1);
        }
    };
    let believed = &setup.config.believed;
    let mut findings = vec![match (believed.front_ends.len(), believed.users.len()) {
        (0, 0) => Finding::Doubtful(format!(
            "{shown}: nobody is believed; name front ends in [front] or subjects in [users]"
        )),
        (fronts, users) => Finding::Good(format!("{shown}: {fronts} front ends, {users} users")),
    }];
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        findings.extend(check::certificate(cert, key, &trust(&args)));
    }
    findings.push(check::listen(&setup.listen));
    findings.push(check::writable(
        "store",
        setup.store.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    ));
    let host = Host::here();
    let found = |what: &str, done: Result<String, String>| match done {
        Ok(good) => Finding::Good(format!("{what}: {good}")),
        Err(reason) => Finding::Bad(format!("{what}: {reason}")),
    };
    let jobs = Commands { batch: setup.batch, host: host.clone() }.now();
    findings.push(found("batch system", jobs.map(|jobs| format!("{} jobs that are not over", jobs.len()))));
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
    Ok(u8::from(!check::report(&findings)))
}

/// `--audit`.
fn audit(args: &Args, job: Option<&str>) -> Result<(), Failure> {
    let path = args.store.clone().unwrap_or(load(args)?.store);
    if !path.exists() {
        return Err((3, format!("{}: there is no store; name it with --store", path.display())));
    }
    let trail =
        Sqlite::open(&path).and_then(|store| store.trail(job, usize::MAX)).map_err(|e| (3, e.to_string()))?;
    let text: String =
        trail.iter().map(|line| format!("{}\n", identity::shown::json(&line.to_string()))).collect();
    // Whoever closed the output has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn parts(setup: &Setup) -> Result<Parts, Failure> {
    let host = Host::here();
    let table = setup.config.table.clone();
    let firewall: Box<dyn Firewall> = match setup.backend {
        Backend::Nft => Box::new(Nft::new(table, host.clone())),
        Backend::DryRun => Box::new(DryRun(table)),
    };
    Ok(Parts {
        store: Box::new(Sqlite::open(&setup.store).map_err(|e| (3, e.to_string()))?),
        firewalls: vec![firewall],
        jobs: Box::new(Commands { batch: setup.batch, host: host.clone() }),
        names: Box::new(host),
        rules: setup.config.rules.clone(),
        always_cut: setup.config.always_cut,
    })
}

async fn serve(args: Args) -> Result<(), Failure> {
    let broken = |e: service::Error| (3, e.to_string());
    let setup = setup(&args)?;
    service::logs::start(args.log_file.as_deref()).map_err(broken)?;
    let signals = Signals::catch().map_err(broken)?;
    let tls = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            Some(transport::ServerTls::new(cert, key, trust(&args)).map_err(|e| (3, e.to_string()))?)
        }
        _ => None,
    };
    let parts = parts(&setup)?;
    if setup.backend == Backend::Nft {
        let nft = Nft::new(setup.config.table.clone(), Host::here());
        let looked = tokio::task::spawn_blocking(move || nft.may_touch()).await;
        looked.map_err(|e| (3, e.to_string()))?.map_err(|e| (3, e))?;
    }
    let keeper = Arc::new(Keeper::new(parts).map_err(|e| (3, e.to_string()))?);
    let server = Server::bind(&setup.listen, signals).await.map_err(broken)?;
    // Before the first request: what was stored holds, and what ended meanwhile is gone.
    let first = Arc::clone(&keeper);
    tokio::task::spawn_blocking(move || first.look()).await.map_err(|e| (3, e.to_string()))?;
    let wake = Arc::new(Notify::new());
    let looking = tokio::spawn(look_again(Arc::clone(&keeper), setup.config.every, Arc::clone(&wake)));
    let believed = Arc::new(setup.config.believed);
    let router = http::router(http::Service { keeper, believed, sites: setup.config.sites.into() });
    let hooks = Hooks { reload: move || wake.notify_one(), end: || () };
    match tls {
        Some(tls) => server.run(tls, router, hooks).await,
        None => server.run_plain(router, hooks).await,
    }
    .map_err(|e| (3, e.to_string()))?;
    looking.abort();
    tracing::info!("ended; what is open stays open");
    Ok(())
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
