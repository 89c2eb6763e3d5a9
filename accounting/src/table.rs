//! A list of records as a table that fits the terminal.

use crate::filter::{account, host, subject, uid};
use crate::when::{Moment, short_duration};
use identity::shown::terminal;
use record::{Record, State};

/// Width when the output is no terminal, in columns.
pub const DEFAULT_WIDTH: usize = 80;
const GAP: &str = "  ";
/// The last column gets what is left, and at least this.
const LEAST: usize = 12;

struct Column {
    title: &'static str,
    /// Longer texts are cut; the wide table cuts nothing.
    most: usize,
    wide_only: bool,
    /// Where lines are too short for all, those with the highest number are left out first; 0 stays.
    spare: u8,
    cell: fn(&Record, Moment) -> String,
}

/// Who is last: a DN is the longest text, and its end says most.
const COLUMNS: [Column; 11] = [
    Column { title: "ID", most: 8, wide_only: false, spare: 0, cell: |r, _| r.id.clone() },
    Column { title: "START (UTC)", most: 16, wide_only: false, spare: 0, cell: start },
    Column {
        title: "STATE",
        most: 7,
        wide_only: false,
        spare: 1,
        cell: |r, _| state_name(r.state).to_owned(),
    },
    Column {
        title: "ACCOUNT",
        most: 12,
        wide_only: false,
        spare: 0,
        cell: |r, _| account(r).unwrap_or("-").to_owned(),
    },
    Column {
        title: "UID",
        most: 10,
        wide_only: true,
        spare: 0,
        cell: |r, _| uid(r).map_or("-".into(), |n| n.to_string()),
    },
    Column { title: "HOST", most: 12, wide_only: false, spare: 2, cell: |r, _| host(r).to_owned() },
    Column { title: "VO", most: 8, wide_only: false, spare: 4, cell: vo },
    Column { title: "WALL", most: 7, wide_only: false, spare: 3, cell: wall },
    Column { title: "CPU", most: 7, wide_only: false, spare: 5, cell: cpu },
    Column { title: "EXIT", most: 6, wide_only: false, spare: 0, cell: |r, _| exit(r) },
    Column { title: "DN", most: usize::MAX, wide_only: false, spare: 0, cell: dn },
];

/// The table with its title line; `None` as width cuts nothing and shows more columns.
pub fn render(records: &[Record], width: Option<usize>, now: Moment) -> String {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| width.is_none() || !c.wide_only).collect();
    let row = |record: &Record| -> Vec<String> {
        let cell = |c: &&Column| terminal(&(c.cell)(record, now)).into_owned();
        let cut = |c: &&Column, text: String| if width.is_some() { shorten(c, text) } else { text };
        columns.iter().map(|c| cut(c, cell(c))).collect()
    };
    let mut rows = vec![columns.iter().map(|c| c.title.to_owned()).collect()];
    rows.extend(records.iter().map(row));
    let mut spare: Vec<u8> = columns.iter().map(|c| c.spare).collect();
    drop_columns(&mut rows, &mut spare, width);
    let widths = widths(&rows, width);
    rows.iter().map(|row| cut(line(row, &widths), width)).collect()
}

/// Leaves out columns until the last one has room.
fn drop_columns(rows: &mut [Vec<String>], spare: &mut Vec<u8>, limit: Option<usize>) {
    let Some(limit) = limit else { return };
    while widths(rows, Some(limit)).iter().map(|w| w + GAP.len()).sum::<usize>() > limit + GAP.len() {
        let Some((column, _)) = spare.iter().enumerate().filter(|(_, s)| **s > 0).max_by_key(|(_, s)| **s)
        else {
            return;
        };
        rows.iter_mut().for_each(|row| drop(row.remove(column)));
        spare.remove(column);
    }
}

/// On a terminal too narrow even for what must stay.
fn cut(line: String, limit: Option<usize>) -> String {
    match limit {
        Some(limit) => keep_start(line.trim_end(), limit) + "\n",
        None => line,
    }
}

fn shorten(column: &Column, text: String) -> String {
    match column.title {
        // UUIDv7 begin with the time, so ids of one day differ at their ends only.
        "ID" => text.chars().rev().take(column.most).collect::<Vec<_>>().into_iter().rev().collect(),
        "HOST" => text.split('.').next().unwrap_or_default().to_owned(),
        _ => keep_start(&text, column.most),
    }
}

