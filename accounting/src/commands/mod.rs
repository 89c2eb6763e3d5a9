//! Carries each command out and makes its answer. Damaged records are named on standard error and never hide the good ones.
//!
//! | looking for | see |
//! |---|---|
//! | list, show, who, tree | [`asking`] |
//! | sum | [`summing`] |
//! | fold, verify | [`keeping`] |
//! | export | [`exporting`] |
//! | forward | [`forwarding`] |
//! | serve | [`serving`] |
//! | ban-check, kill | [`incident`] |
//! | report, reconcile | [`overview`] |

mod asking;
mod exporting;
mod forwarding;
mod incident;
mod keeping;
mod overview;
mod serving;
mod summing;

use crate::cli::{Cli, Command};
use accounting::source::{Contents, Source, SourceError};
use accounting::store::{Store, StoreError};
use identity::shown::log_line;
use record::{Damaged, Spool};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const FOUND: u8 = 0;
const NOTHING: u8 = 1;
/// Exit code for a spool or store that cannot be read, or records that are damaged.
pub const FAILED: u8 = 3;

const DEFAULT_SPOOL: &str = "/var/spool/pilotage/records";
const DEFAULT_STORE: &str = "/var/lib/pilotage/accounting";

/// What goes to standard output, and the exit code.
pub struct Reply {
    pub text: String,
    pub code: u8,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}; correct it, or name the spool with --spool")]
    Policy(#[from] policy::file::PolicyError),
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("store: {0}")]
    Store(#[from] StoreError),
    #[error("there is no store in {}: make it with accounting fold, or name it with --store", .0.display())]
    NoStore(PathBuf),
    #[error("{0}")]
    Send(#[from] accounting::export::send::SendError),
    #[error("{0}")]
    NoAnswer(#[from] accounting::http::NoAnswer),
    #[error("{0}")]
    Forward(#[from] accounting::forward::ForwardError),
    #[error("--pseudonym: {0}")]
    Key(String),
    #[error("{0}")]
    Serve(String),
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: std::io::Error },
    #[error("{0}")]
    Others(#[from] accounting::compare::BadFile),
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Answers the command.
pub fn run(cli: &Cli) -> Result<Reply, Failure> {
    let places = Places::of(cli)?;
    match &cli.command {
        Command::List(args) => asking::list(&places.source()?, args),
        Command::Show(args) => asking::show(&places.source()?, args),
        Command::Who(args) => asking::who(&places.source()?, args),
        Command::Tree(args) => asking::tree(&places.source()?, args),
        Command::Sum(args) => summing::sum(&places.source()?, args),
        Command::Verify(args) => keeping::verify(&places.source()?, args),
        Command::Fold(args) => keeping::fold(&places, args),
        Command::BanCheck(args) => incident::ban_check(&places.source()?, args),
        Command::Kill(args) => incident::kill(&places.source()?, args),
        Command::Report(args) => overview::report(&places.source()?, args),
        Command::Reconcile(args) => overview::reconcile(&places.source()?, args),
        Command::Export(args) => exporting::export(&places, args),
        Command::Forward(args) => forwarding::forward(&places, args),
        Command::Serve(args) => serving::serve(args, cli.store.as_deref()),
    }
}

/// Where spool and store are.
struct Places {
    spool: PathBuf,
    store: PathBuf,
    /// Whether there must be a store.
    store_named: bool,
    /// Whether a store in the usual place is looked at.
    store_wanted: bool,
}

impl Places {
    fn of(cli: &Cli) -> Result<Self, Failure> {
        let spool = match &cli.spool {
            Some(dir) => dir.clone(),
            None => policy_spool(Path::new(policy::file::POLICY_FILE))?,
        };
        Ok(Self {
            spool,
            store: cli.store.clone().unwrap_or_else(|| DEFAULT_STORE.into()),
            store_named: cli.store.is_some(),
            // Whoever names another spool does not mean this host's store.
            store_wanted: cli.store.is_some() || cli.spool.is_none(),
        })
    }

    /// The ledger of exports, beside the index.
    fn ledger(&self) -> Result<PathBuf, Failure> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.store);
        made.map_err(|why| Failure::File { path: self.store.clone(), why })?;
        accounting::store::must_be_ours(&self.store)?;
        Ok(self.store.join("ledger.sqlite"))
    }

    fn source(&self) -> Result<Source, Failure> {
        let store = if self.store_wanted { Store::open(&self.store)? } else { None };
        if store.is_none() && self.store_named && !self.store.join("ledger.sqlite").exists() {
            return Err(Failure::NoStore(self.store.clone()));
        }
        Ok(Source::new(Spool::new(&self.spool), store)?)
    }
}

fn policy_spool(file: &Path) -> Result<PathBuf, Failure> {
    match file.try_exists() {
        Ok(false) => Ok(DEFAULT_SPOOL.into()),
        _ => Ok(policy::SitePolicy::load(file)?.accounting.spool),
    }
}

/// Names what is damaged; returns the exit code for an answer with so many records.
fn tell_damage(damaged: &[Damaged], found: usize) -> u8 {
    for d in damaged {
        // Whoever closed standard error still gets the exit code.
        let _ = writeln!(std::io::stderr(), "accounting: damaged: {}", log_line(&d.to_string()));
    }
    match (damaged.is_empty(), found) {
        (false, _) => FAILED,
        (true, 0) => NOTHING,
        (true, _) => FOUND,
    }
}

fn code_of(contents: &Contents) -> u8 {
    tell_damage(&contents.damaged, contents.records.len())
}
