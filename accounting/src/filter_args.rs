//! The filters, as command line and interface both take them: one list of names, forms and explanations.

use crate::filter::{self, BatchName, Decision, ExitName, Filter};
use crate::sum::Key;
use crate::when::{BadTime, Moment};
use clap::Args;
use record::Role;

/// What all filters say; all must hold.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Subject of the payload's certificate, exactly
    #[arg(long)]
    dn: Option<String>,
    /// Virtual organisation
    #[arg(long)]
    vo: Option<String>,
    /// FQAN; /cms means /cms and all below it
    #[arg(long)]
    fqan: Option<String>,
    /// Account name
    #[arg(long)]
    account: Option<String>,
    /// Uid of the account
    #[arg(long)]
    uid: Option<u32>,
    /// Host, by full or short name
    #[arg(long)]
    host: Option<String>,
    /// SHA-256 of the credential, or its beginning
    #[arg(long, value_name = "HEX")]
    cred_sha256: Option<String>,
    /// Not over before this time: RFC 3339, 2026-07-01 09:00 (UTC), a date, or an age such as 30d
    #[arg(long, alias = "from", value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Begun before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
    /// Begun and not over at this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Moment>,
    /// Only what is not over yet
    #[arg(long)]
    running: bool,
    /// Only what was let through, or only what was refused
    #[arg(long, value_enum)]
    decision: Option<Decision>,
    /// What ran: payload, pilot or probe
    #[arg(long, value_parser = role)]
    role: Option<Role>,
    /// Name under which the pilot registered, exactly
    #[arg(long, value_name = "DN")]
    pilot_dn: Option<String>,
    /// Record or pilot session around it
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Compute element, exactly
    #[arg(long)]
    ce: Option<String>,
    /// Batch job around it: ID, or ID@HOST with compute element or worker node
    #[arg(long, value_name = "ID", value_parser = batch)]
    batch: Option<BatchName>,
    /// Ended with this exit code, or signal as sig9
    #[arg(long, value_name = "CODE", value_parser = ExitName::parse)]
    exit: Option<ExitName>,
    /// Only sessions whose end nobody saw
    #[arg(long)]
    lost: bool,
    /// Refused for a reason with this text in it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl FilterArgs {
    /// The filter that is meant.
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
            role: self.role,
            pilot_dn: self.pilot_dn.clone(),
            parent: self.parent.clone(),
            ce: self.ce.clone(),
            batch: self.batch.clone(),
            exit: self.exit,
            lost: self.lost,
            reason: self.reason.clone(),
        }
    }
}

/// Reads a point in time, or a month.
///
/// # Errors
/// Says what can be written.
pub fn moment(text: &str) -> Result<Moment, BadTime> {
    Moment::parse(text, Moment::now())
}

/// Reads a point in time, or a month.
///
/// # Errors
/// Says what can be written.
pub fn month(text: &str) -> Result<(Moment, Moment), BadTime> {
    Moment::parse_month(text)
}

fn role(text: &str) -> Result<Role, String> {
    let known = filter::ROLES.into_iter().find(|role| filter::role_name(*role) == text);
    known.ok_or_else(|| "write payload, pilot or probe".to_owned())
}

fn batch(text: &str) -> Result<BatchName, String> {
    if text.is_empty() || text.starts_with('@') {
        return Err("write the job's id, or ID@HOST".to_owned());
    }
    Ok(BatchName::parse(text))
}

/// What sums are asked for.
#[derive(Debug, Args)]
pub struct Summary {
    #[command(flatten)]
    filter: FilterArgs,
    /// By what sums are kept apart, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "vo")]
    pub by: Vec<Key>,
    /// Only what ended in this month, UTC: 2026-07
    #[arg(long, value_name = "MONTH", value_parser = month, conflicts_with_all = ["since", "until"])]
    month: Option<(Moment, Moment)>,
}

impl Summary {
    /// Which records are meant: of one role, or work inside a pilot would count twice, as the payload's and as the pilot's.
    pub fn filter(&self) -> Filter {
        let filter = self.filter.filter();
        let (since, until) = match self.month {
            Some((since, until)) => (Some(since), Some(until)),
            None => (filter.since, filter.until),
        };
        Filter { role: Some(filter.role.unwrap_or_default()), since, until, ..filter }
    }
}
/// Sessions of a time.
#[derive(Debug, Args)]
pub struct Between {
    /// Sessions not over before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Sessions begun before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
    /// Sessions of this month, UTC: 2026-07
    #[arg(long, value_name = "MONTH", value_parser = month, conflicts_with_all = ["since", "until"])]
    month: Option<(Moment, Moment)>,
}

impl Between {
    /// Which records are meant.
    pub fn filter(&self) -> Filter {
        let (since, until) = match self.month {
            Some((since, until)) => (Some(since), Some(until)),
            None => (self.since, self.until),
        };
        Filter { since, until, ..Filter::default() }
    }
}
