//! `accounting forward`: sends this node's records to the site's server.

use super::keeping::take_over;
use super::{FAILED, FOUND, Failure, NOTHING, Places, Reply};
use crate::cli::ForwardArgs;
use accounting::export::ledger::Ledger;
use accounting::forward::{self, Forwarded, Way};
use accounting::http::Client;
use accounting::when::Moment;
use identity::shown::log_line;
use record::Spool;
use serde_json::json;
use std::io::Write as _;

pub(super) fn forward(places: &Places, args: &ForwardArgs) -> Result<Reply, Failure> {
    // Kept here first: what cannot be sent today waits in the store, and the spool stays small.
    let (mut store, folded) = take_over(places)?;
    let stay = folded.damaged.len() + folded.conflicts.len();
    let mut ledger = Ledger::open(&places.ledger()?).map_err(forward::ForwardError::from)?;
    let client = Client::new(&args.tls())?;
    let way = Way { client: &client, url: &args.to };
    let mut done = Forwarded::default();
    let sent = forward::forward(&way, store.store(), &mut ledger, &mut done, Moment::now().0)
        .and_then(|()| forward::tell_running(&way, &Spool::new(&places.spool), &mut done));
    // Only now: the site gets what there was.
    store.reduce(&args.retention, Moment::now().0)?;
    let told = |text: &str| {
        let _ = writeln!(std::io::stderr(), "accounting: {}", log_line(text));
    };
    done.refused.iter().for_each(|(id, why)| told(&format!("record {id}: the site refuses it: {why}")));
    if let Err(why) = &sent {
        told(&why.to_string());
    }
    let code = match (&sent, stay, done.refused.len()) {
        (Err(_), ..) | (Ok(()), 1.., _) => FAILED,
        (Ok(()), 0, 0) => FOUND,
        (Ok(()), 0, _) => NOTHING,
    };
    let (created, known, refused, running) = (done.created, done.known, done.refused.len(), done.running);
    let text = match args.json {
        true => json!({ "created": created, "known": known, "refused": refused, "running": running, "stay": stay })
            .to_string()
            + "\n",
        false => format!(
            "{created} records sent, {known} were known, {refused} refused there, {running} sessions run, {stay} files stay in the spool\n"
        ),
    };
    Ok(Reply { text, code })
}
