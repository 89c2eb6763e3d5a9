//! Sums of usage: jobs, wall time, CPU time and how well it was used, by whatever is asked for.
//!
//! A session counts in the interval in which it ended, in UTC, as accounting portals count; what still runs counts
//! nowhere. Sums count one role, or work would count twice: once as the payload's and once as the pilot's around it.

use crate::filter::{self, Filter};
use crate::store::cpus;
use record::{Record, State};
use serde::Serialize;
use std::collections::BTreeMap;

/// By what sums are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Day on which it ended, UTC.
    Day,
    /// Month in which it ended, UTC.
    Month,
    /// Year in which it ended, UTC.
    Year,
    /// What ran.
    Role,
    /// Let through or refused.
    Decision,
    /// Virtual organisation.
    Vo,
    /// Subject of the payload.
    #[value(alias = "dn")]
    User,
    /// Primary FQAN.
    Fqan,
    /// Account.
    Account,
    /// Worker node.
    Host,
    /// Name under which the pilot registered.
    #[value(alias = "pilot_dn")]
    PilotDn,
    /// Batch job.
    Batch,
    /// Compute element.
    Ce,
    /// Exit code, or signal.
    Exit,
    /// Why it was refused.
    Reason,
}

impl Key {
    /// Its name, as columns have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
            Self::Role => "role",
            Self::Decision => "decision",
            Self::Vo => "vo",
            Self::User => "user",
            Self::Fqan => "fqan",
            Self::Account => "account",
            Self::Host => "host",
            Self::PilotDn => "pilot_dn",
            Self::Batch => "batch",
            Self::Ce => "ce",
            Self::Exit => "exit",
            Self::Reason => "reason",
        }
    }

    /// What a record has there; empty when nothing.
    fn of(self, record: &Record) -> String {
        let opened = record.opened.as_deref();
        let subject = filter::subject(record);
        let end = record::time::rfc3339(record.end_unix_ns.unwrap_or_default());
        let text = match self {
            Self::Day => Some(&end[..10]),
            Self::Month => Some(&end[..7]),
            Self::Year => Some(&end[..4]),
            Self::Role => Some(filter::role_name(filter::role(record))),
            Self::Decision => Some(filter::decision(record).name()),
            Self::Vo => subject.and_then(|s| s.vo.as_deref()),
            Self::User => subject.map(|s| s.dn.as_str()),
            Self::Fqan => subject.and_then(|s| s.fqans.first()).map(String::as_str),
            Self::Account => filter::account(record),
            Self::Host => Some(filter::host(record)),
            Self::PilotDn => opened.and_then(|o| o.pilot_dn.as_deref()),
            Self::Batch => filter::batch(record).map(|b| b.jobid.as_str()),
            Self::Ce => opened.and_then(|o| o.ce.as_deref()),
            Self::Exit => return crate::table::exit(record),
            Self::Reason => record.denied.as_ref().map(|d| d.reason.as_str()),
        };
        text.unwrap_or_default().to_owned()
    }
}

/// What was used, all together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Sessions that ended.
    pub jobs: u64,
    /// Calls that were refused.
    pub denied: u64,
    /// Sessions whose end nobody saw.
    pub lost: u64,
    /// Sessions that ended with another exit code than 0, or by a signal.
    pub failed: u64,
    /// Wall time, microseconds.
    pub wall_us: u64,
    /// Wall time times processors, microseconds.
    pub core_us: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Most memory that one session had, bytes.
    pub mem_max_bytes: u64,
}

impl Sums {
    /// Those of one record.
    pub fn of(record: &Record) -> Self {
        if record.state == State::Denied {
            return Self { denied: 1, ..Self::default() };
        }
        let usage = record.usage.clone().unwrap_or_default();
        let wall_us = usage.wall_ns / 1000;
        let exit = record.exit.as_ref();
        let failed = exit.is_some_and(|e| e.signal.is_some() || e.code.is_some_and(|code| code != 0));
        Self {
            jobs: 1,
            denied: 0,
            lost: u64::from(record.state == State::Lost),
            failed: u64::from(failed),
            wall_us,
            core_us: wall_us.saturating_mul(u64::from(cpus(record.opened.as_deref()))),
            cpu_us: usage.cpu_user_us.saturating_add(usage.cpu_sys_us),
            mem_max_bytes: usage.mem_peak_bytes.unwrap_or(0),
        }
    }

    /// Adds others to these.
    pub fn add(&mut self, other: &Self) {
        let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        sum(&mut self.jobs, other.jobs);
        sum(&mut self.denied, other.denied);
        sum(&mut self.lost, other.lost);
        sum(&mut self.failed, other.failed);
        sum(&mut self.wall_us, other.wall_us);
        sum(&mut self.core_us, other.core_us);
        sum(&mut self.cpu_us, other.cpu_us);
        self.mem_max_bytes = self.mem_max_bytes.max(other.mem_max_bytes);
    }

    /// CPU time by the time that the processors were held, per cent; `None` when none were.
    pub fn efficiency(&self) -> Option<f64> {
        (self.core_us > 0).then(|| self.cpu_us as f64 * 100.0 / self.core_us as f64)
    }
}

/// Sums by the texts of their keys.
pub type Groups = BTreeMap<Vec<String>, Sums>;

/// Adds a record to the sums, when the filter means it and it ended within the filter's times.
pub fn add(sums: &mut Groups, filter: &Filter, keys: &[Key], record: &Record) {
    let Some(end) = record.end_unix_ns else { return };
    let within = filter.since.is_none_or(|since| end >= since.0) && filter.until.is_none_or(|u| end < u.0);
    if within && filter.without_times().matches(record) {
        let key = keys.iter().map(|key| key.of(record)).collect();
        sums.entry(key).or_default().add(&Sums::of(record));
    }
}
