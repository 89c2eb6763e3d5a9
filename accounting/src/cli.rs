//! The command line.

use accounting::compare::Others;
use accounting::export::{self, send::Destination};
use accounting::filter::Filter;
use accounting::filter_args::{Between, FilterArgs, Summary, moment, month};
use accounting::http::Tls;
use accounting::store::reduce::Retention;
use accounting::when::Moment;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Ask the site's usage records: who ran what, where, as whom, and what it used.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Times are in UTC unless they say otherwise; intervals are half-open.\n\
                  Exit codes: 0 found, 1 nothing found, 2 usage, 3 spool or store unreadable, or records damaged."
)]
pub struct Cli {
    /// Spool directory [default: [accounting] spool of /etc/pilotage/policy.toml, else /var/spool/pilotage/records]
    #[arg(long, global = true, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Store directory [default: /var/lib/pilotage/accounting, when --spool is not given]
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
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
    /// Show what ran inside batch jobs and pilots, and how much of their time was idle
    Tree(TreeArgs),
    /// Sum up what ended: jobs, wall time, CPU time, efficiency
    Sum(SumArgs),
    /// Check every record and the chain of day files; names the first bad line
    Verify(VerifyArgs),
    /// Take closed records from the spool into the store
    Fold(FoldArgs),
    /// Tell whom the lines of a ban file would hit, and which hit nobody
    BanCheck(BanCheckArgs),
    /// End running sessions on this node; a dry run unless --yes
    Kill(KillArgs),
    /// Write a month on one HTML page
    Report(ReportArgs),
    /// Compare records with the batch system's accounting and with what pilots told the queue
    Reconcile(ReconcileArgs),
    /// Convert, check and send what ended, in the formats of others
    Export(ExportArgs),
    /// Send this node's records to the site's server: folded first, sent until it has answered for each
    Forward(ForwardArgs),
    /// Take records of worker nodes and answer questions over HTTPS
    Serve(ServeArgs),
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One object with the question and all records
    Json,
    /// One object a line
    Jsonl,
    /// RFC 4180
    Csv,
}

#[derive(Debug, Args)]
pub struct FormatArgs {
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl FormatArgs {
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub format: FormatArgs,
    /// Cut nothing, and show more columns
    #[arg(long)]
    pub wide: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Record id, or the beginning or end of exactly one
    #[arg(value_parser = id_part)]
    pub id: String,
    #[command(flatten)]
    pub format: FormatArgs,
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
    /// The moment: RFC 3339, 2026-07-01 09:00 (UTC), now, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub at: Moment,
    #[command(flatten)]
    pub format: FormatArgs,
}

impl WhoArgs {
    pub fn filter(&self) -> Filter {
        Filter::holder(self.uid, self.host.clone(), self.at)
    }
}

#[derive(Debug, Args)]
pub struct TreeArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub format: FormatArgs,
}

#[derive(Debug, Args)]
pub struct SumArgs {
    #[command(flatten)]
    pub summary: Summary,
    #[command(flatten)]
    pub format: FormatArgs,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A head that an earlier verify printed: it must still be in the chain
    #[arg(long, value_name = "SHA256")]
    pub head: Option<String>,
}

#[derive(Debug, Args)]
pub struct FoldArgs {
    #[command(flatten)]
    pub retention: Retention,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BanCheckArgs {
    /// Ban file, of subjects or of FQANs
    pub file: PathBuf,
    /// Compare with what ran since then
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = moment)]
    pub since: Moment,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).multiple(true)
    .args(["dn", "vo", "fqan", "account", "uid", "host", "cred_sha256", "pilot_dn", "parent", "batch"])))]
pub struct KillArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
    /// End them; without it they are only named
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Only name them, which is the default
    #[arg(long)]
    dry_run: bool,
    /// The program that ends sessions
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/glexec")]
    pub glexec: PathBuf,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// What ended in this month, UTC: 2026-07
    #[arg(long, value_name = "MONTH", value_parser = month)]
    pub month: (Moment, Moment),
    /// Name of the site, for the title
    #[arg(long)]
    pub site: Option<String>,
    /// File to write; else standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ReconcileArgs {
    #[command(flatten)]
    pub others: Others,
    #[command(flatten)]
    between: Between,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl ReconcileArgs {
    pub fn filter(&self) -> Filter {
        self.between.filter()
    }
}

