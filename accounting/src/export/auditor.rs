//! Records of AUDITOR 0.11, one `POST /record` each, once it is final: a later `PUT` could not add CPU time.
//!
//! Payloads stand under a site of their own, `NAME#payload`: AUDITOR knows no roles, its APEL plugin selects by site, and
//! pilots are what that reports.

use super::facts::{Facts, at_most};
use record::Role;
use record::time::rfc3339;
use serde_json::{Map, Value, json};

/// Longest text that the server takes.
const LONGEST: usize = 256;

/// The record.
pub(super) fn record(facts: &Facts<'_>) -> Value {
    let scores = match &facts.benchmark {
        Some((name, value)) => json!([{ "name": at_most(&name.to_lowercase(), LONGEST), "value": value }]),
        None => json!([]),
    };
    let component =
        |name: &str, amount: u64, scores: Value| json!({ "name": name, "amount": amount, "scores": scores });
    let mut components = vec![
        component("Cores", u64::from(facts.cpus), scores),
        component("TotalCPU", facts.cpu_s(), json!([])),
        component("NNodes", 1, json!([])),
    ];
    // The unit is in the name: the server keeps none.
    components.extend(facts.memory_kb.map(|kb| component("MaxMemoryKB", kb, json!([]))));
    json!({
        "record_id": at_most(&format!("{}-{}", facts.host, facts.id), LONGEST),
        "meta": meta(facts),
        "components": components,
        "start_time": rfc3339(facts.start_s * 1_000_000_000),
        "stop_time": rfc3339(facts.end_s * 1_000_000_000),
    })
}

fn meta(facts: &Facts<'_>) -> Map<String, Value> {
    let site = match facts.role {
        Role::Pilot => facts.site.clone(),
        role => format!("{}#{}", facts.site, crate::filter::role_name(role)),
    };
    let batch = facts.opened.batch.as_ref().map(|b| format!("{}:{}", b.lrms, b.jobid));
    let texts = [
        ("site_id", Some(site)),
        ("role", Some(crate::filter::role_name(facts.role).to_owned())),
        ("headnode", Some(facts.submit_host.clone())),
        ("user_id", Some(facts.opened.account.clone())),
        ("group_id", facts.vo.clone()),
        ("subject", Some(facts.dn.clone())),
        ("voms", facts.fqan.clone()),
        ("host", Some(facts.host.clone())),
        ("parent", facts.opened.parent_id.clone().or(batch)),
        ("pilot_subject", facts.opened.pilot_dn.clone()),
        ("exit", facts.exit_code().map(|code| code.to_string())),
        ("lost", facts.record.exit.as_ref().and_then(|exit| exit.lost.clone())),
    ];
    let plain = |text: String| at_most(&super::facts::ascii(&text), LONGEST);
    // A blank value is refused, so what is not known is left out.
    let known = texts.into_iter().filter_map(|(key, text)| Some((key, plain(text?))));
    known.filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key.to_owned(), json!([text]))).collect()
}
