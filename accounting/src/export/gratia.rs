//! Gratia's JobUsageRecord, as its probes write it and GRACC reads it.
//!
//! GRACC adds up every CpuDuration, so there is one for user and one for system and none for all. A payload inside a pilot is a
//! `BatchPilot`, which GRACC shows as `Payload`: dashboards sum one or the other.

use super::facts::{Facts, at_most, host_name};
use super::xml::Xml;
use record::Role;
use record::time::rfc3339;

const NAMESPACES: [(&str, &str); 2] =
    [("xmlns", "http://www.gridforum.org/2003/ur-wg"), ("xmlns:urwg", "http://www.gridforum.org/2003/ur-wg")];

/// The bundle that a collector takes.
pub(super) fn envelope(facts: &[Facts<'_>]) -> String {
    let mut xml = Xml::default();
    xml.start("RecordEnvelope", &[]);
    facts.iter().for_each(|facts| record(&mut xml, facts));
    xml.end("RecordEnvelope");
    xml.document()
}

fn record(xml: &mut Xml, facts: &Facts<'_>) {
    let id = format!("{}:{}", facts.host, facts.id);
    let end = rfc3339(facts.end_s * 1_000_000_000);
    xml.start("JobUsageRecord", &NAMESPACES);
    // The time of the end, so that the same record has the same bytes whenever it is sent.
    xml.empty("RecordIdentity", &[("urwg:recordId", &id), ("urwg:createTime", &end)]);
    xml.start("JobIdentity", &[]);
    xml.leaf("GlobalJobId", &[], &format!("glexec:{id}"));
    xml.leaf("LocalJobId", &[], &facts.local_job_id());
    xml.some("ProcessId", &[], facts.record.pid.map(|pid| pid.to_string()));
    xml.end("JobIdentity");
    user(xml, facts);
    usage(xml, facts, &end);
    resources(xml, facts);
    xml.end("JobUsageRecord");
}

fn user(xml: &mut Xml, facts: &Facts<'_>) {
    let account = super::facts::ascii(&facts.opened.account);
    xml.start("UserIdentity", &[]);
    xml.leaf("LocalUserId", &[], &account);
    xml.leaf("GlobalUsername", &[], &format!("{account}@{}", facts.host));
    xml.leaf("DN", &[], &at_most(&facts.dn, 255));
    let vo = facts.vo.clone().unwrap_or_default();
    // A VOName that begins with a slash is an FQAN, and needs the short name beside it.
    xml.leaf("VOName", &[], &at_most(facts.fqan.as_deref().unwrap_or(&vo), 255));
    xml.leaf("ReportableVOName", &[], &at_most(&vo, 255));
    xml.end("UserIdentity");
}

fn usage(xml: &mut Xml, facts: &Facts<'_>, end: &str) {
    let machine = host_name(&facts.submit_host).unwrap_or(&facts.host);
    xml.leaf("JobName", &[], &at_most(&super::facts::ascii(&facts.opened.argv0), 255));
    xml.leaf("MachineName", &[], machine);
    xml.leaf("SubmitHost", &[], machine);
    xml.some(
        "Status",
        &[("urwg:description", "payload exit code")],
        facts.exit_code().map(|code| code.to_string()),
    );
    let seconds = [("urwg:description", "Was entered in seconds")];
    xml.leaf("WallDuration", &seconds, &duration(facts.wall_s.saturating_mul(1_000_000)));
    xml.leaf("CpuDuration", &[("urwg:usageType", "user")], &duration(facts.user_us));
    xml.leaf("CpuDuration", &[("urwg:usageType", "system")], &duration(facts.system_us));
    xml.leaf("StartTime", &[], &rfc3339(facts.start_s * 1_000_000_000));
    xml.leaf("EndTime", &[], end);
    xml.leaf("Host", &[("primary", "true")], &facts.host);
    xml.leaf("Queue", &[], "glexec");
    xml.leaf("NodeCount", &[("urwg:metric", "max")], "1");
    xml.leaf("Processors", &[("urwg:metric", "max")], &facts.cpus.to_string());
    let memory = [("urwg:storageUnit", "KB"), ("urwg:metric", "max"), ("urwg:type", "RSS")];
    xml.some("Memory", &memory, facts.memory_kb.map(|kb| kb.to_string()));
    xml.some("ProjectName", &[], facts.vo.as_deref());
    xml.leaf("ProbeName", &[], &format!("glexec:{}", facts.host));
    xml.some("SiteName", &[], Some(&facts.site));
    xml.leaf("Grid", &[], "OSG");
    xml.leaf("Njobs", &[], "1");
}

fn resources(xml: &mut Xml, facts: &Facts<'_>) {
    let mut resource = |name: &str, value: Option<&str>| {
        xml.some(
            "Resource",
            &[("urwg:description", name)],
            value.map(|value| at_most(&super::facts::ascii(value), 255)),
        );
    };
    let exit = facts.record.exit.as_ref();
    let parent = facts.opened.batch.as_ref().map(|b| format!("{}.{}#{}", b.lrms, facts.host, b.jobid));
    resource("ParentGlobalJobId", parent.as_deref());
    resource("PilotDN", facts.opened.pilot_dn.as_deref());
    let signal = exit.and_then(|exit| exit.signal);
    resource("ExitBySignal", exit.map(|_| if signal.is_some() { "true" } else { "false" }));
    resource("ExitSignal", signal.map(|signal| signal.to_string()).as_deref());
    resource("ExitCode", exit.and_then(|exit| exit.code).map(|code| code.to_string()).as_deref());
    resource(
        "ResourceType",
        Some(match facts.role {
            Role::Payload => "BatchPilot",
            Role::Pilot => "Batch",
            Role::Probe => "GridMonitor",
        }),
    );
}

/// As Gratia writes durations: days, hours, minutes and seconds, cut to hundredths; nothing is `PT0S`.
fn duration(us: u64) -> String {
    let (hundredths, seconds) = (us / 10_000 % 100, us / 1_000_000);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let part = |n: u64, unit: &str| if n > 0 { format!("{n}{unit}") } else { String::new() };
    let rest = match (seconds % 60, hundredths) {
        (0, 0) => String::new(),
        (s, 0) => format!("{s}S"),
        (s, h) => format!("{s}.{}S", format!("{h:02}").trim_end_matches('0')),
    };
    let time = part(hours, "H") + &part(minutes, "M") + &rest;
    match (days, time.as_str()) {
        (0, "") => "PT0S".to_owned(),
        (days, "") => format!("P{days}D"),
        (days, time) => format!("P{}T{time}", part(days, "D")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_gratia_writes_them() {
        let of = |seconds: f64| duration((seconds * 1e6) as u64);
        assert_eq!(
            [of(0.0), of(3600.75), of(26_000.5), of(399.5)],
            ["PT0S", "PT1H0.75S", "PT7H13M20.5S", "PT6M39.5S"]
        );
        assert_eq!([of(86_400.0), of(90_061.0), of(0.004)], ["P1D", "P1DT1H1M1S", "PT0S"]);
    }
}
