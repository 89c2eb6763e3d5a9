//! A list of records as a table that fits the terminal.

use crate::filter::{account, host, subject, uid};
use crate::when::{Moment, short_duration};
use record::text::printable;
use record::{Record, State};

/// Width when the output is no terminal, in columns.
pub const DEFAULT_WIDTH: usize = 100;
const GAP: &str = "  ";
/// The last column gets what is left, and at least this.
const LEAST: usize = 12;

struct Column {
    title: &'static str,
    /// Longer texts are cut; the wide table cuts nothing.
    most: usize,
    wide_only: bool,
    cell: fn(&Record, Moment) -> String,
}

/// Who is last: a DN is the longest text, and its end says most.
const COLUMNS: [Column; 11] = [
    Column { title: "ID", most: 8, wide_only: false, cell: |r, _| r.id.clone() },
    Column { title: "START (UTC)", most: 16, wide_only: false, cell: start },
    Column { title: "STATE", most: 7, wide_only: false, cell: |r, _| state_name(r.state).to_owned() },
    Column {
        title: "ACCOUNT",
        most: 12,
        wide_only: false,
        cell: |r, _| account(r).unwrap_or("-").to_owned(),
    },
    Column {
        title: "UID",
        most: 10,
        wide_only: true,
        cell: |r, _| uid(r).map_or("-".into(), |n| n.to_string()),
    },
    Column { title: "HOST", most: 12, wide_only: false, cell: |r, _| host(r).to_owned() },
    Column { title: "VO", most: 8, wide_only: false, cell: vo },
    Column { title: "WALL", most: 7, wide_only: false, cell: wall },
    Column { title: "CPU", most: 7, wide_only: false, cell: cpu },
    Column { title: "EXIT", most: 6, wide_only: false, cell: |r, _| exit(r) },
    Column { title: "DN", most: usize::MAX, wide_only: false, cell: dn },
];

/// The table with its title line; `None` as width cuts nothing and shows more columns.
pub fn render(records: &[Record], width: Option<usize>, now: Moment) -> String {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| width.is_none() || !c.wide_only).collect();
    let row = |record: &Record| -> Vec<String> {
        let cell = |c: &&Column| printable((c.cell)(record, now).as_bytes(), 8192);
        let cut = |c: &&Column, text: String| if width.is_some() { shorten(c, text) } else { text };
        columns.iter().map(|c| cut(c, cell(c))).collect()
    };
    let mut rows = vec![columns.iter().map(|c| c.title.to_owned()).collect()];
    rows.extend(records.iter().map(row));
    let widths = widths(&rows, width);
    rows.iter().map(|row| line(row, &widths)).collect()
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
