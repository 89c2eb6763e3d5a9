//! `pilot output`: brings a payload's output files home.

use super::say::{note, print, print_json};
use super::select::Selector;
use super::text::clean;
use super::unpack::{Rules, Unpacked, unpack};
use super::{Common, Failure, RETRY, Result, hints};
use pilot_api::Payload;
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
    /// Id of a payload or array, its beginning, or `last`
    id: Selector,
}

/// How many files that were left out are named.
const NAMED: usize = 20;

/// Carries the command out; prints the names of the files. 1 when something of the output is not there afterwards. Each
/// element of an array gets a directory of its own, named after its index.
pub async fn run(args: Args) -> Result<u8> {
    let client = args.common.client()?;
    let ids = args.id.ids(&client).await?;
    let (mut worst, mut all) = (0, Vec::new());
    for id in &ids {
        let payload = client.patiently(RETRY, || client.payload(*id, 0)).await?;
        let named = payload.array.filter(|_| ids.len() > 1).unwrap_or(*id);
        let to = args.to.clone().unwrap_or_else(|| named.to_string().into());
        // An element that was named itself is a payload as any other.
        let to = match payload.array_index {
            Some(index) if ids.len() > 1 => to.join(index.to_string()),
            _ => to,
        };
        match bring(&args, &client, &payload, &to).await {
            Ok((code, told)) => {
                worst = worst.max(code);
                all.push(told);
            }
            // One element without output does not cost the others theirs.
            Err(failure) if failure.code == 1 && ids.len() > 1 => {
                note(&format!("{id}: {failure}"));
                worst = 1;
            }
            Err(failure) => return Err(failure),
        }
    }
    match all.as_slice() {
        _ if !args.common.json => Ok(worst),
        [one] => print_json(one).map(|_| worst),
        all => print_json(&all).map(|_| worst),
    }
}

/// One payload's output; exit code and what JSON says.
async fn bring(
    args: &Args,
    client: &Client,
    payload: &Payload,
    to: &Path,
) -> Result<(u8, serde_json::Value)> {
    let id = payload.id;
    let texts = &payload.spec.outputs;
    let wanted = Patterns::parse(texts).map_err(Failure::no)?;
    // Before the archive: where nothing could be brought home there is none.
    let missing = hints::missing_output(payload);
    missing.iter().for_each(|missing| note(missing));
    let archive = fetch(client, id).await?;
    let rules = Rules { wanted: &wanted, texts, force: args.force, dot_files: args.dot_files };
    let done = unpack(archive, to, &rules).map_err(|e| {
        Failure::unreachable(format!("the output archive is damaged, or cannot be written: {e}"))
    })?;
    tell_refused(&done);
    let code = u8::from(!done.refused.is_empty() || missing.is_some());
    if !args.common.json {
        let lines = done.files.iter().map(|name| format!("{}\n", clean(&to.join(name).to_string_lossy())));
        print(&lines.collect::<String>())?;
    }
    let refused = done
        .refused
        .iter()
        .map(|(name, reason)| serde_json::json!({"file": name.to_string_lossy(), "reason": reason}));
    let (names, refused) = (lossy(&done.files), refused.collect::<Vec<_>>());
    let told = serde_json::json!({ "directory": to.to_string_lossy(), "files": names, "left_out": refused, "missing": missing });
    Ok((code, told))
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
