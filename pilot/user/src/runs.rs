//! `pilot runs`: what pilots said of each attempt that ended, one JSON object a line; with `--json` all in one list.

use super::say::{print, print_json};
use super::{Common, Failure, RETRY, Result};
use identity::shown;

/// Options of `pilot runs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Attempts that ended then or later: seconds since the epoch
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    since: u64,
    /// Attempts that ended before: seconds since the epoch
    #[arg(long, value_name = "SECONDS", default_value_t = u64::MAX)]
    until: u64,
}

/// `pilot runs`; each page is written before the next is asked for.
pub async fn run(args: Args) -> Result<u8> {
    let client = args.common.client()?;
    let (mut after, mut some, mut all) = (None, false, Vec::new());
    loop {
        let page = client.patiently(RETRY, || client.runs(args.since, args.until, after)).await?;
        some |= !page.is_empty();
        after = page.last().map(|run| run.attempt);
        let is_last = page.len() < pilot_api::PAGE as usize;
        if args.common.json {
            all.extend(page);
            if is_last {
                print_json(&all)?;
                return Ok(u8::from(!some));
            }
            continue;
        }
        let mut text = String::new();
        for run in &page {
            let line = serde_json::to_string(run);
            let line = line.map_err(|e| Failure::no(format!("cannot write JSON: {e}")))?;
            text.push_str(&shown::json(&line));
            text.push('\n');
        }
        print(&text)?;
        if is_last {
            return Ok(u8::from(!some));
        }
    }
}
