//! Keeping records: from the spool into the store, and the proof that nothing was changed.

use super::{FAILED, FOUND, Failure, Places, Reply};
use crate::cli::{FoldArgs, VerifyArgs};
use accounting::source::{Contents, Source};
use accounting::store::{Proof, StoreError, StoreWriter, fold as folding};
use accounting::when::Moment;
use identity::shown::log_line;
use record::{Damaged, Spool};
use serde::Serialize;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;

#[derive(Serialize)]
struct Verified {
    records: usize,
    torn: Vec<PathBuf>,
    unborn: Vec<PathBuf>,
    damaged: Vec<DamageView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<String>,
}

#[derive(Serialize)]
struct DamageView {
    file: Option<PathBuf>,
    line: Option<usize>,
    what: String,
}

pub(super) fn verify(source: &Source, args: &VerifyArgs) -> Result<Reply, Failure> {
    let Contents { records, damaged, unborn } = source.in_spool()?;
    let mut bad: Vec<(String, DamageView)> = damaged.into_iter().map(of_spool).collect();
    let proof = source.store().map(|store| store.verify(args.head.as_deref()));
    let proof = match proof {
        Some(Ok(proof)) if !proof.has_kept => {
            let what = "the head that was kept is not in the chain: it was made anew".to_owned();
            bad.push((what.clone(), DamageView { file: None, line: None, what }));
            Some(proof)
        }
        Some(Err(error)) => {
            bad.push(of_store(&error));
            None
        }
        other => other.and_then(Result::ok),
    };
    let code = if bad.is_empty() { FOUND } else { FAILED };
    let torn: Vec<PathBuf> = records.iter().filter(|r| r.torn).map(|r| r.path.clone()).collect();
    if args.json {
        let (sealed, head) = proof.map(|proof| (proof.records, proof.head.sha256)).unzip();
        let damaged = bad.into_iter().map(|(_, view)| view).collect();
        let verified = Verified { records: records.len(), torn, unborn, damaged, sealed, head };
        return Ok(Reply { text: serde_json::to_string(&verified)? + "\n", code });
    }
    let mut text: String = bad.iter().map(|(said, _)| format!("damaged  {said}\n")).collect();
    torn.iter()
        .for_each(|path| text.push_str(&format!("torn     {}: the last line is left out\n", path.display())));
    unborn.iter().for_each(|path| {
        text.push_str(&format!("unborn   {}: no complete event, nothing ran\n", path.display()))
    });
    let (good, torn, bad) = (records.len(), torn.len(), bad.len());
    text.push_str(&format!("{good} records good, {torn} of them with a torn last line, {bad} damaged\n"));
    if let Some(Proof { records, head, .. }) = proof {
        text.push_str(&format!("{records} records in the store are sealed; head {}\n", head.sha256));
    }
    Ok(Reply { text, code })
}

fn of_spool(damaged: Damaged) -> (String, DamageView) {
    let said = damaged.to_string();
    (said, DamageView { file: Some(damaged.path), line: damaged.line, what: damaged.what })
}

fn of_store(error: &StoreError) -> (String, DamageView) {
    let (file, line, what) = match error {
        StoreError::Broken(broken) => (Some(broken.file.clone()), Some(broken.line), broken.what.clone()),
        other => (None, None, other.to_string()),
    };
    (error.to_string(), DamageView { file, line, what })
}

/// Takes the spool's closed records into the store; what stays is named on standard error.
pub(super) fn take_over(places: &Places) -> Result<(StoreWriter, folding::Folded), Failure> {
    let spool = Spool::new(&places.spool);
    let mut store = StoreWriter::open(&places.store)?;
    let folded = folding::fold(&spool, &mut store, Moment::now().0)?;
    for damaged in &folded.damaged {
        let _ = writeln!(std::io::stderr(), "accounting: damaged: {}", log_line(&damaged.to_string()));
    }
    for path in &folded.conflicts {
        let _ = writeln!(
            std::io::stderr(),
            "accounting: {}: the store has another record of this id; it stays here",
            path.display()
        );
    }
    Ok((store, folded))
}

pub(super) fn fold(places: &Places, args: &FoldArgs) -> Result<Reply, Failure> {
    let (mut store, folded) = take_over(places)?;
    let reduced = store.reduce(&args.retention, Moment::now().0)?;
    let (new, known) = (folded.new, folded.known);
    let stay = folded.damaged.len() + folded.conflicts.len();
    let code = if stay == 0 { FOUND } else { FAILED };
    let text = match args.json {
        true => json!({ "new": new, "known": known, "damaged": folded.damaged.len(), "conflicts": folded.conflicts,
            "reduced_days": reduced })
            .to_string()
            + "\n",
        false => {
            let over = match reduced {
                0 => String::new(),
                n => format!("; {n} day files reduced to what is kept"),
            };
            format!("{new} records folded, {known} were known, {stay} stay in the spool{over}\n")
        }
    };
    Ok(Reply { text, code })
}
