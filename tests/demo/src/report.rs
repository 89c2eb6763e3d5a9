//! What the demo shows in the end, and whether everything was as it should be.

use crate::grid;
use crate::play::{Story, Submitted};
use anyhow::{Context, Result};
use harness::Machine;
use serde_json::Value;
use std::time::Duration;

/// How many attacks the hostile payload makes.
const ATTACKS: usize = 8;

/// The expectations and whether they were met.
#[derive(Default)]
pub(crate) struct Checks {
    good: usize,
    bad: Vec<String>,
}

impl Checks {
    fn expect(&mut self, met: bool, what: impl Into<String>) {
        match met {
            true => self.good += 1,
            false => self.bad.push(what.into()),
        }
    }

    /// What was not met; `None` when all was.
    pub(crate) fn failure(&self) -> Option<String> {
        let all = self.good + self.bad.len();
        let which = self.bad.join("; ");
        (!self.bad.is_empty()).then(|| format!("{} of {all} expectations not met: {which}", self.bad.len()))
    }

    /// The result in one line.
    pub(crate) fn summary(&self, took: Duration) -> String {
        let all = self.good + self.bad.len();
        format!("{} of {all} expectations met in {:.1} s.", self.good, took.as_secs_f64())
    }
}

/// The reason first, where one looks, and last, where a terminal stops; between them what the services said. Only the
/// first line of the reason stands twice.
pub(crate) fn failed(reason: &str, logs: &str) -> String {
    let line = |title: &str| format!("-- {title} {}\n", "-".repeat(76_usize.saturating_sub(title.len())));
    let (reason, more) = reason.trim_end().split_once('\n').unwrap_or((reason, ""));
    let reason = format!("pilotage-demo: FAILED: {reason}\n");
    let more: String = more.lines().map(|line| format!("    {line}\n")).collect();
    [&reason, &more, &line("what the services said"), logs, &line("end of the logs"), &reason].concat()
}

/// Shows everything and checks it.
pub(crate) fn show(machine: &Machine, story: &Story, checks: &mut Checks) -> Result<()> {
    payloads(machine, story, checks)?;
    callbacks(story, checks);
    attacks(story, checks);
    records(machine, story, checks)
}

/// A payload in the table.
struct Row {
    title: &'static str,
    owner: String,
    account: String,
    uid: u64,
    state: String,
    code: Option<i64>,
    ports: String,
    wall: String,
    cpu: String,
}

fn row(payload: &Submitted, shown: &Value) -> Result<Row> {
    let report = shown["attempts"].as_array().and_then(|a| a.last()).map(|a| &a["report"]);
    let report = report.with_context(|| format!("{}: the queue knows of no attempt", payload.title))?;
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let seconds = |value: &Value| {
        value.as_u64().map_or("-".to_owned(), |ms| format!("{}.{:02} s", ms / 1000, ms % 1000 / 10))
    };
    Ok(Row {
        title: payload.title,
        owner: text(&shown["owner"]),
        account: text(&report["account"]),
        uid: report["uid"].as_u64().unwrap_or(0),
        state: text(&shown["state"]),
        code: report["exit_code"].as_i64(),
        ports: text(&report["ports"]),
        wall: seconds(&report["wall_ms"]),
        cpu: seconds(&report["cpu_ms"]),
    })
}

fn payloads(machine: &Machine, story: &Story, checks: &mut Checks) -> Result<()> {
    let rows = story.payloads.iter().map(|(p, shown)| row(p, shown)).collect::<Result<Vec<_>>>()?;
    println!("\nPayloads");
    let cells = rows.iter().map(|r| {
        let code = r.code.map_or("-".to_owned(), |c| c.to_string());
        let account = format!("{} ({})", r.account, r.uid);
        let cells = [r.title, &r.owner, &account, &r.state, &code, &r.ports, &r.wall, &r.cpu];
        cells.map(str::to_owned).to_vec()
    });
    table(&["payload", "user", "local account", "state", "exit", "ports", "wall", "cpu"], cells.collect());
    for (r, (payload, _)) in rows.iter().zip(&story.payloads) {
        let (state, code) = if r.title.contains('7') { ("failed", 7) } else { ("done", 0) };
        checks.expect(r.state == state, format!("{}: state {}, expected {state}", r.title, r.state));
        checks.expect(r.code == Some(code), format!("{}: exit code {:?}, expected {code}", r.title, r.code));
        let account = grid::account_of(payload.user);
        let uid = u64::from(machine.uid(account));
        let right = r.account == account && r.uid == uid;
        checks.expect(
            right,
            format!("{}: ran as {} ({}), expected {account} ({uid})", r.title, r.account, r.uid),
        );
        checks.expect(r.owner == grid::dn_of(payload.user)?, format!("{}: belongs to {}", r.title, r.owner));
    }
    let pilot = u64::from(machine.uid("pilot"));
    checks.expect(rows.iter().all(|r| r.uid != pilot && r.uid != 0), "a payload ran as the pilot or as root");
    checks.expect(rows[0].uid != rows[1].uid, "Alice's and Bob's payloads ran under one uid");
    checks.expect(rows[0].ports != "-" && rows[0].ports != rows[1].ports, "ports were not leased one by one");
    for (user, text) in &story.results {
        let account = grid::account_of(&user.to_lowercase());
        checks.expect(
            text.trim_end() == format!("computed by {account}"),
            format!("{user}'s result says {text:?}"),
        );
    }
    Ok(())
}

