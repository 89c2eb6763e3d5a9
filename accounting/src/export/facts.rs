//! What all formats need of a record, in the units and shapes that their consumers accept.
//!
//! Values that some consumer is known to refuse or to misread are mended here, once for all formats:
//!
//! - times are whole seconds: an end with a fraction rounds up, and the duration with it;
//! - names are ASCII: other bytes stand as `\xHH`, as OpenSSL writes them;
//! - host names have neither port nor underscore, or are left out where they may be;
//! - texts have one line, no `%%`, and the length that the consumer takes.

use super::Format;
use crate::filter;
use record::{Opened, Record, Role};

/// What a site says about itself.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Its name in GOCDB or OIM.
    pub name: Option<String>,
    /// The compute element that batch jobs come through, such as `ce01.example.org:9619/ce01.example.org-condor`, where
    /// records name none.
    pub ce: Option<String>,
    /// Benchmark and score of one core, where records name none.
    pub benchmark: Option<(String, f64)>,
    /// VO of those whose credential has no VOMS attributes.
    pub vo: Option<String>,
    /// Zone of formats that have local times; UTC unless told.
    pub zone: Option<jiff::tz::TimeZone>,
}

/// A record that cannot be exported, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {id}: {field}: {why}")]
pub struct Refused {
    /// The record.
    pub id: String,
    /// What is wrong.
    pub field: &'static str,
    /// Why, and the remedy.
    pub why: String,
}

/// A final session as consumers want it.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    pub(super) record: &'a Record,
    pub(super) opened: &'a Opened,
    pub(super) id: &'a str,
    pub(super) site: String,
    /// Site and role are one word for consumers that know no roles.
    pub(super) role: Role,
    pub(super) host: String,
    pub(super) submit_host: String,
    pub(super) dn: String,
    pub(super) fqan: Option<String>,
    pub(super) vo: Option<String>,
    pub(super) start_s: u64,
    pub(super) end_s: u64,
    pub(super) wall_s: u64,
    pub(super) wall_ns: u64,
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    pub(super) cpus: u32,
    pub(super) memory_kb: Option<u64>,
    pub(super) benchmark: Option<(String, f64)>,
}

const SECOND: u64 = 1_000_000_000;
/// APEL's procedure takes an INT of kilobytes.
const MOST_MEMORY_KB: u64 = 2_147_483_647;

impl<'a> Facts<'a> {
    /// Reads them from a record.
    ///
    /// # Errors
    /// `Refused` for what cannot be mended.
    pub fn of(record: &'a Record, site: &Site) -> Result<Self, Refused> {
        let refuse = |field, why: &str| Refused { id: record.id.clone(), field, why: why.to_owned() };
        let opened = record.opened.as_deref().ok_or_else(|| refuse("state", "nothing ran"))?;
        let end_ns =
            record.end_unix_ns.ok_or_else(|| refuse("state", "it runs still; export it when it is over"))?;
        let usage = record.usage.clone().unwrap_or_default();
        let start_s = opened.start_unix_ns / SECOND;
        let wall_s = usage.wall_ns.div_ceil(SECOND);
        let end_s = end_ns.div_ceil(SECOND).max(start_s);
        if start_s == 0 {
            return Err(refuse("start", "no time is known"));
        }
        let dn = ascii(&opened.payload.dn);
        if dn.is_empty() {
            return Err(refuse("dn", "nobody is named"));
        }
        let benchmark = opened.benchmark.as_deref().and_then(benchmark).or_else(|| site.benchmark.clone());
        let ce = opened.ce.clone().or_else(|| site.ce.clone());
        Ok(Self {
            record,
            opened,
            id: &record.id,
            site: site.name.clone().map(|name| ascii(&name)).unwrap_or_default(),
            role: filter::role(record),
            host: ascii(&opened.host),
            submit_host: ascii(&ce.unwrap_or_else(|| opened.host.clone())),
            dn,
            fqan: opened.payload.fqans.first().map(|fqan| ascii(fqan)),
            vo: opened.payload.vo.clone().or_else(|| site.vo.clone()).map(|vo| ascii(&vo)),
            start_s,
            end_s,
            wall_s,
            wall_ns: usage.wall_ns,
            user_us: usage.cpu_user_us,
            system_us: usage.cpu_sys_us,
            cpus: crate::store::cpus(Some(opened)),
            memory_kb: usage.mem_peak_bytes.map(|n| n.div_ceil(1024).min(MOST_MEMORY_KB)).filter(|n| *n > 0),
            benchmark,
        })
    }

