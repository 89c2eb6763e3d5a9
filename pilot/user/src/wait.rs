//! `pilot wait`: waiting for payloads.

use super::say::{note, print_json};
use super::select::Selector;
use super::{Common, Result, hints};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pilot_api::{Payload, PayloadState};
use pilot_client::Client;
use std::io::IsTerminal;
use std::time::Duration;
use uuid::Uuid;

/// How long one question to the queue is held, in seconds.
const HOLD: u64 = 60;
/// How long a queue may be away while we wait.
const OUTAGE: Duration = Duration::from_secs(900);
/// Code of a payload that was cancelled: as if SIGTERM had ended it.
const KILLED: u8 = 143;

/// Options of `pilot wait`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Ids of payloads or arrays, their beginnings, or `last`
    #[arg(required = true, value_name = "ID")]
    ids: Vec<Selector>,
}

/// `pilot wait`: exits with the code of the first payload, in the order given, that did not end well.
pub async fn wait(args: Args) -> Result<u8> {
    let client = args.common.client()?;
    let mut ids = Vec::new();
    for selector in &args.ids {
        ids.extend(selector.ids(&client).await?);
    }
    await_all(&client, &ids, args.common.json).await
}

/// Waits until all are final; returns the exit code.
pub async fn await_all(client: &Client, ids: &[Uuid], json: bool) -> Result<u8> {
    let bar = bar(ids.len());
    let mut payloads = Vec::with_capacity(ids.len());
    for id in ids {
        let payload = loop {
            let payload = client.patiently(OUTAGE, || client.payload(*id, HOLD)).await?;
            bar.set_message(format!("{id} {}", payload.state));
            if payload.state.is_final() {
                break payload;
            }
        };
        bar.inc(1);
        payloads.push(payload);
    }
    bar.finish_and_clear();
    if json {
        print_json(&payloads)?;
    } else {
        payloads.iter().filter_map(complaint).for_each(|line| note(&line));
    }
    Ok(payloads.iter().map(exit_code).find(|code| *code != 0).unwrap_or(0))
}

fn bar(count: usize) -> ProgressBar {
    let hidden = !std::io::stderr().is_terminal();
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(count as u64), target);
    let style = ProgressStyle::with_template("{spinner} {pos}/{len} ended, {elapsed}: {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The payload's code as a shell would show it; 143 when it was cancelled, 1 when it failed without a code.
pub fn exit_code(payload: &Payload) -> u8 {
    let code = payload.attempts.last().and_then(|a| a.report.as_ref()).and_then(|r| r.exit_code);
    match payload.state {
        PayloadState::Done => 0,
        PayloadState::Killed => KILLED,
        _ => code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1),
    }
}

fn complaint(payload: &Payload) -> Option<String> {
    if payload.state == PayloadState::Done {
        return hints::missing_output(payload).map(|missing| format!("{} done, but {missing}", payload.id));
    }
    let reason = super::jobs::reason(payload).unwrap_or_else(|| format!("exit code {}", exit_code(payload)));
    let hint = hints::about_end(payload).map(|hint| format!("; {hint}")).unwrap_or_default();
    Some(format!("{} {}: {reason}{hint}", payload.id, payload.state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::payload;

    #[test]
    fn the_payloads_code_is_passed_on() {
        assert_eq!(exit_code(&payload(PayloadState::Done, Some(0))), 0);
        assert_eq!(exit_code(&payload(PayloadState::Failed, Some(7))), 7);
        assert_eq!(exit_code(&payload(PayloadState::Failed, Some(137))), 137);
        assert_eq!(exit_code(&payload(PayloadState::Killed, Some(0))), 143);
    }

    #[test]
    fn a_failure_is_never_a_success() {
        for code in [None, Some(0), Some(-1), Some(256)] {
            assert_eq!(exit_code(&payload(PayloadState::Failed, code)), 1, "{code:?}");
        }
    }

    #[test]
    fn only_a_bad_end_is_complained_about() {
        assert_eq!(complaint(&payload(PayloadState::Done, Some(0))), None);
        assert!(complaint(&payload(PayloadState::Failed, Some(7))).unwrap().contains("exit code 7"));
        let mut lost = payload(PayloadState::Done, Some(0));
        let summary = pilot_api::OutputSummary { left_out: 3, ..Default::default() };
        lost.attempts[0].report.as_mut().unwrap().output = Some(summary);
        assert!(complaint(&lost).unwrap().contains("done, but 3 output files"));
        assert_eq!(exit_code(&lost), 0);
    }
}
