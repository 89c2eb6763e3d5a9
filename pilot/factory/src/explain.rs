//! What people see of decisions.

use crate::config::Config;
use crate::decide::Plan;
use crate::ledger::{Decision, Ledger, LedgerError, counts};
use crate::round;
use identity::shown::terminal;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Options of `pilot factory explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration of the factory
    #[arg(long, value_name = "F", default_value = "/etc/pilotage/factory.toml")]
    config: PathBuf,
    /// How many decisions to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: u32,
    /// JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Where the configuration is.
    pub fn config(&self) -> &Path {
        &self.config
    }
}

#[derive(serde::Serialize)]
struct SiteCounts<'a> {
    site: &'a str,
    queued: usize,
    running: usize,
    ended_lately: usize,
}

#[derive(serde::Serialize)]
struct Told<'a> {
    sites: Vec<SiteCounts<'a>>,
    decisions: Vec<Decision>,
}

/// Prints how many pilots there are, and the latest decisions with their reasons.
pub fn run(args: &Args, config: &Config) -> Result<(), LedgerError> {
    let ledger = Ledger::look(&config.ledger)?;
    let entries = ledger.entries(round::now())?;
    let of = |name: &'_ str| counts(&entries, name);
    let sites = config.sites.iter().map(|site| {
        let (queued, running, ended_lately) = of(&site.name);
        SiteCounts { site: &site.name, queued, running, ended_lately }
    });
    let told = Told { sites: sites.collect(), decisions: ledger.decisions(args.last)? };
    let text = if args.json { serde_json::to_string(&told).unwrap_or_default() + "\n" } else { table(&told) };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn table(told: &Told<'_>) -> String {
    let mut text = String::new();
    for s in &told.sites {
        let line = format!(
            "{}: {} queued, {} running, {} ended in the last day",
            s.site, s.queued, s.running, s.ended_lately
        );
        text.push_str(&format!("{}\n", terminal(&line)));
    }
    for d in &told.decisions {
        let line = format!("{} .. {}  {}: {}", when(d.since), when(d.until), place(&d.site), d.reason);
        text.push_str(&format!("{}\n", terminal(&line)));
    }
    text
}

fn place(site: &str) -> &str {
    if site.is_empty() { "all sites" } else { site }
}

fn when(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.map_or_else(|| "?".into(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Prints a plan that is not carried out.
pub fn plan(plan: &Plan) {
    let mut out = std::io::stdout();
    for (site, reason) in &plan.reasons {
        let line = format!("{}: {reason}", place(site));
        let _ = writeln!(out, "{}", terminal(&line));
    }
    for submit in &plan.submit {
        let avoid = match submit.avoid.is_empty() {
            true => String::new(),
            false => format!(", not on {}", submit.avoid.join(", ")),
        };
        let line = format!("would submit to {} for {}{avoid}", submit.site, submit.owner);
        let _ = writeln!(out, "{}", terminal(&line));
    }
}