    /// Whether a format can say all that it must.
    ///
    /// # Errors
    /// `Refused` with what is missing.
    pub fn fit(&self, format: Format) -> Result<(), Refused> {
        let refuse = |field, why: &str| Err(Refused { id: self.id.to_owned(), field, why: why.to_owned() });
        let needs_site = !matches!(
            format,
            Format::Ur1 | Format::Ur1Sgas | Format::Ur2 | Format::Gratia | Format::GlexecMon
        );
        if needs_site && self.site.is_empty() {
            return refuse("site", "the consumer wants a site's name: give --site");
        }
        let apel =
            matches!(format, Format::Apel | Format::ApelSummary | Format::ApelNormalised | Format::Car);
        if apel && self.benchmark.is_none() {
            let why = "APEL refuses a record without service level: set [accounting] benchmark, or give --benchmark";
            return refuse("benchmark", why);
        }
        if format == Format::GlexecMon {
            if self.record.pid.is_none() || self.opened.supervisor_pid == 0 {
                return refuse(
                    "pid",
                    "the probe pairs lines by process ids, and none is known: nothing was started",
                );
            }
            if self.opened.uid == crate::store::reduce::NOT_KEPT {
                return refuse(
                    "uid",
                    "the probe wants the account's uid, which is hidden or not kept any longer",
                );
            }
        }
        if format == Format::ApelAccelerator && self.fqan.is_none() && self.vo.is_none() {
            return refuse("fqan", "the message must have one: give --vo-of-others");
        }
        if format == Format::Gratia && self.vo.is_none() {
            return refuse("vo", "Gratia puts a record without VO aside for ever: give --vo-of-others");
        }
        Ok(())
    }

    /// A name that no other record has anywhere, at any time.
    pub(super) fn global_id(&self) -> String {
        format!("{}/{}", self.host, self.id)
    }

    /// CPU time in whole seconds, rounded to the nearest.
    pub(super) fn cpu_s(&self) -> u64 {
        (self.user_us.saturating_add(self.system_us) + 500_000) / 1_000_000
    }

    /// The job inside which it ran, as the batch system has it; else its own id.
    pub(super) fn local_job_id(&self) -> String {
        self.opened.batch.as_ref().map_or_else(|| self.id.to_owned(), |batch| ascii(&batch.jobid))
    }

    /// Exit code; 128 and the signal where one ended it.
    pub(super) fn exit_code(&self) -> Option<i32> {
        let exit = self.record.exit.as_ref()?;
        exit.code.or(exit.signal.map(|signal| 128 + signal))
    }

    /// Benchmark's name and score.
    pub(super) fn service_level(&self) -> (&str, f64) {
        self.benchmark.as_ref().map_or(("", 0.0), |(name, score)| (name.as_str(), *score))
    }
}

/// `HEPscore23 12.5`.
pub fn benchmark(text: &str) -> Option<(String, f64)> {
    let (name, score) = text.split_once(' ')?;
    let score: f64 = score.parse().ok()?;
    (score.is_finite() && score > 0.0).then(|| (name.to_owned(), score))
}

/// Printable ASCII on one line: other bytes as `\xHH`, and no `%%`, which ends a record for APEL.
pub(super) fn ascii(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for byte in text.bytes() {
        let ends_record = byte == b'%' && plain.ends_with('%');
        match byte {
            0x20..=0x7e if !ends_record => plain.push(char::from(byte)),
            other => plain.push_str(&format!("\\x{other:02X}")),
        }
    }
    plain.trim().to_owned()
}

/// The text, or its beginning and a digest of all of it when it is too long: what was cut stays told apart.
pub(super) fn at_most(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    format!("{}~{}", &text[..most - 17], hex::encode(&digest.as_ref()[..8]))
}

/// A host's name as schemas have it: without port and path; `None` for one that no host can have.
pub(super) fn host_name(text: &str) -> Option<&str> {
    let name = text.split([':', '/']).next().unwrap_or_default();
    let label = |label: &str| {
        label.len() >= 2
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(name)
}
