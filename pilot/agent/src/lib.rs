//! `pilot run`: takes payloads from the queue and runs them on this worker node.
//!
//! | looking for | see |
//! |---|---|
//! | what becomes of a lease: the decisions | [`lease`] |
//! | carrying them out | [`attempt`] |
//! | claiming, heartbeats, draining | [`pilot`] |
//! | proxy, ports and input of a payload | [`stage`], [`ports`] |
//! | starting and talking to the runner | [`launch`], [`session`] |
//! | logs on their way to the queue | [`spool`] |

mod attempt;
mod launch;
pub mod lease;
mod node;
mod pilot;
pub mod ports;
mod private;
mod registry;
mod session;
mod spool;
mod stage;

use anyhow::{Context, Result};
use launch::Switch;
use node::Node;
use pilot_client::{Client, Connection};
use policy::SitePolicy;
use policy::file::{POLICY_FILE, PortsPolicy};
use ports::{PORT_DIR, PortPool};
use registry::Registry;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// How long a call for a payload is repeated before the payload goes back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `pilot run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Payloads to run at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: u32,
    /// End after this long without a payload (10s, 5m, 2h)
    #[arg(long, value_name = "D", default_value = "10m", value_parser = pilot_client::duration)]
    max_idle: Duration,
    /// End with code 3 when the queue is out of reach for this long and no payload runs
    #[arg(long, value_name = "D", default_value = "10m", value_parser = pilot_client::duration)]
    give_up: Duration,
    /// Time left in the batch slot; payloads with a longer walltime are not asked for
    #[arg(long, value_name = "D", value_parser = pilot_client::duration)]
    time_left: Option<Duration>,
    /// Program that switches to the user's account
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/glexec")]
    glexec: PathBuf,
    /// Run payloads under the pilot's own account
    #[arg(long, conflicts_with = "glexec")]
    no_switch: bool,
    /// Site policy; only its [ports] are read here
    #[arg(long, value_name = "F", default_value = POLICY_FILE)]
    policy: PathBuf,
    /// Directory in which the pilots of a node agree on ports
    #[arg(long, value_name = "D", default_value = PORT_DIR)]
    port_dir: PathBuf,
}

/// Everything that the tasks of an agent share.
struct Agent {
    client: Client,
    node: Node,
    switch: Switch,
    /// The pilot's own proxy.
    proxy: PathBuf,
    ports: Option<PortPool>,
    /// What callers from outside should dial.
    dial_name: String,
    /// 0700; removed at the end.
    private: private::Private,
    registry: Registry,
}

/// Carries the command out: 0 ended when idle or drained, 2 cannot begin, 3 lost the queue.
pub fn run(args: Args) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second subscriber is refused: then somebody else logs for us.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init()
        .ok();
    let agent = match prepare(&args) {
        Ok(agent) => Arc::new(agent),
        Err(e) => {
            eprintln!("pilot run: {e:#}");
            return ExitCode::from(2);
        }
    };
    let end = args.time_left.or_else(slurm_time_left).map(|left| Instant::now() + left);
    let limits = pilot::Limits { slots: args.slots, max_idle: args.max_idle, give_up: args.give_up, end };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(pilot::run(agent, limits)),
        Err(e) => {
            eprintln!("pilot run: cannot start: {e}");
            2
        }
    };
    ExitCode::from(code)
}

/// Slurm tells the end of a job in seconds since the epoch.
fn slurm_time_left() -> Option<Duration> {
    let end = std::env::var("SLURM_JOB_END_TIME").ok()?.parse().ok()?;
    Some((UNIX_EPOCH + Duration::from_secs(end)).duration_since(SystemTime::now()).unwrap_or_default())
}

/// Checks the node before the queue hears of it.
fn prepare(args: &Args) -> Result<Agent> {
    // Payloads without a switch run under the same account and must not read the pilot's memory.
    nix::sys::prctl::set_dumpable(false).context("cannot protect itself (PR_SET_DUMPABLE)")?;
    let node = Node::inspect()?;
    let switch = if args.no_switch {
        Switch::None
    } else {
        tracing::info!(glexec = %args.glexec.display(), version = node::check_glexec(&args.glexec)?, "glexec found");
        Switch::Glexec(args.glexec.clone())
    };
    let policy = ports_policy(&args.policy)?;
    let share = policy.as_ref().and_then(|ports| Some((ports.share_of(&node.host)?, ports)));
    let ports = share
        .map(|(range, p)| PortPool::open(&args.port_dir, range, p.per_payload, p.quarantine))
        .transpose()?;
    let dial_name =
        policy.and_then(|p| p.hostname).filter(|name| !name.is_empty()).unwrap_or_else(|| node.host.clone());
    let settings = args.connection.settings()?;
    let client = Client::new(&settings)?;
    let private = private::Private::create()?;
    Ok(Agent {
        client,
        node,
        switch,
        proxy: settings.proxy,
        ports,
        dial_name,
        private,
        registry: Registry::default(),
    })
}

/// A site without a policy file has no ports to give; a file that was named must be there.
fn ports_policy(file: &Path) -> Result<Option<PortsPolicy>> {
    if file == Path::new(POLICY_FILE) && !file.exists() {
        return Ok(None);
    }
    Ok(Some(SitePolicy::load(file)?.ports))
}
