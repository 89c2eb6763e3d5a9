//! OGF usage records 1.0 (GFD.98): strictly by the schema, or with the elements that SGAS adds to it.
//!
//! The schema fixes the order of elements, wants every attribute qualified, and takes neither zeros nor host names with ports.

use super::facts::{Facts, ascii, host_name};
use super::xml::{Xml, duration_us};
use record::Role;
use record::time::rfc3339;

/// Which consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// The schema, and nothing else.
    Strict,
    /// With VO and exit code as SGAS reads them.
    Sgas,
}

const URF: (&str, &str) = ("xmlns:urf", "http://schema.ogf.org/urf/2003/09/urf");
const VO: (&str, &str) = ("xmlns:vo", "http://www.sgas.se/namespaces/2009/05/ur/vo");
const SGAS: (&str, &str) = ("xmlns:sgas", "http://www.sgas.se/namespaces/2009/07/ur");

/// The document.
pub(super) fn records(facts: &[Facts<'_>], profile: Profile) -> String {
    let mut xml = Xml::default();
    match profile {
        Profile::Strict => xml.start("urf:UsageRecords", &[URF]),
        Profile::Sgas => xml.start("urf:UsageRecords", &[URF, VO, SGAS]),
    }
    facts.iter().for_each(|facts| record(&mut xml, facts, profile));
    xml.end("urf:UsageRecords");
    xml.document()
}

fn record(xml: &mut Xml, facts: &Facts<'_>, profile: Profile) {
    let id = format!("{}:{}", facts.host, facts.id);
    let created = rfc3339(facts.end_s * 1_000_000_000);
    xml.start("urf:JobUsageRecord", &[]);
    xml.empty("urf:RecordIdentity", &[("urf:recordId", &id), ("urf:createTime", &created)]);
    xml.start("urf:JobIdentity", &[]);
    xml.leaf("urf:GlobalJobId", &[], &format!("glexec:{id}"));
    xml.leaf("urf:LocalJobId", &[], &facts.local_job_id());
    xml.some("urf:ProcessId", &[], facts.record.pid.map(|pid| pid.to_string()));
    xml.end("urf:JobIdentity");
    // One identity only: consumers keep the last. The pilot's name is a resource.
    xml.start("urf:UserIdentity", &[]);
    xml.leaf("urf:LocalUserId", &[], &ascii(&facts.opened.account));
    xml.leaf("urf:GlobalUserName", &[], &facts.dn);
    if let (Profile::Sgas, Some(vo)) = (profile, &facts.vo) {
        xml.start("vo:VO", &[("vo:type", "voms")]);
        xml.leaf("vo:Name", &[], vo);
        xml.some("vo:Issuer", &[], facts.opened.payload.voms_issuer.as_deref().map(ascii));
        xml.end("vo:VO");
    }
    xml.end("urf:UserIdentity");
    xml.leaf("urf:Status", &[], status(facts));
    first_group(xml, facts);
    second_group(xml, facts);
    resources(xml, facts);
    if profile == Profile::Sgas {
        xml.some("sgas:ExitCode", &[], facts.exit_code().map(|code| code.to_string()));
        xml.leaf("sgas:UserTime", &[], &duration_us(facts.user_us));
        xml.leaf("sgas:KernelTime", &[], &duration_us(facts.system_us));
    }
    xml.end("urf:JobUsageRecord");
}

fn status(facts: &Facts<'_>) -> &'static str {
    match (facts.record.state, facts.exit_code()) {
        (record::State::Lost, _) => "Aborted",
        (_, Some(0)) => "Completed",
        _ => "Failed",
    }
}

/// What must stand between status and durations.
fn first_group(xml: &mut Xml, facts: &Facts<'_>) {
    let memory = [("urf:storageUnit", "KB"), ("urf:metric", "max"), ("urf:type", "physical")];
    xml.some("urf:Memory", &memory, facts.memory_kb.map(|kb| kb.to_string()));
    let start = rfc3339(facts.start_s * 1_000_000_000);
    xml.leaf("urf:TimeInstant", &[("urf:type", "identitySwitch")], &start);
    if let Some((name, score)) = &facts.benchmark {
        xml.leaf("urf:ServiceLevel", &[("urf:type", name)], &score.to_string());
    }
}

fn second_group(xml: &mut Xml, facts: &Facts<'_>) {
    xml.leaf("urf:WallDuration", &[], &duration_us(facts.wall_ns / 1000));
    xml.leaf("urf:CpuDuration", &[("urf:usageType", "user")], &duration_us(facts.user_us));
    xml.leaf("urf:CpuDuration", &[("urf:usageType", "system")], &duration_us(facts.system_us));
    xml.leaf("urf:NodeCount", &[], "1");
    xml.leaf("urf:Processors", &[], &facts.cpus.to_string());
    xml.leaf("urf:EndTime", &[], &rfc3339(facts.end_s * 1_000_000_000));
    xml.leaf("urf:StartTime", &[], &rfc3339(facts.start_s * 1_000_000_000));
    let (submit, host) = (host_name(&facts.submit_host), host_name(&facts.host));
    xml.some("urf:MachineName", &[], submit.or(host));
    xml.some("urf:SubmitHost", &[], submit);
    xml.leaf("urf:Queue", &[], "glexec");
    xml.some("urf:ProjectName", &[], facts.vo.as_deref());
    xml.some("urf:Host", &[("urf:primary", "true")], host);
}

fn resources(xml: &mut Xml, facts: &Facts<'_>) {
    let mut resource =
        |name: &str, text: Option<String>| xml.some("urf:Resource", &[("urf:description", name)], text);
    let role = match facts.role {
        Role::Payload => "BatchPilot",
        Role::Pilot => "Batch",
        Role::Probe => "GridMonitor",
    };
    resource("ResourceType", Some(role.to_owned()));
    resource("FQAN", facts.fqan.clone());
    let parent = facts.opened.batch.as_ref().map(|b| format!("{}.{}#{}", b.lrms, facts.host, b.jobid));
    resource("ParentGlobalJobId", parent.map(|parent| ascii(&parent)));
    resource("PilotDN", facts.opened.pilot_dn.as_deref().map(ascii));
}