fn widths(rows: &[Vec<String>], limit: Option<usize>) -> Vec<usize> {
    let count = rows.first().map_or(0, Vec::len);
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..count).map(widest).collect();
    if let (Some(limit), Some((last, others))) = (limit, widths.split_last_mut()) {
        let taken: usize = others.iter().map(|w| w + GAP.len()).sum();
        *last = limit.saturating_sub(taken).max(LEAST);
    }
    widths
}

fn line(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        match index + 1 == row.len() {
            true => line.push_str(&keep_end(cell, *width)),
            false => line.push_str(&format!("{:width$}{GAP}", cell)),
        }
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

fn keep_start(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['~']).collect()
}

fn keep_end(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    ['~'].into_iter().chain(text.chars().skip(count - most + 1)).collect()
}

fn start(record: &Record, _: Moment) -> String {
    record::time::rfc3339(record.start_unix_ns()).replace('T', " ").chars().take(16).collect()
}

fn vo(record: &Record, _: Moment) -> String {
    subject(record).and_then(|s| s.vo.clone()).unwrap_or_else(|| "-".to_owned())
}

fn dn(record: &Record, _: Moment) -> String {
    subject(record).map_or_else(|| "-".to_owned(), |s| s.dn.clone())
}

fn wall(record: &Record, now: Moment) -> String {
    match (record.state, &record.usage) {
        (State::Denied, _) => "-".to_owned(),
        (State::Running, _) => short_duration(now.0.saturating_sub(record.start_unix_ns())),
        (_, Some(usage)) => short_duration(usage.wall_ns),
        (_, None) => "-".to_owned(),
    }
}

fn cpu(record: &Record, _: Moment) -> String {
    let usage = record.usage.as_ref();
    let ns = usage.map(|u| u.cpu_user_us.saturating_add(u.cpu_sys_us).saturating_mul(1000));
    ns.map_or_else(|| "-".to_owned(), short_duration)
}

/// The state in one word.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Closed => "closed",
        State::Lost => "lost",
        State::Denied => "denied",
    }
}

/// How it ended, in a few characters: an exit code, `sigN`, or the code that `glexec` refused with.
pub fn exit(record: &Record) -> String {
    if let Some(denied) = &record.denied {
        return denied.code.to_string();
    }
    match record.exit.as_ref().map(|e| (e.code, e.signal)) {
        Some((Some(code), _)) => code.to_string(),
        Some((None, Some(signal))) => format!("sig{signal}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let opened = record::Opened {
            record_id: "019fb000-0000-7000-8000-00000000aaaa".into(),
            host: "a-rather-long-name-of-a-node.example.org".into(),
            account: "a_rather_long_account_name".into(),
            payload: record::Subject {
                dn: "/DC=org/DC=example/OU=People/CN=Ada Analyst".into(),
                vo: Some("vo.example.org".into()),
                ..record::Subject::default()
            },
            start_unix_ns: 1_782_894_600_000_000_000,
            ..record::Opened::default()
        };
        let usage = record::Usage { wall_ns: u64::MAX / 3, ..record::Usage::default() };
        Record {
            id: opened.record_id.clone(),
            state: State::Closed,
            path: "a1.jsonl".into(),
            opened: Some(Box::new(opened)),
            denied: None,
            pid: None,
            usage: Some(usage),
            end_unix_ns: Some(u64::MAX),
            exit: None,
            clock_stepped: false,
            estimated: false,
            torn: false,
            amended: None,
        }
    }

    #[test]
    fn every_line_fits_and_the_end_of_the_dn_stays() {
        for width in [20, 40, 60, 72, 80, 100, 132, 250] {
            let table = render(&[record()], Some(width), Moment(0));
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}:\n{table}");
            assert!(width < 60 || table.contains("Analyst"), "{width}:\n{table}");
        }
        let wide = render(&[record()], None, Moment(0));
        assert!(wide.contains("/DC=org/DC=example/OU=People/CN=Ada Analyst") && wide.contains("UID"));
    }
}
