//! `pilot output`: brings a payload's output files home.

use super::say::{note, print, print_json};
use super::select::Selector;
use super::text::clean;
use super::unpack::{Rules, Unpacked, unpack};
use super::{Common, Failure, RETRY, Result, hints};
use pilot_api::names::Patterns;
use pilot_client::Client;
use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// Options of `pilot output`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where to put the files [default: a directory named after the payload]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
    /// Also write files whose name begins with a dot
    #[arg(long)]
    dot_files: bool,
    /// Payload id, its beginning, or `last`
    id: Selector,
}

/// How many files that were left out are named.
const NAMED: usize = 20;

/// Carries the command out; prints the names of the files. 1 when something of the output is not there afterwards.
pub async fn run(args: Args) -> Result<u8> {
    let client = args.common.client()?;
    let id = args.id.id(&client).await?;
    let to = args.to.unwrap_or_else(|| PathBuf::from(id.to_string()));
    let payload = client.patiently(RETRY, || client.payload(id, 0)).await?;
    let texts = &payload.spec.outputs;
    let wanted = Patterns::parse(texts).map_err(Failure::no)?;
    // Before the archive: where nothing could be brought home there is none.
    let missing = hints::missing_output(&payload);
    missing.iter().for_each(|missing| note(missing));
    let archive = fetch(&client, id).await?;
    let rules = Rules { wanted: &wanted, texts, force: args.force, dot_files: args.dot_files };
    let done = unpack(archive, &to, &rules).map_err(|e| {
        Failure::unreachable(format!("the output archive is damaged, or cannot be written: {e}"))
    })?;
    tell_refused(&done);
    let code = u8::from(!done.refused.is_empty() || missing.is_some());
    if args.common.json {
        let refused = done
            .refused
            .iter()
            .map(|(name, reason)| serde_json::json!({"file": name.to_string_lossy(), "reason": reason}));
        let (names, refused) = (lossy(&done.files), refused.collect::<Vec<_>>());
        print_json(
            &serde_json::json!({ "directory": to.to_string_lossy(), "files": names, "left_out": refused, "missing": missing }),
        )?;
        return Ok(code);
    }
    let lines = done.files.iter().map(|name| format!("{}\n", clean(&to.join(name).to_string_lossy())));
    print(&lines.collect::<String>())?;
    Ok(code)
}

fn lossy(names: &[PathBuf]) -> Vec<String> {
    names.iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

/// The count first: it is what a script or a hurried reader needs.
fn tell_refused(done: &Unpacked) {
    if done.refused.is_empty() {
        return;
    }
    let all = done.refused.len() + done.files.len();
    note(&format!("{} of {all} output files were not written:", done.refused.len()));
    for (name, reason) in done.refused.iter().take(NAMED) {
        note(&format!("{}: {reason}", shown(name)));
    }
}

fn shown(name: &Path) -> String {
    name.to_string_lossy().into_owned()
}

/// The archive, in a file without a name: it may be larger than memory.
async fn fetch(client: &Client, id: Uuid) -> Result<File> {
    let mut answer = client.patiently(RETRY, || client.output(id)).await?;
    let kept = |e: std::io::Error| Failure::no(format!("cannot keep the output: {e}"));
    let spool =
        tempfile::tempfile().map_err(|e| Failure::no(format!("cannot make a temporary file: {e}")))?;
    let mut writer = tokio::fs::File::from_std(spool);
    loop {
        let chunk = answer
            .chunk()
            .await
            .map_err(|e| Failure::unreachable(format!("the output was cut short: {e}; try again")))?;
        let Some(chunk) = chunk else { break };
        writer.write_all(&chunk).await.map_err(kept)?;
    }
    writer.flush().await.map_err(kept)?;
    let mut spool = writer.into_std().await;
    spool.rewind().map_err(|e| Failure::no(format!("cannot read the output back: {e}")))?;
    Ok(spool)
}
