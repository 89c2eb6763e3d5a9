//! `pilot run`: takes payloads from the queue and runs them on this worker node.
//!
//! | looking for | see |
//! |---|---|
//! | what becomes of a lease: the decisions | [`lease`] |
//! | carrying them out | [`attempt`], [`delivery`] |
//! | claiming, draining | [`pilot`], [`claims`], how much ahead [`ahead`] |
//! | heartbeats | [`heart`] |
//! | results, many in one request | [`results`] |
//! | proxy, ports and input of a payload | [`stage`], [`keys`], [`mod@ports`] |
//! | the site's border, opened for a payload's ports | [`opener`] |
//! | finding, starting and talking to the runner | [`runner`], [`launch`], [`conversation`], [`session`] |
//! | what the batch system and the node give | [`batch`], [`node`], [`scratch`], [`health`] |
//! | whether a payload can run here at all | [`mod@probe`] |
//! | logs on their way to the queue | [`spool`] |
//!
//! Must never: touch a user's file under its own account, or believe what a payload's account says about another session.
//! Called by: the program `pilot`.

pub mod ahead;
mod attempt;
pub mod batch;
mod claims;
mod conversation;
pub mod delivery;
pub mod health;
mod heart;
mod keys;
mod launch;
pub mod lease;
mod node;
pub mod opener;
mod own_name;
mod pilot;
pub mod ports;
mod private;
mod probe;
mod registry;
mod results;
mod runner;
pub mod scratch;
mod session;
mod spool;
mod stage;

use anyhow::{Context, Result};
use keys::Keys;
use launch::Switch;
use node::Node;
use opener::Opener;
use pilot_client::{Client, Connection};
use policy::SitePolicy;
use policy::file::{POLICY_FILE, PortsPolicy};
use policy::ports::PortRange;
use policy::ports::variables;
use ports::{PORT_DIR, PortPool, PortSource};
use registry::Registry;
use results::Results;
use runner::Runner;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
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
    /// Time left in the batch slot; payloads with a longer walltime are not asked for [default: what the batch system says]
    #[arg(long, value_name = "D", value_parser = pilot_client::duration)]
    time_left: Option<Duration>,
    /// End with code 4 when this node fails so many payloads in a row
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    max_failures: u32,
    /// Id to register under, as `pilot factory` has written it down [default: a new one]
    #[arg(long, value_name = "UUID")]
    pilot_id: Option<uuid::Uuid>,
    /// Directory for payloads to work in [default: the batch system's scratch directory, else TMPDIR, else /tmp]
    #[arg(long, value_name = "D")]
    scratch: Option<PathBuf>,
    /// Program that switches to the user's account
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/glexec")]
    glexec: PathBuf,
    /// Run payloads under the pilot's own account
    #[arg(long, conflicts_with = "glexec")]
    no_switch: bool,
    /// Keys of payloads' proxies: ecdsa (P-256), or rsa for tools that know nothing else
    #[arg(long, value_name = "KIND", default_value = "ecdsa", value_parser = keys::kind)]
    proxy_key: delegation::KeyKind,
    /// Program that runs beside each payload [default: pilot-runner beside pilot, else as installed]
    #[arg(long, value_name = "PATH")]
    runner: Option<PathBuf>,
    /// Site policy; only its ports are read here
    #[arg(long, value_name = "F", default_value = POLICY_FILE)]
    policy: PathBuf,
    /// Directory in which the pilots of a node agree on ports [default: glexec hands blocks out; without it /run/pilotage/ports]
    #[arg(long, value_name = "D")]
    port_dir: Option<PathBuf>,
}

/// Everything that the tasks of an agent share.
struct Agent {
    client: Client,
    node: Node,
    switch: Switch,
    runner: Runner,
    keys: Keys,
    /// Where payloads work.
    scratch: PathBuf,
    /// When the batch slot ends, seconds since the epoch.
    slot_end: Option<u64>,
    /// The pilot's own proxy.
    proxy: PathBuf,
    ports: Option<PortSource>,
    /// What callers from outside should dial; only with ports.
    dial_name: String,
    /// 0700; removed at the end.
    private: private::Private,
    registry: Registry,
    /// Whether the node has shown that payloads can run here.
    probed: std::sync::atomic::AtomicBool,
    /// Set once the runtime is there.
    results: std::sync::OnceLock<Results>,
}

/// Carries the command out: 0 ended when idle or drained, 1 refused, 2 cannot begin, 3 lost the queue, 4 the node fails
/// payloads.
pub fn run(args: Args) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second subscriber is refused: then somebody else logs for us.
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // A log that cannot be written is no reason to stop.
        .log_internal_errors(false)
        .with_target(false)
        .try_init()
        .ok();
    let agent = match prepare(&args) {
        Ok(agent) => Arc::new(agent),
        Err(e) => return cannot_begin(&format!("{e:#}")),
    };
    let limits = limits(&args, agent.node.time_left);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(async {
            agent.keys.prepare();
            pilot::run(agent, limits).await
        })),
        Err(e) => cannot_begin(&format!("cannot start: {e}")),
    }
}

fn cannot_begin(why: &str) -> ExitCode {
    // Standard error may be closed; the exit code still tells.
    let _ = writeln!(std::io::stderr(), "pilot run: {why}");
    ExitCode::from(2)
}

