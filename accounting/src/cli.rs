//! The command line.

use accounting::filter::{Decision, Filter};
use accounting::when::{BadTime, Moment};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Ask the site's usage records: who ran what, where, as whom, and what it used.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 found, 1 nothing found, 2 usage, 3 spool unreadable or records damaged."
)]
pub struct Cli {
    /// Spool directory [default: [accounting] spool of /etc/pilotage/policy.toml, else /var/spool/pilotage/records]
    #[arg(long, global = true, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List sessions and refusals, oldest first
    List(ListArgs),
    /// Show one record in full
    Show(ShowArgs),
    /// Name who held an account on a host at a moment
    Who(WhoArgs),
    /// Check every record: checksums, gaps in the sequence, torn lines
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Subject of the payload's certificate, exactly
    #[arg(long)]
    pub dn: Option<String>,
    /// Virtual organisation
    #[arg(long)]
    pub vo: Option<String>,
    /// FQAN; /cms means /cms and all below it
    #[arg(long)]
    pub fqan: Option<String>,
    /// Account name
    #[arg(long)]
    pub account: Option<String>,
    /// Uid of the account
    #[arg(long)]
    pub uid: Option<u32>,
    /// Host, by full or short name
    #[arg(long)]
    pub host: Option<String>,
    /// SHA-256 of the credential, or its beginning
    #[arg(long, value_name = "HEX")]
    pub cred_sha256: Option<String>,
    /// Not over before this time: RFC 3339, a date, or an age such as 30d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Moment>,
    /// Begun before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Moment>,
    /// Begun and not over at this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub at: Option<Moment>,
    /// Only what is not over yet
    #[arg(long)]
    pub running: bool,
    /// Only what was let through, or only what was refused
    #[arg(long, value_enum)]
    pub decision: Option<Decision>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Cut nothing, and show more columns
    #[arg(long, conflicts_with = "json")]
    pub wide: bool,
}

impl ListArgs {
    pub fn filter(&self) -> Filter {
        Filter {
            dn: self.dn.clone(),
            vo: self.vo.clone(),
            fqan: self.fqan.clone(),
            account: self.account.clone(),
            uid: self.uid,
            host: self.host.clone(),
            cred_sha256: self.cred_sha256.as_ref().map(|hex| hex.to_ascii_lowercase()),
            since: self.since,
            until: self.until,
            at: self.at,
            running: self.running,
            decision: self.decision,
        }
    }
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Record id, or the beginning or end of exactly one
    #[arg(value_parser = id_part)]
    pub id: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Show each event as well
    #[arg(long)]
    pub events: bool,
}

#[derive(Debug, Args)]
pub struct WhoArgs {
    /// Uid of the account
    #[arg(long)]
    pub uid: u32,
    /// Host, by full or short name
    #[arg(long)]
    pub host: String,
    /// The moment: RFC 3339, now, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub at: Moment,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl WhoArgs {
    pub fn filter(&self) -> Filter {
        Filter {
            uid: Some(self.uid),
            host: Some(self.host.clone()),
            at: Some(self.at),
            decision: Some(Decision::Allowed),
            ..Filter::default()
        }
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn moment(text: &str) -> Result<Moment, BadTime> {
    Moment::parse(text, Moment::now())
}

fn id_part(text: &str) -> Result<String, String> {
    if text.len() < 4 {
        return Err("give at least 4 characters of the id".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}
