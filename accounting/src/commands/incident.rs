//! Commands for an incident: whom a ban would hit, and ending what runs for somebody.

use super::{FAILED, FOUND, Failure, NOTHING, Reply, tell_damage};
use crate::cli::{BanCheckArgs, KillArgs};
use accounting::ban_check;
use accounting::filter::{self, Filter};
use accounting::source::{Contents, Source};
use identity::shown::log_line;
use record::Record;
use serde_json::json;
use std::process::{Command, Stdio};

pub(super) fn ban_check(source: &Source, args: &BanCheckArgs) -> Result<Reply, Failure> {
    let bytes = std::fs::read(&args.file);
    let bytes = bytes.map_err(|why| Failure::File { path: args.file.clone(), why })?;
    let filter = Filter { since: Some(args.since), ..Filter::default() };
    let Contents { records, damaged, .. } = source.select(&filter)?;
    let damage = tell_damage(&damaged, 1);
    let lines = ban_check::check(&String::from_utf8_lossy(&bytes), &records);
    let broken = lines.iter().any(|line| line.fault.is_some());
    let nobody = lines.iter().any(|line| line.hits.is_empty());
    let code = match (broken || damage == FAILED, nobody || lines.is_empty()) {
        (true, _) => FAILED,
        (false, true) => NOTHING,
        (false, false) => FOUND,
    };
    let text = if args.json {
        json!({ "file": args.file, "since_utc": args.since, "records": records.len(), "lines": lines })
            .to_string()
            + "\n"
    } else {
        let since = args.since;
        format!("{} records since {since} (UTC)\n", records.len()) + &ban_check::text(&lines)
    };
    Ok(Reply { text, code })
}

pub(super) fn kill(source: &Source, args: &KillArgs) -> Result<Reply, Failure> {
    let filter = Filter { running: true, ..args.filter.filter() };
    let Contents { records, damaged, .. } = source.select(&filter)?;
    let damage = tell_damage(&damaged, records.len());
    if records.is_empty() {
        return Ok(Reply { text: "no session runs that is meant\n".to_owned(), code: damage });
    }
    let here = hostname();
    let (mut text, mut failed) = (String::new(), 0);
    for record in &records {
        let is_here = filter::same_host(&here, filter::host(record));
        let done = match (args.yes, is_here) {
            (false, true) => "would be ended here".to_owned(),
            (_, false) => {
                failed += usize::from(args.yes);
                "runs elsewhere: end it on that node, or ban its user and cancel its payload in the queue"
                    .to_owned()
            }
            (true, true) => match end(args, &record.id) {
                Ok(()) => "ended, nothing is left".to_owned(),
                Err(why) => {
                    failed += 1;
                    format!("NOT ended: {why}")
                }
            },
        };
        text.push_str(&line(record, &done));
    }
    if !args.yes {
        text.push_str("nothing was done; repeat with --yes\n");
    }
    Ok(Reply { text, code: if failed > 0 { FAILED } else { damage } })
}

fn line(record: &Record, done: &str) -> String {
    let who = filter::subject(record).map_or("-", |subject| subject.dn.as_str());
    let (account, host) = (filter::account(record).unwrap_or("-"), filter::host(record));
    format!(
        "{}  {}  {}  {}: {}\n",
        record.id,
        log_line(host),
        log_line(account),
        log_line(who),
        log_line(done)
    )
}

/// Through `glexec`, which proves that nothing is left.
fn end(args: &KillArgs, id: &str) -> Result<(), String> {
    let mut command = Command::new(&args.glexec);
    let ran = command.args(["--session", id, "--end"]).stdin(Stdio::null()).output();
    let output = ran.map_err(|e| format!("{}: {e}", args.glexec.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().map_or_else(|| output.status.to_string(), str::to_owned))
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}