/// A time that no clock can show is no limit.
fn limits(args: &Args, batch: Option<Duration>) -> pilot::Limits {
    pilot::Limits {
        slots: args.slots,
        max_idle: args.max_idle,
        give_up: args.give_up,
        end: args.time_left.or(batch).and_then(|left| Instant::now().checked_add(left)),
        max_failures: args.max_failures,
        pilot: args.pilot_id,
    }
}

/// Checks the node before the queue hears of it.
fn prepare(args: &Args) -> Result<Agent> {
    // Payloads without a switch run under the same account and must not read the pilot's memory.
    nix::sys::prctl::set_dumpable(false).context("cannot protect itself (PR_SET_DUMPABLE)")?;
    let settings = args.connection.settings()?;
    let switch = if args.no_switch {
        Switch::None
    } else {
        tracing::info!(glexec = %args.glexec.display(), version = node::check_glexec(&args.glexec)?, "glexec found");
        Switch::Glexec(args.glexec.clone())
    };
    let runner = Runner::find(args.runner.as_deref())?;
    let shared = matches!(switch, Switch::Glexec(_));
    let scratch = scratch::choose(args.scratch.as_deref(), shared, |name| {
        std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    })?;
    let node = Node::inspect(args.time_left.is_none())?;
    let slot_end = args.time_left.or(node.time_left).and_then(epoch_in);
    let (ports, dial_name) = ports(args, &node)?;
    let client = Client::new(&settings)?.as_pilot()?;
    let private = private::Private::create_in(&scratch)?;
    tracing::info!(host = node.host, cores = node.cores, memory = node.memory, scratch = %scratch.display(),
        runner = %runner.path().display(), time_left_s = node.time_left.map(|left| left.as_secs()), "node examined");
    Ok(Agent {
        client,
        node,
        switch,
        runner,
        keys: Keys::new(args.proxy_key),
        scratch,
        slot_end,
        proxy: settings.proxy,
        ports,
        dial_name,
        private,
        registry: Registry::default(),
        probed: std::sync::atomic::AtomicBool::new(false),
        results: std::sync::OnceLock::new(),
    })
}

/// What the clock will show then, in seconds since the epoch; a time that no clock can show is no end.
fn epoch_in(left: Duration) -> Option<u64> {
    let end = std::time::SystemTime::now().checked_add(left)?;
    end.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// The node's ports, and the name to dial for them.
fn ports(args: &Args, node: &Node) -> Result<(Option<PortSource>, String)> {
    let policy = ports_policy(&args.policy)?;
    let names = [Some(node.host.as_str()), node.canonical.as_deref()];
    let names: Vec<&str> = names.into_iter().flatten().collect();
    let variables = policy.as_ref().and_then(|policy| policy.variables.as_deref());
    let variables = variables::chosen(variables).map_err(anyhow::Error::msg);
    let variables = variables.with_context(|| args.policy.display().to_string())?;
    let share = policy.as_ref().map_or(Ok(None), |p| p.share_of(&names));
    let share = share.with_context(|| args.policy.display().to_string())?;
    let (Some(policy), Some(range)) = (policy, share) else { return Ok((None, node.host.clone())) };
    let dial_name = node::dial_name(policy.hostname.as_deref(), node.canonical.as_deref(), &node.host)?;
    let pool = port_pool(args, range, &policy)?;
    let patience = policy.quarantine.saturating_add(PATIENCE);
    let opener = policy.opener.as_ref().map(|url| {
        // Not the name to dial: that may be a router's, and openings are for the node itself.
        let own = node::dial_name(None, node.canonical.as_deref(), &node.host)?;
        anyhow::Ok(Arc::new(Opener::new(url, &own, opener::batch_job(|name| std::env::var(name).ok()))))
    });
    let opener = opener.transpose()?;
    Ok((Some(PortSource { pool, default: policy.default, patience, variables, opener }), dial_name))
}

/// Blocks that root hands out where there is a switch: strangers can hold none of them.
fn port_pool(args: &Args, range: PortRange, policy: &PortsPolicy) -> Result<PortPool> {
    let (block, quarantine) = (policy.per_payload, policy.quarantine);
    if args.port_dir.is_none() && !args.no_switch {
        match PortPool::of_root(&args.glexec, range, block, quarantine) {
            Ok(pool) => return Ok(pool),
            Err(e) => tracing::warn!(
                "glexec hands out no blocks of ports: {e:#}; pilots agree in {PORT_DIR}, where any account can hold a block"
            ),
        }
    }
    let dir = args.port_dir.as_deref().unwrap_or(Path::new(PORT_DIR));
    PortPool::in_directory(dir, range, block, quarantine)
}

/// A site without a policy file has no ports to give; a file that was named must be there.
fn ports_policy(file: &Path) -> Result<Option<PortsPolicy>> {
    if file == Path::new(POLICY_FILE) && !file.exists() {
        return Ok(None);
    }
    Ok(Some(SitePolicy::load(file)?.ports))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn no_duration_on_the_command_line_is_too_long() {
        let most = "213503982334601d";
        let args = ["pilot", "--time-left", most, "--max-idle", most, "--give-up", most];
        let args = Cli::parse_from(args).args;
        assert_eq!(limits(&args, None).end, None);
        assert_eq!(limits(&args, Some(Duration::MAX)).end, None);
    }
}
