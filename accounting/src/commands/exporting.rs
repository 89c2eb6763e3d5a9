//! `accounting export`: converts records for other accounting systems, checks them, and sends each once.

use super::{FAILED, FOUND, Failure, NOTHING, Places, Reply, tell_damage};
use crate::cli::ExportArgs;
use accounting::export::ledger::Ledger;
use accounting::export::pseudonym::Key;
use accounting::export::send::{self, Destination, Sent};
use accounting::export::{self, Exported, Format, Refused, Site, facts};
use accounting::http::Client;
use accounting::rows;
use accounting::source::Contents;
use accounting::view::{Answer, View};
use accounting::when::Moment;
use identity::shown::log_line;
use record::Record;
use std::io::Write as _;

pub(super) fn export(places: &Places, args: &ExportArgs) -> Result<Reply, Failure> {
    let Contents { mut records, damaged, .. } = places.source()?.select(&args.query())?;
    // As accounting counts: what ended in that time.
    let (since, until) = args.times();
    let ended = |end: u64| since.is_none_or(|t| end >= t.0) && until.is_none_or(|t| end < t.0);
    records.retain(|record| record.end_unix_ns.is_some_and(ended));
    let damage = tell_damage(&damaged, records.len());
    if let Some(file) = &args.pseudonym {
        let key = Key::load(file).map_err(Failure::Key)?;
        records = records.iter().map(|record| key.hide(record)).collect();
    }
    if let Some(text) = rows_of(args.format, &records)? {
        return Ok(Reply { text, code: damage });
    }
    let site = site(args);
    let name = args.to.name(args.format);
    let mut ledger = None;
    if !args.check && args.to != Destination::Stdout {
        let mut open = Ledger::open(&places.ledger()?).map_err(send::SendError::from)?;
        if let Destination::Dirq(queue) = &args.to {
            send::settle_queue(&mut open, &name, queue, Moment::now().0)?;
        }
        if let Destination::File(file) = &args.to {
            send::settle_file(&mut open, &name, file, Moment::now().0)?;
        }
        let due: Result<Vec<bool>, _> = records.iter().map(|record| open.is_due(&name, &record.id)).collect();
        let mut due = due.map_err(send::SendError::from)?.into_iter();
        records.retain(|_| due.next().unwrap_or(true));
        ledger = Some(open);
    }
    let exported = export::export(args.format, &records, &site);
    exported.refused.iter().for_each(|refused: &Refused| {
        let _ = writeln!(std::io::stderr(), "accounting: {}", log_line(&refused.to_string()));
    });
    if args.check {
        return Ok(checked(&exported, damage));
    }
    let Some(mut ledger) = ledger else { return Ok(printed(&exported, damage)) };
    let sent = deliver(args, &name, &mut ledger, &exported)?;
    Ok(told(&sent, exported.refused.len(), damage))
}

fn rows_of(format: Format, records: &[Record]) -> Result<Option<String>, Failure> {
    Ok(match format {
        Format::Csv => Some(rows::csv(records)),
        Format::Jsonl => Some(rows::jsonl(records)?),
        Format::Json => {
            let query = serde_json::json!({});
            Some(Answer::new(&query, records.iter().map(View::new).collect()).to_json()?)
        }
        _ => None,
    })
}

fn site(args: &ExportArgs) -> Site {
    Site {
        name: args.site.clone(),
        ce: args.ce_of_site.clone(),
        benchmark: args.benchmark.as_deref().and_then(facts::benchmark),
        vo: args.vo_of_others.clone(),
        zone: Some(jiff::tz::TimeZone::system()),
    }
}

fn checked(exported: &Exported, damage: u8) -> Reply {
    let good: usize = exported.pieces.iter().map(|piece| piece.ids.len()).sum();
    let text = format!("{good} records can be sent, {} cannot\n", exported.refused.len());
    let code = if exported.refused.is_empty() { damage } else { NOTHING.max(damage) };
    Reply { text, code }
}

fn printed(exported: &Exported, damage: u8) -> Reply {
    let text = exported.pieces.iter().map(|piece| piece.text.trim_end().to_owned() + "\n").collect();
    let code = if exported.refused.is_empty() { damage } else { NOTHING.max(damage) };
    Reply { text, code }
}

fn deliver(args: &ExportArgs, name: &str, ledger: &mut Ledger, exported: &Exported) -> Result<Sent, Failure> {
    let now = Moment::now().0;
    let pieces = &exported.pieces;
    Ok(match &args.to {
        Destination::Dirq(queue) => send::to_queue(ledger, name, queue, pieces, now)?,
        Destination::File(file) => send::to_file(ledger, name, file, pieces, now)?,
        Destination::Url(url) => {
            let client = Client::new(&args.tls.tls())?;
            send::to_server(ledger, &client, (args.format, url, name), pieces, now)?
        }
        Destination::Stdout => Sent::default(),
    })
}

fn told(sent: &Sent, refused: usize, damage: u8) -> Reply {
    for (id, why) in &sent.rejected {
        let _ = writeln!(
            std::io::stderr(),
            "accounting: record {id}: the destination refuses it: {}",
            log_line(why)
        );
    }
    if let Some((_, why)) = sent.pending.first() {
        let _ = writeln!(
            std::io::stderr(),
            "accounting: {} records wait for the next time: {}",
            sent.pending.len(),
            log_line(why)
        );
    }
    let (acked, rejected, pending) = (sent.acked, sent.rejected.len(), sent.pending.len());
    let text =
        format!("{acked} records sent, {refused} not sendable, {rejected} refused there, {pending} wait\n");
    // Nothing due is no failure: a timer runs this again and again.
    let code = match (damage == FAILED || pending > 0, refused + rejected) {
        (true, _) => FAILED,
        (false, 0) => FOUND,
        (false, _) => NOTHING,
    };
    Reply { text, code }
}
