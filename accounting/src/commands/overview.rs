//! A month on one page, and the site's records against what others say.

use super::{FAILED, FOUND, Failure, NOTHING, Reply, tell_damage};
use crate::cli::{ReconcileArgs, ReportArgs};
use accounting::filter::{Decision, Filter};
use accounting::html::{self, Month};
use accounting::reconcile::{self, Overhead};
use accounting::source::{Contents, Source};
use accounting::sum::Key;
use record::Role;
use serde_json::json;

pub(super) fn report(source: &Source, args: &ReportArgs) -> Result<Reply, Failure> {
    let (since, until) = args.month;
    let ended = Filter { since: Some(since), until: Some(until), ..Filter::default() };
    let ran = Filter { role: Some(Role::Payload), decision: Some(Decision::Allowed), ..ended.clone() };
    let refused = Filter { decision: Some(Decision::Denied), ..ended };
    let (by_vo, damaged) = source.sums(&ran, &[Key::Vo])?;
    let (by_user, _) = source.sums(&ran, &[Key::User])?;
    let (by_day, _) = source.sums(&ran, &[Key::Day])?;
    let (denied, _) = source.sums(&refused, &[Key::Reason])?;
    let mut records = source.select(&ran.around_ends())?.records;
    records.retain(|record| record.end_unix_ns.is_some_and(|end| (since.0..until.0).contains(&end)));
    let name = since.to_string()[..7].to_owned();
    let site = args.site.as_deref().unwrap_or_default();
    let month = Month {
        name: &name,
        site,
        by_vo: &by_vo,
        by_user: &by_user,
        by_day: &by_day,
        denied: &denied,
        records: &records,
    };
    let page = html::page(&month);
    let code = tell_damage(&damaged, records.len() + denied.len());
    let Some(path) = &args.output else { return Ok(Reply { text: page, code }) };
    std::fs::write(path, page).map_err(|why| Failure::File { path: path.clone(), why })?;
    Ok(Reply { text: format!("{}\n", path.display()), code })
}

pub(super) fn reconcile(source: &Source, args: &ReconcileArgs) -> Result<Reply, Failure> {
    let filter = args.filter();
    let Contents { records, damaged, .. } = source.select(&filter)?;
    let damage = tell_damage(&damaged, 1);
    let (findings, overhead) = args.others.compare(&records)?;
    let code = match (damage, findings.is_empty()) {
        (FAILED, _) => FAILED,
        (_, true) => FOUND,
        (_, false) => NOTHING,
    };
    if args.json {
        let text =
            json!({ "query": filter, "overhead": overhead, "count": findings.len(), "findings": findings });
        return Ok(Reply { text: text.to_string() + "\n", code });
    }
    let mut text: String = findings.iter().map(reconcile::text).collect();
    let Overhead { slots, held_s, sessions_s } = overhead;
    if slots > 0 {
        let hours = |seconds: u64| seconds as f64 / 3600.0;
        text.push_str(&format!(
            "{slots} slots, held for {:.1} h, sessions in them took {:.1} h: overhead {:.1} h\n",
            hours(held_s),
            hours(sessions_s),
            hours(held_s.saturating_sub(sessions_s))
        ));
    }
    text.push_str(&format!(
        "{} sessions and refusals compared, {} do not fit\n",
        records.len(),
        findings.len()
    ));
    Ok(Reply { text, code })
}
