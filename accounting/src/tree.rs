//! What ran inside a batch job or a pilot, and how much of its time was not used.

use crate::filter;
use crate::sum::Sums;
use crate::table::{exit, state_name};
use crate::view::View;
use crate::when::{Moment, short_duration};
use identity::shown::log_line;
use record::time::rfc3339;
use record::{Record, Role};
use serde::Serialize;
use std::collections::BTreeMap;

/// A pilot or batch job, and what ran inside.
#[derive(Debug, Serialize)]
pub struct Tree<'a> {
    lrms: String,
    batch_job: String,
    host: String,
    pilot_dn: Option<String>,
    start_utc: String,
    end_utc: Option<String>,
    /// Between the first start and the last end.
    span_ns: u64,
    /// Of this, while at least one payload ran.
    busy_ns: u64,
    payloads: u64,
    denied: u64,
    wall_us: u64,
    cpu_us: u64,
    records: Vec<View<'a>>,
    #[serde(skip)]
    children: Vec<&'a Record>,
}

impl Tree<'_> {
    /// Nanoseconds between first start and last end, and how many of them a payload ran.
    pub fn span_and_busy(&self) -> (u64, u64) {
        (self.span_ns, self.busy_ns)
    }
}

/// Sessions by the batch job around them, else by pilot session, else by host; each in order of time.
pub fn trees(records: &[Record], now: Moment) -> Vec<Tree<'_>> {
    let mut groups: BTreeMap<[&str; 3], Vec<&Record>> = BTreeMap::new();
    for record in records {
        let parent = record.opened.as_ref().and_then(|o| o.parent_id.as_deref()).unwrap_or_default();
        let key = match filter::batch(record) {
            Some(batch) => [batch.lrms.as_str(), batch.jobid.as_str(), filter::host(record)],
            None => ["", parent, filter::host(record)],
        };
        groups.entry(key).or_default().push(record);
    }
    let mut trees: Vec<Tree<'_>> =
        groups.into_iter().map(|(key, children)| tree(key, children, now)).collect();
    trees.sort_by(|a, b| a.start_utc.cmp(&b.start_utc));
    trees
}

fn tree<'a>([lrms, job, host]: [&str; 3], children: Vec<&'a Record>, now: Moment) -> Tree<'a> {
    let end_of = |record: &Record| record.end_unix_ns.unwrap_or(now.0).max(record.start_unix_ns());
    let start = children.iter().map(|r| r.start_unix_ns()).min().unwrap_or_default();
    let end = children.iter().map(|r| end_of(r)).max().unwrap_or_default();
    let payloads = || children.iter().filter(|r| r.opened.is_some() && filter::role(r) == Role::Payload);
    let mut sums = Sums::default();
    payloads().for_each(|record| sums.add(&Sums::of(record)));
    let intervals = payloads().map(|record| (record.start_unix_ns(), end_of(record)));
    let running = children.iter().any(|record| record.end_unix_ns.is_none());
    Tree {
        lrms: lrms.to_owned(),
        batch_job: job.to_owned(),
        host: host.to_owned(),
        pilot_dn: children.iter().find_map(|r| r.opened.as_ref()?.pilot_dn.clone()),
        start_utc: rfc3339(start),
        end_utc: (!running).then(|| rfc3339(end)),
        span_ns: end.saturating_sub(start),
        busy_ns: covered(intervals.collect()),
        payloads: sums.jobs,
        denied: children.iter().filter(|r| r.denied.is_some()).count() as u64,
        wall_us: sums.wall_us,
        cpu_us: sums.cpu_us,
        records: children.iter().map(|record| View::new(record)).collect(),
        children,
    }
}

/// How long at least one of the intervals held.
fn covered(mut intervals: Vec<(u64, u64)>) -> u64 {
    intervals.sort_unstable();
    let (mut covered, mut reached) = (0, 0);
    for (start, end) in intervals {
        let from = start.max(reached);
        covered += end.saturating_sub(from);
        reached = reached.max(end);
    }
    covered
}

/// The trees as text.
pub fn text(trees: &[Tree<'_>], now: Moment) -> String {
    trees.iter().map(|tree| one(tree, now)).collect::<Vec<_>>().join("\n")
}

fn one(tree: &Tree<'_>, now: Moment) -> String {
    let shown = |text: &str| log_line(text).into_owned();
    let job = match (tree.lrms.as_str(), tree.batch_job.as_str()) {
        ("", "") => "no batch job".to_owned(),
        ("", parent) => format!("pilot {}", shown(parent)),
        (lrms, job) => format!("{} {}", shown(lrms), shown(job)),
    };
    let mut text = format!("{job} on {}\n", shown(&tree.host));
    if let Some(pilot) = &tree.pilot_dn {
        text.push_str(&format!("  pilot     {} (as the caller says)\n", shown(pilot)));
    }
    for record in &tree.children {
        let end = record.end_unix_ns.unwrap_or(now.0);
        let took = short_duration(end.saturating_sub(record.start_unix_ns()));
        let start = rfc3339(record.start_unix_ns()).replace('T', " ").replace('Z', "");
        let (state, exit) = (state_name(record.state), exit(record));
        let who = filter::subject(record).map_or("-", |s| s.dn.as_str());
        let account = filter::account(record).unwrap_or("-");
        text.push_str(&format!(
            "  {start}  {took:>7}  {state:7}  {exit:>5}  {:12}  {}  {}\n",
            shown(account),
            &record.id[record.id.len().saturating_sub(8)..],
            shown(who)
        ));
    }
    let idle = short_duration(tree.span_ns.saturating_sub(tree.busy_ns));
    let (span, cpu) = (short_duration(tree.span_ns), short_duration(tree.cpu_us.saturating_mul(1000)));
    let wall = short_duration(tree.wall_us.saturating_mul(1000));
    text.push_str(&format!(
        "  {} payloads, wall {wall}, CPU {cpu}, {} refused; {span} from first start to last end (UTC), {idle} of it idle\n",
        tree.payloads, tree.denied
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_two_payloads_share_counts_once() {
        assert_eq!(covered(vec![(10, 20), (15, 30), (40, 50), (41, 42)]), 30);
        assert_eq!(covered(Vec::new()), 0);
    }
}
