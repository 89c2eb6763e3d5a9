//! Sums of usage.

use super::{Failure, Reply, tell_damage};
use crate::cli::{Format, SumArgs};
use accounting::source::Source;
use accounting::sum_view::{csv, json, jsonl, table};

pub(super) fn sum(source: &Source, args: &SumArgs) -> Result<Reply, Failure> {
    let filter = args.summary.filter();
    let (sums, damaged) = source.sums(&filter, &args.summary.by)?;
    let code = tell_damage(&damaged, sums.len());
    let text = match args.format.format() {
        Format::Table if sums.is_empty() => "nothing ended in that time\n".to_owned(),
        Format::Table => table(&args.summary.by, &sums),
        Format::Json => json(&filter, &args.summary.by, &sums),
        Format::Jsonl => jsonl(&args.summary.by, &sums),
        Format::Csv => csv(&args.summary.by, &sums),
    };
    Ok(Reply { text, code })
}
