//! The answers. Damaged records are named on standard error and never hide the good ones.

use crate::cli::{Cli, Command, ListArgs, ShowArgs, VerifyArgs, WhoArgs};
use accounting::filter::Filter;
use accounting::view::{Answer, View};
use accounting::when::Moment;
use accounting::{report, table};
use record::{Damaged, Record, Spool};
use serde::Serialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const FOUND: u8 = 0;
const NOTHING: u8 = 1;
/// Exit code for a spool that cannot be read, or records that are damaged.
pub const FAILED: u8 = 3;

const DEFAULT_SPOOL: &str = "/var/spool/pilotage/records";

/// What goes to standard output, and the exit code.
pub struct Reply {
    pub text: String,
    pub code: u8,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}; correct it, or name the spool with --spool")]
    Policy(#[from] policy::file::PolicyError),
    #[error("spool {}: {why}; name the spool with --spool", .dir.display())]
    Spool { dir: PathBuf, why: std::io::Error },
    #[error("{0}")]
    Damaged(#[from] Damaged),
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Answers the command.
pub fn run(cli: &Cli) -> Result<Reply, Failure> {
    let spool = Spool::new(spool_dir(cli.spool.as_deref())?);
    match &cli.command {
        Command::List(args) => list(&spool, args),
        Command::Show(args) => show(&spool, args),
        Command::Who(args) => who(&spool, args),
        Command::Verify(args) => verify(&spool, args),
    }
}

fn spool_dir(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(dir) = given {
        return Ok(dir.to_owned());
    }
    let file = Path::new(policy::file::POLICY_FILE);
    match file.try_exists() {
        Ok(false) => Ok(DEFAULT_SPOOL.into()),
        _ => Ok(policy::SitePolicy::load(file)?.accounting.spool),
    }
}

/// What stands in a spool, each part ordered by id.
#[derive(Default)]
struct Contents {
    records: Vec<Record>,
    damaged: Vec<Damaged>,
    /// Files whose writer is at work, or died before the session began.
    unborn: Vec<PathBuf>,
}

fn read(spool: &Spool) -> Result<Contents, Failure> {
    let failed = |why| Failure::Spool { dir: spool.dir().to_owned(), why };
    std::fs::metadata(spool.dir()).map_err(failed)?;
    let mut contents = Contents { damaged: spool.strangers().map_err(failed)?, ..Contents::default() };
    for item in spool.records().map_err(failed)? {
        match item {
            Ok(record) => contents.records.push(record),
            // Taken away between the listing and the reading: it is not this spool's any more.
            Err(damaged) if damaged.error_kind() == ErrorKind::NotFound => {}
            Err(damaged) if damaged.error_kind() == ErrorKind::UnexpectedEof => {
                contents.unborn.push(damaged.path)
            }
            Err(damaged) => contents.damaged.push(damaged),
        }
    }
    Ok(contents)
}

fn select(spool: &Spool, filter: &Filter) -> Result<(Vec<Record>, u8), Failure> {
    let Contents { mut records, damaged, .. } = read(spool)?;
    damaged.iter().for_each(|d| eprintln!("accounting: damaged: {d}"));
    records.retain(|record| filter.matches(record));
    records.sort_by_key(Record::start_unix_ns);
    let code = match (damaged.is_empty(), records.is_empty()) {
        (false, _) => FAILED,
        (true, true) => NOTHING,
        (true, false) => FOUND,
    };
    Ok((records, code))
}

fn json<Q: Serialize>(query: &Q, records: &[Record]) -> Result<String, Failure> {
    Ok(Answer::new(query, records.iter().map(View::new).collect()).to_json()?)
}

fn list(spool: &Spool, args: &ListArgs) -> Result<Reply, Failure> {
    let filter = args.filter();
    let (records, code) = select(spool, &filter)?;
    if args.json {
        return Ok(Reply { text: json(&filter, &records)?, code });
    }
    if records.is_empty() {
        return Ok(Reply { text: "no records found\n".to_owned(), code });
    }
    Ok(Reply { text: table::render(&records, width(args.wide), Moment::now()), code })
}

/// Columns of a table: of the terminal, else what `COLUMNS` says; `None` cuts nothing.
fn width(wide: bool) -> Option<usize> {
    let terminal = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    (!wide).then(|| terminal.or_else(told).unwrap_or(table::DEFAULT_WIDTH))
}

fn who(spool: &Spool, args: &WhoArgs) -> Result<Reply, Failure> {
    let filter = args.filter();
    let (records, code) = select(spool, &filter)?;
    if args.json {
        return Ok(Reply { text: json(&filter, &records)?, code });
    }
    if records.is_empty() {
        let text = format!("no session held uid {} on {} at {}\n", args.uid, args.host, args.at);
        return Ok(Reply { text, code });
    }
    let text = records.iter().map(report::who).collect::<Vec<_>>().join("\n");
    Ok(Reply { text, code })
}

#[derive(Serialize)]
struct ById<'a> {
    id: &'a str,
}

fn show(spool: &Spool, args: &ShowArgs) -> Result<Reply, Failure> {
    let query = ById { id: &args.id };
    let ids = matching_ids(spool, &args.id)?;
    let id = match ids.as_slice() {
        [id] => id,
        [] if args.json => {
            return Ok(Reply { text: json(&query, &[])?, code: NOTHING });
        }
        [] => {
            return Ok(Reply { text: format!("no record {}\n", args.id), code: NOTHING });
        }
        several => {
            let text = format!("{} names several records:\n  {}\n", args.id, several.join("\n  "));
            return Ok(Reply { text, code: NOTHING });
        }
    };
    let record = spool.record(id)?;
    let lines = if args.events { spool.lines(id)? } else { Vec::new() };
    let text = if args.json {
        let view = View::new(&record);
        let view = if args.events { view.with_events(&lines) } else { view };
        Answer::new(&query, vec![view]).to_json()?
    } else {
        report::full(&record, Moment::now()) + &report::events(&lines)
    };
    Ok(Reply { text, code: FOUND })
}

fn matching_ids(spool: &Spool, part: &str) -> Result<Vec<String>, Failure> {
    let failed = |why| Failure::Spool { dir: spool.dir().to_owned(), why };
    std::fs::metadata(spool.dir()).map_err(failed)?;
    let mut ids = spool.ids().map_err(failed)?;
    if ids.iter().any(|id| id.eq_ignore_ascii_case(part)) {
        ids.retain(|id| id.eq_ignore_ascii_case(part));
    }
    let meant = |id: &String| {
        let id = id.to_ascii_lowercase();
        id.starts_with(part) || id.ends_with(part)
    };
    ids.retain(meant);
    Ok(ids)
}

#[derive(Serialize)]
struct Verified {
    records: usize,
    torn: Vec<PathBuf>,
    unborn: Vec<PathBuf>,
    damaged: Vec<DamageView>,
}

#[derive(Serialize)]
struct DamageView {
    file: PathBuf,
    line: Option<usize>,
    what: String,
}

fn verify(spool: &Spool, args: &VerifyArgs) -> Result<Reply, Failure> {
    let Contents { records, damaged, unborn } = read(spool)?;
    let code = if damaged.is_empty() { FOUND } else { FAILED };
    let torn: Vec<PathBuf> = records.iter().filter(|r| r.torn).map(|r| r.path.clone()).collect();
    if args.json {
        let view = |d: Damaged| DamageView { file: d.path, line: d.line, what: d.what };
        let damaged = damaged.into_iter().map(view).collect();
        let verified = Verified { records: records.len(), torn, unborn, damaged };
        return Ok(Reply { text: serde_json::to_string(&verified)? + "\n", code });
    }
    let mut text = String::new();
    damaged.iter().for_each(|d| text.push_str(&format!("damaged  {d}\n")));
    torn.iter()
        .for_each(|path| text.push_str(&format!("torn     {}: the last line is left out\n", path.display())));
    unborn.iter().for_each(|path| {
        text.push_str(&format!("unborn   {}: no complete event, nothing ran\n", path.display()))
    });
    let (good, torn, bad) = (records.len(), torn.len(), damaged.len());
    text.push_str(&format!("{good} records good, {torn} of them with a torn last line, {bad} damaged\n"));
    Ok(Reply { text, code })
}
