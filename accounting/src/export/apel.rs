//! APEL messages in text: single jobs, monthly summaries, normalised ones, and how many jobs there should be.
//!
//! APEL has no notion of work inside a pilot: the batch system's record of the pilot is the grid's usage. So payloads are of
//! the infrastructure `local`, which the central server does not add to it. All values are integers and ASCII, every job has
//! a service level, and ids begin with the host: the server keeps jobs by site, id and end.

use super::facts::{Facts, at_most, host_name};
use record::Role;
use std::collections::BTreeMap;

/// Longest text that the server keeps.
const LONGEST: usize = 255;

/// Key and value lines, one record.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        // Nothing is better than an empty value, which the reader takes for a text.
        if !value.is_empty() {
            self.0.push_str(&format!("{key}: {}\n", at_most(value, LONGEST)));
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.0.push_str(&format!("{key}: {value}\n"));
    }
}

fn message(header: &str, records: impl Iterator<Item = Lines>) -> String {
    records.fold(format!("{header}\n"), |text, lines| text + &lines.0 + "%%\n")
}

/// Single jobs.
pub(super) fn jobs(facts: &[Facts<'_>]) -> String {
    message("APEL-individual-job-message: v0.3", facts.iter().map(job))
}

fn job(facts: &Facts<'_>) -> Lines {
    let mut lines = Lines::default();
    lines.add("Site", &facts.site);
    lines.add("SubmitHost", &facts.submit_host);
    lines.add("MachineName", host_name(&facts.submit_host).unwrap_or(&facts.host));
    lines.add("Queue", "glexec");
    lines.add("LocalJobId", facts.global_id());
    lines.add("LocalUserId", super::facts::ascii(&facts.opened.account));
    lines.add("GlobalUserName", &facts.dn);
    lines.add("FQAN", facts.fqan.as_deref().unwrap_or_default());
    if facts.fqan.is_none() {
        lines.add("VO", facts.vo.as_deref().unwrap_or_default());
    }
    lines.number("WallDuration", facts.wall_s);
    lines.number("CpuDuration", facts.cpu_s());
    lines.number("Processors", u64::from(facts.cpus));
    lines.number("NodeCount", 1);
    lines.number("StartTime", facts.start_s);
    lines.number("EndTime", facts.end_s);
    lines.add("InfrastructureDescription", at_most(&description(facts), 100));
    lines.add("InfrastructureType", infrastructure(facts));
    if let Some(kb) = facts.memory_kb {
        lines.number("MemoryReal", kb);
    }
    let (name, score) = facts.service_level();
    lines.add("ServiceLevelType", name);
    lines.add("ServiceLevel", format!("{score:.3}"));
    lines
}

fn description(facts: &Facts<'_>) -> String {
    let lrms = facts.opened.batch.as_ref().map_or("NONE".to_owned(), |batch| batch.lrms.to_uppercase());
    format!("GLEXEC-PILOTAGE-{}", super::facts::ascii(&lrms))
}

fn infrastructure(facts: &Facts<'_>) -> &'static str {
    if facts.role == Role::Pilot { "grid" } else { "local" }
}

/// What summaries keep apart; the last text is name and score of the benchmark.
type Group = (String, u8, String, String, String, String, u32, &'static str, String);

#[derive(Default)]
struct Total {
    first_end: u64,
    last_end: u64,
    wall: u64,
    cpu: u64,
    normal_wall: f64,
    normal_cpu: f64,
    jobs: u64,
}

fn totals(facts: &[Facts<'_>]) -> BTreeMap<Group, Total> {
    let mut totals: BTreeMap<Group, Total> = BTreeMap::new();
    for facts in facts {
        let (year, month) = month(facts.end_s);
        let (name, score) = facts.service_level();
        let group = (
            year,
            month,
            facts.site.clone(),
            facts.submit_host.clone(),
            facts.dn.clone(),
            facts.fqan.clone().or_else(|| facts.vo.clone()).unwrap_or_default(),
            facts.cpus,
            infrastructure(facts),
            format!("{name} {score:.3}"),
        );
        let total = totals.entry(group).or_default();
        total.first_end = if total.jobs == 0 { facts.end_s } else { total.first_end.min(facts.end_s) };
        total.last_end = total.last_end.max(facts.end_s);
        total.wall += facts.wall_s;
        total.cpu += facts.cpu_s();
        total.normal_wall += facts.wall_s as f64 * score;
        total.normal_cpu += facts.cpu_s() as f64 * score;
        total.jobs += 1;
    }
    totals
}

/// Monthly summaries.
pub(super) fn summaries(facts: &[Facts<'_>]) -> String {
    let records = totals(facts).into_iter().map(|(group, total)| {
        let mut lines = common(&group, &total);
        let (name, score) = group.8.rsplit_once(' ').unwrap_or_default();
        lines.add("ServiceLevelType", name);
        lines.add("ServiceLevel", score);
        lines.add("InfrastructureType", group.7);
        lines.number("WallDuration", total.wall);
        lines.number("CpuDuration", total.cpu);
        lines.number("NumberOfJobs", total.jobs);
        lines
    });
    message("APEL-summary-job-message: v0.2", records)
}

/// Monthly summaries in which every second counts as much as its core can do.
pub(super) fn normalised(facts: &[Facts<'_>]) -> String {
    let records = totals(facts).into_iter().map(|(group, total)| {
        let mut lines = common(&group, &total);
        lines.add("Infrastructure", group.7);
        lines.number("WallDuration", total.wall);
        lines.number("CpuDuration", total.cpu);
        lines.number("NormalisedWallDuration", total.normal_wall.round() as u64);
        lines.number("NormalisedCpuDuration", total.normal_cpu.round() as u64);
        lines.number("NumberOfJobs", total.jobs);
        lines
    });
    message("APEL-summary-job-message: v0.3", records)
}

fn common(group: &Group, total: &Total) -> Lines {
    let (year, month, site, submit_host, dn, fqan, cpus, ..) = group;
    let mut lines = Lines::default();
    lines.add("Site", site);
    lines.number("Month", u64::from(*month));
    lines.add("Year", year);
    lines.add("GlobalUserName", dn);
    let (vo, group, role) = vo_of(fqan);
    lines.add("VO", vo);
    lines.add("VOGroup", group);
    lines.add("VORole", role);
    lines.add("SubmitHost", submit_host);
    lines.number("NodeCount", 1);
    lines.number("Processors", u64::from(*cpus));
    lines.number("EarliestEndTime", total.first_end);
    lines.number("LatestEndTime", total.last_end);
    lines
}

/// How many jobs the server should have, by month.
pub(super) fn sync(facts: &[Facts<'_>]) -> String {
    let mut counts: BTreeMap<(String, u8, &str, &str), u64> = BTreeMap::new();
    for facts in facts {
        let (year, month) = month(facts.end_s);
        *counts.entry((year, month, &facts.site, &facts.submit_host)).or_default() += 1;
    }
    let records = counts.into_iter().map(|((year, month, site, submit_host), jobs)| {
        let mut lines = Lines::default();
        lines.add("Site", site);
        lines.add("SubmitHost", submit_host);
        lines.number("NumberOfJobs", jobs);
        lines.number("Month", u64::from(month));
        lines.add("Year", year);
        lines
    });
    message("APEL-sync-message: v0.1", records)
}

/// Year and month of a time, UTC.
pub(super) fn month(seconds: u64) -> (String, u8) {
    let date = record::time::rfc3339(seconds.saturating_mul(1_000_000_000));
    (date[..4].to_owned(), date[5..7].parse().unwrap_or(0))
}

/// VO, group and role of an FQAN; a name without a slash is a VO.
fn vo_of(fqan: &str) -> (&str, &str, &str) {
    let Some(path) = fqan.strip_prefix('/') else { return (fqan, "", "") };
    let vo = path.split('/').next().unwrap_or_default();
    let group = fqan.split("/Role=").next().unwrap_or_default();
    let role = fqan.find("Role=").map_or("", |at| fqan[at..].split('/').next().unwrap_or_default());
    (vo, group, role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_fqan_is_taken_apart_as_apel_does() {
        assert_eq!(vo_of("/atlas/Role=NULL/Capability=NULL"), ("atlas", "/atlas", "Role=NULL"));
        assert_eq!(vo_of("/cms/higgs/Role=prod"), ("cms", "/cms/higgs", "Role=prod"));
        assert_eq!((vo_of("cms"), vo_of("")), (("cms", "", ""), ("", "", "")));
    }
}
