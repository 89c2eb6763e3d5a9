//! EMI compute accounting records, as APEL reads them, and OGF usage records 2.0.
//!
//! Of several CpuDurations APEL takes the one for `all`; durations are whole seconds, since its reader counts months and years
//! in its own way. UR 2.0 has no schema and no consumer at hand: its names are those of GFD.204 as far as they are known, and
//! nobody has verified them.

use super::facts::{Facts, ascii, host_name};
use super::xml::Xml;
use record::Role;
use record::time::rfc3339;

const CAR: (&str, &str) = ("xmlns:urf", "http://eu-emi.eu/namespaces/2012/11/computerecord");
const UR2: (&str, &str) = ("xmlns:ur", "http://schema.ogf.org/urf/2013/04/urf");

/// The document.
pub(super) fn records(facts: &[Facts<'_>]) -> String {
    let mut xml = Xml::default();
    xml.start("urf:UsageRecords", &[CAR]);
    facts.iter().for_each(|facts| record(&mut xml, facts));
    xml.end("urf:UsageRecords");
    xml.document()
}

fn record(xml: &mut Xml, facts: &Facts<'_>) {
    let id = facts.global_id();
    let (start, end) = (rfc3339(facts.start_s * 1_000_000_000), rfc3339(facts.end_s * 1_000_000_000));
    xml.start("urf:UsageRecord", &[]);
    xml.empty("urf:RecordIdentity", &[("urf:createTime", &end), ("urf:recordId", &id)]);
    xml.start("urf:JobIdentity", &[]);
    xml.leaf("urf:GlobalJobId", &[], &format!("glexec:{id}"));
    xml.leaf("urf:LocalJobId", &[], &id);
    xml.some("urf:ProcessId", &[], facts.record.pid.map(|pid| pid.to_string()));
    xml.end("urf:JobIdentity");
    xml.start("urf:UserIdentity", &[]);
    xml.leaf("urf:GlobalUserName", &[("urf:type", "opensslCompat")], &facts.dn);
    xml.some("urf:Group", &[], facts.vo.as_deref());
    xml.some("urf:GroupAttribute", &[("urf:type", "FQAN")], facts.fqan.as_deref());
    xml.leaf("urf:LocalUserId", &[], &ascii(&facts.opened.account));
    xml.leaf("urf:LocalGroup", &[], &facts.opened.gid.to_string());
    xml.end("urf:UserIdentity");
    xml.leaf(
        "urf:Status",
        &[],
        if facts.record.state == record::State::Lost { "aborted" } else { "completed" },
    );
    xml.some("urf:ExitStatus", &[], facts.exit_code().map(|code| code.to_string()));
    let infrastructure = if facts.role == Role::Pilot { "grid" } else { "local" };
    let description = [("urf:type", infrastructure), ("urf:description", "GLEXEC")];
    xml.empty("urf:Infrastructure", &description);
    xml.empty("urf:Middleware", &[("urf:name", "pilotage"), ("urf:version", env!("CARGO_PKG_VERSION"))]);
    xml.leaf("urf:WallDuration", &[], &format!("PT{}S", facts.wall_s));
    xml.leaf("urf:CpuDuration", &[("urf:usageType", "all")], &format!("PT{}S", facts.cpu_s()));
    let (name, score) = facts.service_level();
    xml.leaf("urf:ServiceLevel", &[("urf:type", name), ("urf:description", name)], &score.to_string());
    let memory = [("urf:storageUnit", "KB"), ("urf:metric", "max"), ("urf:type", "Physical")];
    xml.some("urf:Memory", &memory, facts.memory_kb.map(|kb| kb.to_string()));
    xml.leaf("urf:StartTime", &[], &start);
    xml.leaf("urf:EndTime", &[], &end);
    xml.leaf("urf:NodeCount", &[], "1");
    xml.leaf("urf:Processors", &[], &facts.cpus.to_string());
    let machine = host_name(&facts.submit_host).unwrap_or(&facts.host);
    xml.leaf("urf:MachineName", &[], machine);
    xml.leaf("urf:SubmitHost", &[], &facts.submit_host);
    xml.leaf("urf:Queue", &[("urf:description", "execution")], "glexec");
    xml.leaf("urf:Site", &[("urf:type", "gocdb")], &facts.site);
    xml.leaf("urf:Host", &[("urf:primary", "true")], &facts.host);
    xml.end("urf:UsageRecord");
}

/// The same as UR 2.0; not verified by any consumer.
pub(super) fn records_ur2(facts: &[Facts<'_>]) -> String {
    let mut xml = Xml::default();
    xml.start("ur:UsageRecords", &[UR2]);
    facts.iter().for_each(|facts| record_ur2(&mut xml, facts));
    xml.end("ur:UsageRecords");
    xml.document()
}

fn record_ur2(xml: &mut Xml, facts: &Facts<'_>) {
    let (start, end) = (rfc3339(facts.start_s * 1_000_000_000), rfc3339(facts.end_s * 1_000_000_000));
    let id = format!("{}:{}", facts.host, facts.id);
    xml.start("ur:UsageRecord", &[]);
    xml.start("ur:RecordIdentityBlock", &[]);
    xml.leaf("ur:RecordId", &[], &id);
    xml.leaf("ur:CreateTime", &[], &end);
    xml.end("ur:RecordIdentityBlock");
    xml.start("ur:SubjectIdentityBlock", &[]);
    xml.leaf("ur:LocalUserId", &[], &ascii(&facts.opened.account));
    xml.leaf("ur:GlobalUserId", &[], &facts.dn);
    xml.some("ur:GlobalGroupId", &[], facts.vo.as_deref());
    xml.some("ur:GlobalGroupAttribute", &[("ur:type", "FQAN")], facts.fqan.as_deref());
    xml.end("ur:SubjectIdentityBlock");
    xml.start("ur:ComputeUsageBlock", &[]);
    xml.leaf("ur:CpuDuration", &[], &format!("PT{}S", facts.cpu_s()));
    xml.leaf("ur:WallDuration", &[], &format!("PT{}S", facts.wall_s));
    xml.leaf("ur:StartTime", &[], &start);
    xml.leaf("ur:EndTime", &[], &end);
    xml.start("ur:ExecutionHost", &[]);
    xml.leaf("ur:Hostname", &[], &facts.host);
    xml.end("ur:ExecutionHost");
    xml.leaf("ur:Processors", &[], &facts.cpus.to_string());
    xml.some("ur:ExitStatus", &[], facts.exit_code().map(|code| code.to_string()));
    xml.end("ur:ComputeUsageBlock");
    xml.start("ur:JobUsageBlock", &[]);
    xml.leaf("ur:GlobalJobId", &[], &format!("glexec:{id}"));
    xml.leaf(
        "ur:Status",
        &[],
        if facts.record.state == record::State::Lost { "aborted" } else { "completed" },
    );
    xml.end("ur:JobUsageBlock");
    xml.end("ur:UsageRecord");
}
