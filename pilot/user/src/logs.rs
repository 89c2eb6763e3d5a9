//! `pilot logs`: what a payload wrote, also while it still runs.

use super::say::note;
use super::select::Selector;
use super::{Common, Failure, RETRY, Result};
use identity::shown;
use pilot_client::{Client, LogPart};
use std::io::{ErrorKind, IsTerminal, Write};
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
    /// Send control characters to the terminal as they are; into a pipe or a file they always go so
    #[arg(long)]
    raw: bool,
    /// Id of a payload or array, its beginning, or `last`
    id: Selector,
}

/// Carries the command out: the payload's standard output goes to ours, its standard error to ours; those of an array one
/// element after the other.
pub async fn run(args: Args) -> Result<u8> {
    let client = args.common.client()?;
    for id in args.id.ids(&client).await? {
        show(&args, &client, id).await?;
    }
    Ok(0)
}

async fn show(args: &Args, client: &Client, id: Uuid) -> Result<()> {
    if let Some(number) = args.attempt {
        let payload = client.patiently(RETRY, || client.payload(id, 0)).await?;
        if !payload.attempts.iter().any(|a| a.number == number) {
            let known = payload.attempts.iter().map(|a| a.number.to_string()).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none yet".to_owned() } else { known };
            return Err(Failure::no(format!("{id} has no attempt {number}; its attempts: {known}")));
        }
    }
    let wanted = |name: &str| args.stream.as_deref().is_none_or(|only| only == name);
    let read = |name: &'static str| Reader {
        client,
        id,
        stream: name,
        attempt: args.attempt,
        offset: 0,
        shown: (!args.raw && is_terminal(name)).then(Readable::default),
    };
    let stdout = async {
        if wanted("stdout") { read("stdout").copy(args.follow, args.attempt).await } else { Ok(()) }
    };
    let stderr = async {
        if wanted("stderr") { read("stderr").copy(args.follow, args.attempt).await } else { Ok(()) }
    };
    tokio::try_join!(stdout, stderr)?;
    Ok(())
}

/// A place in one stream of one payload.
struct Reader<'a> {
    client: &'a Client,
    id: Uuid,
    stream: &'static str,
    attempt: Option<u32>,
    offset: u64,
    /// Makes the text safe where people read it.
    shown: Option<Readable>,
}

fn is_terminal(stream: &str) -> bool {
    match stream {
        "stderr" => std::io::stderr().is_terminal(),
        _ => std::io::stdout().is_terminal(),
    }
}

/// Turns what a payload wrote into text that cannot steer a terminal, chunk by chunk.
#[derive(Debug, Default)]
struct Readable {
    /// The beginning of a character, or a carriage return: what follows decides.
    pending: Vec<u8>,
}

impl Readable {
    fn read(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, after) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = e.error_len() else { break };
                    text.extend(after[..bad].iter().map(|byte| format!("\\x{byte:02x}")));
                    rest = &after[bad..];
                }
            }
        }
        let held = text.ends_with('\r').then_some(b'\r');
        self.pending = held.into_iter().chain(rest.iter().copied()).collect();
        shown::terminal_text(text.strip_suffix('\r').unwrap_or(&text)).into_owned()
    }
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
                    note(&format!("attempt {} of {} begins", newest.unwrap_or(0), self.id));
                }
                return Ok(true);
            }
            if payload.state.is_final() {
                return Ok(false);
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let text = self.shown.as_mut().map(|shown| shown.read(bytes).into_bytes());
        let bytes = text.as_deref().unwrap_or(bytes);
        let written = match self.stream {
            "stderr" => std::io::stderr().write_all(bytes),
            _ => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        };
        written.map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => Failure::unread(),
            _ => Failure::no(format!("cannot write the log: {e}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_cannot_steer_the_terminal_wherever_it_is_cut() {
        let log = "plain\tJürgen\r\n\u{1b}[31mred\u{202e}\u{9b}2J\rover";
        let whole = Readable::default().read(log.as_bytes());
        assert_eq!(whole, "plain\tJürgen\n\\u{1b}[31mred\\u{202e}\\u{9b}2J\\rover");
        for cut in 0..log.len() {
            let mut readable = Readable::default();
            let (first, second) = log.as_bytes().split_at(cut);
            assert_eq!(readable.read(first) + &readable.read(second), whole, "cut at {cut}");
        }
        assert_eq!(Readable::default().read(b"a\xff\xfeb"), "a\\xff\\xfeb");
    }
}
