//! Questions about single records: list, who, show, tree.

use super::{FOUND, Failure, NOTHING, Reply, code_of};
use crate::cli::{Format, ListArgs, ShowArgs, TreeArgs, WhoArgs};
use accounting::filter::Filter;
use accounting::source::{Contents, Source};
use accounting::view::{Answer, View};
use accounting::when::Moment;
use accounting::{report, rows, table, tree};
use record::Record;
use serde::Serialize;

pub(super) fn list(source: &Source, args: &ListArgs) -> Result<Reply, Failure> {
    answer(source, &args.filter.filter(), args.format.format(), |records| match records {
        [] => "no records found\n".to_owned(),
        records => table::render(records, width(args.wide), Moment::now()),
    })
}

pub(super) fn who(source: &Source, args: &WhoArgs) -> Result<Reply, Failure> {
    answer(source, &args.filter(), args.format.format(), |records| match records {
        [] => format!("no session held uid {} on {} at {}\n", args.uid, args.host, args.at),
        records => records.iter().map(report::who).collect::<Vec<_>>().join("\n"),
    })
}

fn answer(
    source: &Source,
    filter: &Filter,
    format: Format,
    for_people: impl Fn(&[Record]) -> String,
) -> Result<Reply, Failure> {
    let contents = source.select(filter)?;
    let code = code_of(&contents);
    let text = match format {
        Format::Table => for_people(&contents.records),
        Format::Json => json(filter, &contents.records)?,
        Format::Jsonl => rows::jsonl(&contents.records)?,
        Format::Csv => rows::csv(&contents.records),
    };
    Ok(Reply { text, code })
}

/// Columns of a table: of the terminal, else what `COLUMNS` says; `None` cuts nothing.
fn width(wide: bool) -> Option<usize> {
    let terminal = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    (!wide).then(|| terminal.or_else(told).unwrap_or(table::DEFAULT_WIDTH))
}

fn json<Q: Serialize>(query: &Q, records: &[Record]) -> Result<String, Failure> {
    Ok(Answer::new(query, records.iter().map(View::new).collect()).to_json()?)
}

#[derive(Serialize)]
struct ById<'a> {
    id: &'a str,
}

pub(super) fn show(source: &Source, args: &ShowArgs) -> Result<Reply, Failure> {
    let query = ById { id: &args.id };
    let format = args.format.format();
    let ids = source.ids(&args.id)?;
    let id = match ids.as_slice() {
        [id] => id,
        [] if format == Format::Json => return Ok(Reply { text: json(&query, &[])?, code: NOTHING }),
        [] => return Ok(Reply { text: format!("no record {}\n", args.id), code: NOTHING }),
        several => {
            let text = format!("{} names several records:\n  {}\n", args.id, several.join("\n  "));
            return Ok(Reply { text, code: NOTHING });
        }
    };
    let (record, mut lines) = source.record(id)?;
    if !args.events {
        lines.clear();
    }
    let view = || if args.events { View::new(&record).with_events(&lines) } else { View::new(&record) };
    let text = match format {
        Format::Table => report::full(&record, Moment::now()) + &report::events(&lines),
        Format::Json => Answer::new(&query, vec![view()]).to_json()?,
        Format::Jsonl => serde_json::to_string(&view())? + "\n",
        Format::Csv => rows::csv(std::slice::from_ref(&record)),
    };
    Ok(Reply { text, code: FOUND })
}

pub(super) fn tree(source: &Source, args: &TreeArgs) -> Result<Reply, Failure> {
    let filter = args.filter.filter();
    let Contents { records, damaged, .. } = source.select(&filter)?;
    let code = super::tell_damage(&damaged, records.len());
    let now = Moment::now();
    let trees = tree::trees(&records, now);
    let text = match args.format.format() {
        Format::Table if trees.is_empty() => "no records found\n".to_owned(),
        Format::Table => tree::text(&trees, now),
        Format::Json => {
            let count = trees.len();
            serde_json::to_string(&serde_json::json!({ "query": filter, "count": count, "trees": trees }))?
                + "\n"
        }
        Format::Jsonl => {
            let lines: Result<String, _> =
                trees.iter().map(|t| serde_json::to_string(t).map(|l| l + "\n")).collect();
            lines?
        }
        Format::Csv => rows::csv(&records),
    };
    Ok(Reply { text, code })
}