#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Certificate of this host, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// CAs of the server [default: those of the system]
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
}

impl TlsArgs {
    pub fn tls(&self) -> Tls {
        Tls { cert: self.cert.clone(), key: self.key.clone(), ca_dir: self.ca_dir.clone() }
    }
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// In which format
    #[arg(long, value_enum)]
    pub format: export::Format,
    /// Where to: - for standard output, dirq:DIR for a queue of SSM, or the URL of an AUDITOR server or Gratia collector
    #[arg(long, value_name = "DEST", default_value = "-", value_parser = Destination::parse)]
    pub to: Destination,
    /// Convert and check only; nothing is sent or printed
    #[arg(long)]
    pub check: bool,
    /// The site's name, as GOCDB or OIM has it
    #[arg(long)]
    pub site: Option<String>,
    /// Compute element of records that name none
    #[arg(long = "site-ce", value_name = "CE")]
    pub ce_of_site: Option<String>,
    /// Benchmark and score of one core, of records that name none: "HEPscore23 12.5"
    #[arg(long, value_name = "SCORE", value_parser = benchmark)]
    pub benchmark: Option<String>,
    /// VO of those whose credential names none
    #[arg(long, value_name = "VO")]
    pub vo_of_others: Option<String>,
    /// Hide names behind words that are always the same, made with the secret in this file
    #[arg(long, value_name = "KEYFILE")]
    pub pseudonym: Option<PathBuf>,
    /// Only what ended in this month, UTC: 2026-07
    #[arg(long, value_name = "MONTH", value_parser = month, conflicts_with_all = ["since", "until"])]
    month: Option<(Moment, Moment)>,
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl ExportArgs {
    /// Half-open: what ended from the first until just before the second.
    pub fn times(&self) -> (Option<Moment>, Option<Moment>) {
        match self.month {
            Some((since, until)) => (Some(since), Some(until)),
            None => {
                let filter = self.filter.filter();
                (filter.since, filter.until)
            }
        }
    }

    /// All that may have ended in that time.
    pub fn query(&self) -> Filter {
        let (since, until) = self.times();
        let filter = self.filter.filter();
        let role = filter.role.unwrap_or_default();
        Filter { since, until, role: Some(role), ..filter }.around_ends()
    }
}

fn benchmark(text: &str) -> Result<String, String> {
    match export::facts::benchmark(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write a name and the score of one core, such as \"HEPscore23 12.5\"".to_owned()),
    }
}

fn id_part(text: &str) -> Result<String, String> {
    if text.len() < 4 {
        return Err("give at least 4 characters of the id".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// The site's server: https://HOST:PORT
    #[arg(long, value_name = "URL", value_parser = server)]
    pub to: String,
    /// Certificate of this host, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/grid-security/hostcert.pem")]
    cert: PathBuf,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/grid-security/hostkey.pem")]
    key: PathBuf,
    /// CAs of the server
    #[arg(long, value_name = "DIR", default_value = "/etc/grid-security/certificates")]
    ca_dir: PathBuf,
    #[command(flatten)]
    pub retention: Retention,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl ForwardArgs {
    pub fn tls(&self) -> Tls {
        let (cert, key) = (Some(self.cert.clone()), Some(self.key.clone()));
        Tls { cert, key, ca_dir: Some(self.ca_dir.clone()) }
    }
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address, certificate, store, and who may do what
    #[arg(long, value_name = "FILE", default_value = "/etc/pilotage/accounting.toml")]
    pub config: PathBuf,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Look at configuration, certificate, store and address, say what is wrong, and end
    #[arg(long)]
    pub check: bool,
}

fn server(text: &str) -> Result<String, String> {
    match text.strip_prefix("https://").map(|rest| rest.trim_end_matches('/')) {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#']) => Ok(format!("https://{host}")),
        _ => Err("write https://HOST:PORT".to_owned()),
    }
}
