//! Usage records in the formats of others. Each is a pure function of a record and of what the site says about itself.
//!
//! | format | module | for |
//! |---|---|---|
//! | AUDITOR | [`auditor`] | `POST /record` of an AUDITOR server |
//! | Gratia | [`gratia`] | JobUsageRecord XML for a Gratia or GRACC collector |
//! | UR 1.0, strict and SGAS | [`ur1`] | OGF GFD.98 |
//! | CAR, and UR 2.0 (unverified) | [`car`] | EMI compute accounting record |
//! | APEL messages | [`apel`] | single jobs, summaries and normalised summaries, for SSM |
//! | APEL accelerator 0.1 | `accelerator` | GPUs of sessions, only when asked for |
//! | `glexec.mon` | `glexec_mon` | a file of lines as `glexec_monitor` wrote them |
//!
//! Names can be hidden before: [`pseudonym`].
//!
//! What a consumer would refuse is converted or refused here, before anything is sent: see [`facts`]. What goes where, and
//! that it goes there once, is in [`ledger`] and [`send`].

mod accelerator;
pub mod apel;
pub mod auditor;
pub mod car;
pub mod dirq;
pub mod facts;
mod glexec_mon;
pub mod gratia;
pub mod ledger;
pub mod pseudonym;
pub mod send;
#[cfg(test)]
mod tests;
pub mod ur1;
mod xml;

pub use facts::{Facts, Refused, Site};

use record::Record;

/// Formats of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// AUDITOR records, JSON
    Auditor,
    /// Gratia JobUsageRecord, XML
    Gratia,
    /// OGF UR 1.0 as its schema has it, XML
    #[value(name = "ur1")]
    Ur1,
    /// OGF UR 1.0 with the elements of SGAS, XML
    #[value(name = "ur1-sgas")]
    Ur1Sgas,
    /// EMI CAR, XML
    Car,
    /// OGF UR 2.0, XML; no consumer has verified it
    #[value(name = "ur2")]
    Ur2,
    /// APEL message of single jobs
    Apel,
    /// APEL message of monthly summaries
    ApelSummary,
    /// APEL message of normalised monthly summaries
    ApelNormalised,
    /// APEL message that says how many jobs there are by month
    ApelSync,
    /// APEL accelerator message 0.1, JSON: GPUs; no server takes it yet
    ApelAccelerator,
    /// Lines of glexec_monitor, for probes that read its file
    GlexecMon,
    /// Columns, RFC 4180
    Csv,
    /// One object with all records
    Json,
    /// One object a line
    Jsonl,
}

/// A piece that goes to a consumer in one go, and the records in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Ids of the records.
    pub ids: Vec<String>,
    /// What is sent.
    pub text: String,
}

/// What became of records that were to be exported.
#[derive(Debug, Default)]
pub struct Exported {
    /// Ready to be sent.
    pub pieces: Vec<Piece>,
    /// Refused, each with the reason.
    pub refused: Vec<Refused>,
}

/// Most records in one APEL message, as its clients have it.
const APEL_MOST: usize = 1000;
/// Most records in one Gratia bundle.
const GRATIA_MOST: usize = 100;

/// Final sessions in a format; what runs, and what was refused by `glexec`, used nothing and is left out.
#[must_use]
pub fn export(format: Format, records: &[Record], site: &Site) -> Exported {
    let mut exported = Exported::default();
    let mut facts = Vec::new();
    for record in records.iter().filter(|r| r.opened.is_some() && r.end_unix_ns.is_some()) {
        match Facts::of(record, site).and_then(|facts| facts.fit(format).map(|()| facts)) {
            // GPUs are a record of their own: a session without any is none.
            Ok(fact) if format == Format::ApelAccelerator && accelerator::gpus(&fact) == 0 => {}
            Ok(fact) => facts.push(fact),
            Err(refused) => exported.refused.push(refused),
        }
    }
    exported.pieces = pieces(format, &facts, site);
    exported
}

fn pieces(format: Format, facts: &[Facts<'_>], site: &Site) -> Vec<Piece> {
    let ids = |facts: &[Facts<'_>]| facts.iter().map(|f| f.id.to_owned()).collect();
    let chunks = |most: usize, text: &dyn Fn(&[Facts<'_>]) -> String| -> Vec<Piece> {
        facts.chunks(most).map(|chunk| Piece { ids: ids(chunk), text: text(chunk) }).collect()
    };
    match format {
        Format::Auditor => chunks(1, &|facts| auditor::record(&facts[0]).to_string()),
        Format::Gratia => chunks(GRATIA_MOST, &gratia::envelope),
        Format::Ur1 => chunks(APEL_MOST, &|facts| ur1::records(facts, ur1::Profile::Strict)),
        Format::Ur1Sgas => chunks(APEL_MOST, &|facts| ur1::records(facts, ur1::Profile::Sgas)),
        Format::Car => chunks(APEL_MOST, &car::records),
        Format::Ur2 => chunks(APEL_MOST, &car::records_ur2),
        Format::Apel => chunks(APEL_MOST, &apel::jobs),
        Format::ApelSummary => chunks(usize::MAX, &apel::summaries),
        Format::ApelNormalised => chunks(usize::MAX, &apel::normalised),
        Format::ApelSync => chunks(usize::MAX, &apel::sync),
        Format::ApelAccelerator => chunks(APEL_MOST, &accelerator::message),
        Format::GlexecMon => {
            let zone = site.zone.clone().unwrap_or(jiff::tz::TimeZone::UTC);
            chunks(usize::MAX, &|facts| glexec_mon::lines(facts, &zone))
        }
        Format::Csv | Format::Json | Format::Jsonl => Vec::new(),
    }
}
