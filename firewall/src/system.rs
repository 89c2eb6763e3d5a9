//! What is asked of this host: programs and the name service. Calls block; they are made off the event loop.

use crate::openings::HostName;
use batch::jobs::{self, SiteJob};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

/// For a batch system's command, and for one transaction: both may have much to do on a loaded host.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one name.
const NAME_PATIENCE: Duration = Duration::from_secs(5);

/// Runs programs with a limit of time.
#[derive(Debug, Clone)]
pub struct Host(Handle);

impl Host {
    /// In the runtime of the caller.
    pub fn here() -> Self {
        Self(Handle::current())
    }

    /// Waits for what the runtime does. Not to be called on the event loop.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }

    /// Runs a program with this input; what it said on standard output.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes too long; with what it said on standard error.
    pub fn run(&self, argv: &[&str], input: &str) -> Result<String, String> {
        let [program, args @ ..] = argv else { return Err("no program".into()) };
        let failed = |e: std::io::Error| format!("{program}: {e}; install it, or mend PATH");
        self.wait(async {
            let mut child = tokio::process::Command::new(program);
            child.args(args).env("LC_ALL", "C").kill_on_drop(true);
            let mut child = child
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(failed)?;
            let pipe = child.stdin.take();
            let write = async move {
                if let Some(mut pipe) = pipe {
                    // A program that does not read its input says why by its exit code.
                    let _ = pipe.write_all(input.as_bytes()).await;
                }
            };
            let both = async { tokio::join!(write, child.wait_with_output()).1 };
            let ended = tokio::time::timeout(PATIENCE, both).await;
            let output = ended
                .map_err(|_| format!("{program}: not done within {} s", PATIENCE.as_secs()))?
                .map_err(failed)?;
            let said = String::from_utf8_lossy(&output.stderr);
            match output.status.success() {
                true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
                false => Err(format!(
                    "{program}: {}: {}",
                    output.status,
                    said.trim().chars().take(400).collect::<String>()
                )),
            }
        })
    }

    /// Addresses of a name, of both families; none when the name service does not know it.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn lookup(&self, name: &HostName) -> Result<BTreeSet<IpAddr>, String> {
        let found =
            self.wait(tokio::time::timeout(NAME_PATIENCE, tokio::net::lookup_host((name.as_str(), 0))));
        match found {
            Ok(Ok(all)) => Ok(all.map(|a| a.ip()).collect()),
            // The library gives one error for a name that is not there and for a service that is away.
            Ok(Err(_)) => Ok(BTreeSet::new()),
            Err(_) => Err(format!(
                "the name service does not say within {} s what {} is",
                NAME_PATIENCE.as_secs(),
                name.as_str()
            )),
        }
    }
}

/// The name service.
pub trait Names: Send + Sync {
    /// Addresses of a name, of both families; none for an unknown one.
    ///
    /// # Errors
    /// When the service does not answer.
    fn lookup(&self, name: &HostName) -> Result<BTreeSet<IpAddr>, String>;
}

impl Names for Host {
    fn lookup(&self, name: &HostName) -> Result<BTreeSet<IpAddr>, String> {
        Host::lookup(self, name)
    }
}

/// The batch system.
pub trait Jobs: Send + Sync {
    /// All jobs that are not over.
    ///
    /// # Errors
    /// When nobody can say.
    fn now(&self) -> Result<Vec<SiteJob>, String>;
}

/// Which batch system is asked, by its own commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batch {
    /// oarstat and oarnodes.
    Oar,
    /// squeue and sinfo.
    Slurm,
    /// Our own queue, whose jobs are pilots.
    Queue,
}

/// A batch system that is asked by commands.
#[derive(Debug)]
pub struct Commands {
    /// Which one.
    pub batch: Batch,
    /// Where they run.
    pub host: Host,
}

impl Jobs for Commands {
    fn now(&self) -> Result<Vec<SiteJob>, String> {
        let ask = |argv: &[&str]| self.host.run(argv, "");
        match self.batch {
            Batch::Slurm => jobs::slurm(&ask(&jobs::SLURM_JOBS)?, &ask(&jobs::SLURM_NODES)?),
            Batch::Oar => jobs::oar(&ask(&jobs::OAR_JOBS)?, &ask(&jobs::OAR_NODES)?),
            Batch::Queue => return Err("the queue is asked over HTTPS, not by commands".into()),
        }
        .map_err(|e| e.to_string())
    }
}