fn callbacks(story: &Story, checks: &mut Checks) {
    println!("\nCallbacks");
    for (user, port, answer) in &story.callbacks {
        println!("  {user}'s payload on port {port}: {answer}");
        let expected = format!("hello from {},", grid::account_of(&user.to_lowercase()));
        checks.expect(
            answer.starts_with(&expected),
            format!("port {port} answered {answer:?}, expected {expected}"),
        );
    }
}

fn attacks(story: &Story, checks: &mut Checks) {
    println!("\nThe hostile payload");
    let attempts: Vec<_> = story.hostile.lines().filter(|l| l.starts_with("attempt ")).collect();
    attempts.iter().for_each(|line| println!("  {line}"));
    checks.expect(
        attempts.len() == ATTACKS,
        format!("{} attacks were made, expected {ATTACKS}", attempts.len()),
    );
    for line in attempts {
        checks.expect(line.contains(": refused ("), line);
    }
}

fn records(machine: &Machine, story: &Story, checks: &mut Checks) -> Result<()> {
    println!("\nThe site's own records: accounting list");
    let accounting = |args: &[&str]| machine.command("/usr/bin/accounting").args(args).output();
    println!("{}", indented(&accounting(&["list"]).ok()));
    let records = machine.records();
    for (payload, shown) in &story.payloads {
        let attempt = shown["attempts"].as_array().and_then(|a| a.last()).context("no attempt")?;
        let session = attempt["report"]["session"].as_str().unwrap_or("-");
        let Some(record) = records.iter().find(|r| r["record_id"] == session) else {
            checks.expect(false, format!("{}: there is no record {session}", payload.title));
            continue;
        };
        checks.expect(
            record["state"] == "closed",
            format!("{}: its record is {}", payload.title, record["state"]),
        );
        let uid = machine.uid(grid::account_of(payload.user));
        checks.expect(
            record["uid"] == uid,
            format!("{}: its record names uid {}", payload.title, record["uid"]),
        );
        let dn = grid::dn_of(payload.user)?;
        checks.expect(
            record["payload"]["dn"] == dn,
            format!("{}: its record names another user", payload.title),
        );
    }
    who(machine, story, &records, checks)
}

/// The question that a site gets when something has happened: who was that account at that moment?
fn who(machine: &Machine, story: &Story, records: &[Value], checks: &mut Checks) -> Result<()> {
    let (alice, shown) = &story.payloads[0];
    let session = &shown["attempts"][0]["report"]["session"];
    let record =
        records.iter().find(|r| r["record_id"] == *session).context("Alice's session has no record")?;
    let time = |name: &str| record[name].as_u64().with_context(|| format!("Alice's record has no {name}"));
    let (start, end) = (time("start_unix_ns")?, time("end_unix_ns")?);
    let at = utc(start + (end - start) / 2);
    let uid = machine.uid(grid::account_of(alice.user)).to_string();
    let host = record["host"].as_str().context("Alice's record names no host")?;
    println!("\nWho was uid {uid} on {host} at {at}? accounting who");
    let who = machine
        .command("/usr/bin/accounting")
        .args(["who", "--uid", &uid, "--host", host, "--at", &at])
        .output();
    println!("{}", indented(&who.text()));
    let dn = grid::dn_of(alice.user)?;
    checks.expect(
        who.code() == Some(0) && who.text().contains(&dn),
        format!("accounting who does not name {dn}"),
    );
    Ok(())
}

/// Nanoseconds since the epoch as RFC 3339, by date(1): one line needs no library.
fn utc(ns: u64) -> String {
    let time = format!("@{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let date = std::process::Command::new("date").args(["-u", "+%FT%T.%3NZ", "-d", &time]).output();
    date.map(|d| String::from_utf8_lossy(&d.stdout).trim_end().to_owned()).unwrap_or_default()
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")
}

/// Prints columns as wide as their widest cell.
fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let head = head.iter().map(|&h| h.to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..all[0].len()).map(width).collect();
    for row in &all {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_begins_and_ends_with_its_reason() {
        let mut checks = Checks::default();
        checks.expect(true, "fine");
        assert_eq!(checks.failure(), None);
        checks.expect(false, "a port answered");
        let text = failed(&(checks.failure().unwrap() + "\nand more\n"), "    queue: a line\n");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "pilotage-demo: FAILED: 1 of 2 expectations not met: a port answered");
        assert_eq!((lines[1], lines[3], lines.first()), ("    and more", "    queue: a line", lines.last()));
        assert!(lines[2].starts_with("-- what") && lines[4].starts_with("-- end") && lines.len() == 6);
    }
}
