//! APEL accelerator messages, version 0.1, in JSON: the GPUs of a session.
//!
//! cASO sends them and APEL does not take them yet, so they are made only for who asks. How long the GPUs were at work nobody measured,
//! so `ActiveDuration`, which may be left out, is.

use super::apel::month;
use super::facts::{Facts, at_most};
use serde_json::{Value, json};

/// Longest text that the server keeps.
const LONGEST: usize = 255;

/// How many GPUs a session had, as the caller says.
pub(super) fn gpus(facts: &Facts<'_>) -> usize {
    facts.opened.claimed.as_ref().map_or(0, |claimed| claimed.gpus.len())
}

/// One message; sessions without GPUs are not in it.
pub(super) fn message(facts: &[Facts<'_>]) -> String {
    let records: Vec<Value> = facts.iter().filter(|facts| gpus(facts) > 0).map(record).collect();
    json!({ "Type": "APEL-accelerator-message", "Version": "0.1", "UsageRecords": records }).to_string()
}

fn record(facts: &Facts<'_>) -> Value {
    let (year, month) = month(facts.end_s);
    let vo = || facts.vo.clone().unwrap_or_default();
    json!({
        "MeasurementMonth": month,
        "MeasurementYear": year.parse::<u16>().unwrap_or(0),
        "AssociatedRecordType": "job",
        "AssociatedRecord": at_most(&facts.global_id(), LONGEST),
        "GlobalUserName": at_most(&facts.dn, LONGEST),
        "FQAN": at_most(&facts.fqan.clone().unwrap_or_else(vo), LONGEST),
        "SiteName": at_most(&facts.site, LONGEST),
        "Count": gpus(facts),
        "AvailableDuration": facts.wall_s,
        "Type": "GPU",
    })
}
