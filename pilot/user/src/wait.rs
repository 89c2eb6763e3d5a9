//! `pilot wait`, `cancel`, `hold`, `release`: waiting for payloads and steering them.

use super::text::clean;
use super::{Common, Failure, RETRY, Result, print_json, submit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pilot_api::{Payload, PayloadState, Release};
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

/// Payload ids.
#[derive(Debug, clap::Args)]
pub struct Ids {
    #[command(flatten)]
    common: Common,
    /// Payload ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<Uuid>,
}

/// `pilot wait`: exits with the code of the first payload, in the order given, that did not end well.
pub async fn wait(args: Ids) -> Result<u8> {
    await_all(&args.common.client()?, &args.ids, args.common.json).await
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
        payloads.iter().filter_map(complaint).for_each(|line| eprintln!("{line}"));
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
        return None;
    }
    let reason = super::jobs::reason(payload).unwrap_or_else(|| format!("exit code {}", exit_code(payload)));
    Some(format!("pilot: {} {}: {}", payload.id, payload.state, clean(&reason)))
}

/// `pilot cancel`.
pub async fn cancel(args: Ids) -> Result<u8> {
    steer(&args, "cancel").await
}

/// `pilot hold`.
pub async fn hold(args: Ids) -> Result<u8> {
    steer(&args, "hold").await
}

/// Goes on after a refusal, so that one finished payload does not save the others.
async fn steer(args: &Ids, word: &str) -> Result<u8> {
    let client = args.common.client()?;
    let mut payloads = Vec::new();
    let mut worst = 0;
    for id in &args.ids {
        match client.patiently(RETRY, || client.wish(*id, word)).await {
            Ok(payload) => payloads.push(payload),
            Err(e) if e.status().is_some() => {
                eprintln!("pilot: {id}: {e}");
                worst = 1;
            }
            Err(e) => return Err(e.into()),
        }
    }
    if args.common.json {
        print_json(&payloads)?;
    }
    Ok(worst)
}

/// Options of `pilot release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    ids: Ids,
    /// Keep the proxy that the queue has instead of delegating a new one
    #[arg(long)]
    keep_proxy: bool,
}

/// `pilot release`: held payloads wait again, by default with a fresh proxy, since an old one is what most are held for.
pub async fn release(args: ReleaseArgs) -> Result<u8> {
    let client = args.ids.common.client()?;
    let proxy = args.ids.common.connection.settings()?.proxy;
    let mut payloads = Vec::new();
    for id in &args.ids.ids {
        let delegation = if args.keep_proxy { None } else { Some(submit::delegate(&client, &proxy).await?) };
        payloads.push(client.release(*id, &Release { delegation }).await.map_err(|e| Failure::about(id, e))?);
    }
    if args.ids.common.json {
        print_json(&payloads)?;
    }
    Ok(0)
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
    }
}
