//! `pilot logs`: what a payload wrote, also while it still runs.

use super::{Common, Failure, RETRY, Result};
use pilot_client::{Client, LogPart};
use std::io::Write;
use std::time::Duration;
use uuid::Uuid;

/// How long the queue holds a question for more, in seconds.
const HOLD: u64 = 30;
/// How long a queue may be away while we follow.
const OUTAGE: Duration = Duration::from_secs(900);
/// Pause while the payload waits for its next attempt.
const BETWEEN: Duration = Duration::from_secs(1);

/// Options of `pilot logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Go on until the payload has ended
    #[arg(short, long)]
    follow: bool,
    /// Only this stream
    #[arg(long, value_parser = ["stdout", "stderr"])]
    stream: Option<String>,
    /// The log of this attempt instead of the newest
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Payload id
    id: Uuid,
}

/// Carries the command out: the payload's standard output goes to ours, its standard error to ours.
pub async fn run(args: Args) -> Result<u8> {
    let client = args.common.client()?;
    let wanted = |name: &str| args.stream.as_deref().is_none_or(|only| only == name);
    let read = |name: &'static str| Reader {
        client: &client,
        id: args.id,
        stream: name,
        attempt: args.attempt,
        offset: 0,
    };
    let stdout = async {
        if wanted("stdout") { read("stdout").copy(args.follow, args.attempt).await } else { Ok(()) }
    };
    let stderr = async {
        if wanted("stderr") { read("stderr").copy(args.follow, args.attempt).await } else { Ok(()) }
    };
    tokio::try_join!(stdout, stderr)?;
    Ok(0)
}

/// A place in one stream of one payload.
struct Reader<'a> {
    client: &'a Client,
    id: Uuid,
    stream: &'static str,
    attempt: Option<u32>,
    offset: u64,
}

impl Reader<'_> {
    async fn copy(mut self, follow: bool, only: Option<u32>) -> Result<()> {
        loop {
            let part = self.next(if follow { HOLD } else { 0 }).await?;
            if part.end && follow {
                if only.is_some() || !self.next_attempt().await? {
                    return Ok(());
                }
            } else if part.end || (part.bytes.is_empty() && !follow) {
                return Ok(());
            }
        }
    }

    async fn next(&mut self, wait: u64) -> Result<LogPart> {
        let patience = if wait > 0 { OUTAGE } else { RETRY };
        let ask = || self.client.log(self.id, self.stream, self.offset, wait, self.attempt);
        let part = self.client.patiently(patience, ask).await?;
        // Staying with one attempt keeps the offset meaningful when the payload is tried again.
        self.attempt = self.attempt.or(part.attempt);
        self.offset += part.bytes.len() as u64;
        self.write(&part.bytes)?;
        Ok(part)
    }

    /// Moves to the payload's next attempt; false when there will be none.
    async fn next_attempt(&mut self) -> Result<bool> {
        loop {
            let payload = self.client.patiently(OUTAGE, || self.client.payload(self.id, 0)).await?;
            let newest = payload.attempts.last().map(|a| a.number);
            if newest > self.attempt {
                (self.attempt, self.offset) = (newest, 0);
                if self.stream == "stderr" {
                    eprintln!("pilot: attempt {} of {} begins", newest.unwrap_or(0), self.id);
                }
                return Ok(true);
            }
            if payload.state.is_final() {
                return Ok(false);
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let written = match self.stream {
            "stderr" => std::io::stderr().write_all(bytes),
            _ => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        };
        written.map_err(|e| Failure::no(format!("cannot write the log: {e}")))
    }
}
