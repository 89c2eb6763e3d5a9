//! Records as csv (RFC 4180) and as one JSON object a line, for spreadsheets and programs.

use crate::filter;
use crate::view::View;
use identity::shown::log_line;
use record::Record;
use record::time::rfc3339;

/// Names of the columns; their order is stable, more may follow.
pub const COLUMNS: [&str; 37] = [
    "record_id",
    "state",
    "decision",
    "role",
    "start_utc",
    "end_utc",
    "host",
    "account",
    "uid",
    "gid",
    "vo",
    "dn",
    "fqan",
    "pilot_dn",
    "lrms",
    "batch_job",
    "batch_owner",
    "ce",
    "parent_id",
    "caller_uid",
    "caller_name",
    "mapped_by",
    "cred_sha256",
    "program",
    "command",
    "wall_ns",
    "cpu_user_us",
    "cpu_sys_us",
    "cpu_source",
    "cpus",
    "mem_peak_bytes",
    "mem_kind",
    "io_read_bytes",
    "io_write_bytes",
    "exit",
    "lost",
    "reason",
];

/// The records as csv with a line of titles.
pub fn csv(records: &[Record]) -> String {
    let titles = csv_line(COLUMNS.iter().map(|title| (*title).to_owned()));
    records.iter().fold(titles, |text, record| text + &csv_line(cells(record).into_iter()))
}

/// The records as JSON, one object a line.
///
/// # Errors
/// Only what serialising says, which plain data does not.
pub fn jsonl(records: &[Record]) -> Result<String, serde_json::Error> {
    let line = |record: &Record| serde_json::to_string(&View::new(record)).map(|line| line + "\n");
    records.iter().map(line).collect()
}

/// One line: cells with a comma or a quote are quoted, what would act on a terminal is escaped.
pub fn csv_line(cells: impl Iterator<Item = String>) -> String {
    let quoted = |cell: String| {
        let cell = log_line(&cell).into_owned();
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    };
    cells.map(quoted).collect::<Vec<_>>().join(",") + "\r\n"
}

fn cells(record: &Record) -> Vec<String> {
    let opened = record.opened.as_deref();
    let (denied, usage) = (record.denied.as_deref(), record.usage.as_ref());
    let (subject, batch) = (filter::subject(record), filter::batch(record));
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
    let claimed = opened.and_then(|o| o.claimed.as_ref());
    let caller =
        opened.map(|o| (o.caller_uid, &o.caller_name)).or(denied.map(|d| (d.caller_uid, &d.caller_name)));
    vec![
        record.id.clone(),
        text(Some(crate::table::state_name(record.state))),
        text(Some(filter::decision(record).name())),
        text(Some(filter::role_name(filter::role(record)))),
        rfc3339(record.start_unix_ns()),
        record.end_unix_ns.map(rfc3339).unwrap_or_default(),
        text(Some(filter::host(record))),
        text(filter::account(record)),
        number(filter::uid(record).map(u64::from)),
        number(opened.map(|o| u64::from(o.gid))),
        text(subject.and_then(|s| s.vo.as_deref())),
        text(subject.map(|s| s.dn.as_str())),
        text(subject.and_then(|s| s.fqans.first()).map(String::as_str)),
        text(opened.and_then(|o| o.pilot_dn.as_deref())),
        text(batch.map(|b| b.lrms.as_str())),
        text(batch.map(|b| b.jobid.as_str())),
        text(batch.and_then(|b| b.owner.as_deref())),
        text(opened.and_then(|o| o.ce.as_deref())),
        text(opened.and_then(|o| o.parent_id.as_deref())),
        number(caller.map(|(uid, _)| u64::from(uid))),
        text(caller.and_then(|(_, name)| name.as_deref())),
        text(opened.map(|o| o.policy_source.as_str()).or(denied.and_then(|d| d.policy_source.as_deref()))),
        text(Some(filter::credential(record))),
        text(claimed.map(|c| c.argv0.as_str())),
        text(opened.map(|o| o.argv0.as_str()).or(denied.map(|d| d.argv0.as_str()))),
        number(usage.map(|u| u.wall_ns)),
        number(usage.map(|u| u.cpu_user_us)),
        number(usage.map(|u| u.cpu_sys_us)),
        text(usage.map(|u| u.cpu_source.as_str())),
        number(opened.map(|o| u64::from(crate::store::cpus(Some(o))))),
        number(usage.and_then(|u| u.mem_peak_bytes)),
        text(usage.and_then(|u| u.mem_kind.as_deref())),
        number(usage.and_then(|u| u.io_read_bytes)),
        number(usage.and_then(|u| u.io_write_bytes)),
        crate::table::exit(record),
        text(record.exit.as_ref().and_then(|e| e.lost.as_deref())),
        text(denied.map(|d| d.reason.as_str())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_need_it_are_quoted() {
        let line = csv_line(["plain", "a,b", "say \"no\"", "two\nlines", ""].map(str::to_owned).into_iter());
        assert_eq!(line, "plain,\"a,b\",\"say \"\"no\"\"\",two\\nlines,\r\n");
    }
}
