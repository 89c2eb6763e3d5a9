//! Bringing pieces to their destination, once each: the ledger is asked before and told after.

use super::ledger::{Ledger, State};
use super::{Format, Piece, dirq};
use crate::http::{Answer, Client, NoAnswer};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Where exports go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output, as often as asked for.
    Stdout,
    /// A message queue of SSM.
    Dirq(PathBuf),
    /// A file that grows.
    File(PathBuf),
    /// A server.
    Url(String),
}

impl Destination {
    /// `-`, `dirq:DIR`, `file:FILE` or a URL.
    ///
    /// # Errors
    /// Says what can be written.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(dir) = text.strip_prefix("dirq:").filter(|dir| dir.starts_with('/')) {
            return Ok(Self::Dirq(dir.into()));
        }
        if let Some(file) = text.strip_prefix("file:").filter(|file| file.starts_with('/')) {
            return Ok(Self::File(file.into()));
        }
        match text {
            "-" => Ok(Self::Stdout),
            url if url.starts_with("https://") || url.starts_with("http://") => Ok(Self::Url(url.to_owned())),
            _ => {
                Err("write -, dirq:/absolute/directory, file:/absolute/file, or the URL of a server"
                    .to_owned())
            }
        }
    }

    /// How the ledger names it.
    pub fn name(&self, format: Format) -> String {
        let place = match self {
            Self::Stdout => "-".to_owned(),
            Self::Dirq(dir) => format!("dirq:{}", dir.display()),
            Self::File(file) => format!("file:{}", file.display()),
            Self::Url(url) => url.trim_end_matches('/').to_owned(),
        };
        format!("{format:?} {place}").to_lowercase()
    }
}

/// Why sending ended early.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The ledger cannot be used.
    #[error("ledger: {0}")]
    Ledger(#[from] rusqlite::Error),
    /// The queue cannot be written.
    #[error("{0}")]
    Queue(#[from] std::io::Error),
    /// The file cannot be written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
}

/// What became of the records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Records that the destination has now.
    pub acked: usize,
    /// Records that it refused for good, with its reason.
    pub rejected: Vec<(String, String)>,
    /// Records that will be tried again, with the reason.
    pub pending: Vec<(String, String)>,
}

/// Puts messages into a queue. The name of each is on record before it is written: whoever goes on after a crash finishes the
/// same message, and makes no second one.
///
/// # Errors
/// What ledger and queue say; what was put before stays.
pub fn to_queue(
    ledger: &mut Ledger,
    dest: &str,
    queue: &std::path::Path,
    pieces: &[Piece],
    now_unix_ns: u64,
) -> Result<Sent, SendError> {
    let mut sent = Sent::default();
    for (salt, piece) in pieces.iter().enumerate() {
        let moment = now_unix_ns + salt as u64 * 1000;
        let name = dirq::name(moment, salt as u64);
        ledger.note(dest, &piece.ids, State::Sending, Some(&name), None, now_unix_ns)?;
        dirq::put(queue, &name, &piece.text)?;
        ledger.note(dest, &piece.ids, State::Acked, None, None, now_unix_ns)?;
        sent.acked += piece.ids.len();
    }
    Ok(sent)
}

/// Finishes messages of a run that was ended in the middle: one that stands in the queue is there; one that does not was
/// never written, or was taken by the sender already. Writing it again is safe, since APEL replaces a job of the same id and end.
///
/// # Errors
/// What the ledger says.
pub fn settle_queue(
    ledger: &mut Ledger,
    dest: &str,
    queue: &std::path::Path,
    now_unix_ns: u64,
) -> Result<(), SendError> {
    for (name, ids) in ledger.sending(dest)? {
        let state = if dirq::holds(queue, &name) { State::Acked } else { State::Pending };
        ledger.note(dest, &ids, state, None, None, now_unix_ns)?;
    }
    Ok(())
}

/// Appends pieces to a file that nobody else writes. Where each begins is on record before it is written.
///
/// # Errors
/// What ledger and file say; what was written before stays.
pub fn to_file(
    ledger: &mut Ledger,
    dest: &str,
    path: &std::path::Path,
    pieces: &[Piece],
    now_unix_ns: u64,
) -> Result<Sent, SendError> {
    let failed = |why| SendError::File { path: path.to_owned(), why };
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).map_err(failed)?;
    let mut sent = Sent::default();
    for piece in pieces {
        let from = file.metadata().map_err(failed)?.len().to_string();
        ledger.note(dest, &piece.ids, State::Sending, Some(&from), None, now_unix_ns)?;
        file.write_all(piece.text.as_bytes()).and_then(|()| file.sync_data()).map_err(failed)?;
        ledger.note(dest, &piece.ids, State::Acked, None, None, now_unix_ns)?;
        sent.acked += piece.ids.len();
    }
    Ok(sent)
}

/// Takes back what a run that was ended in the middle has written, whole or not: it is written again.
///
/// # Errors
/// What ledger and file say.
pub fn settle_file(
    ledger: &mut Ledger,
    dest: &str,
    path: &std::path::Path,
    now_unix_ns: u64,
) -> Result<(), SendError> {
    for (from, ids) in ledger.sending(dest)? {
        let from: u64 = from.parse().unwrap_or(u64::MAX);
        let is_longer = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > from);
        if is_longer {
            let cut = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
            let cut = cut.and_then(|file| file.set_len(from).and_then(|()| file.sync_all()));
            cut.map_err(|why| SendError::File { path: path.to_owned(), why })?;
        }
        ledger.note(dest, &ids, State::Pending, None, None, now_unix_ns)?;
    }
    Ok(())
}

/// What a server's answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Acked,
    Rejected(String),
    /// Of this piece only; others may go through.
    Later(String),
    /// The server itself does not work: no use to go on.
    Down(String),
}

/// Posts pieces to a server, each for itself: one that is refused keeps no other back.
///
/// # Errors
/// What the ledger says.
pub fn to_server(
    ledger: &mut Ledger,
    client: &Client,
    (format, url, dest): (Format, &str, &str),
    pieces: &[Piece],
    now_unix_ns: u64,
) -> Result<Sent, SendError> {
    let mut sent = Sent::default();
    let mut down: Option<String> = None;
    for piece in pieces {
        let verdict = match &down {
            Some(why) => Verdict::Down(why.clone()),
            None => post(client, format, url, piece),
        };
        let mut note =
            |state, why: Option<&str>| ledger.note(dest, &piece.ids, state, None, why, now_unix_ns);
        match verdict {
            Verdict::Acked => {
                note(State::Acked, None)?;
                sent.acked += piece.ids.len();
            }
            Verdict::Rejected(why) => {
                note(State::Rejected, Some(&why))?;
                sent.rejected.extend(piece.ids.iter().map(|id| (id.clone(), why.clone())));
            }
            Verdict::Later(why) => {
                note(State::Pending, Some(&why))?;
                sent.pending.extend(piece.ids.iter().map(|id| (id.clone(), why.clone())));
            }
            Verdict::Down(why) => {
                note(State::Pending, Some(&why))?;
                sent.pending.extend(piece.ids.iter().map(|id| (id.clone(), why.clone())));
                down = Some(why);
            }
        }
    }
    Ok(sent)
}

fn post(client: &Client, format: Format, url: &str, piece: &Piece) -> Verdict {
    let url = url.trim_end_matches('/');
    match format {
        Format::Gratia => {
            let form = gratia_form(piece);
            let url = format!("{url}/gratia-servlets/rmi");
            gratia_verdict(client.post(&url, "application/x-www-form-urlencoded", &form))
        }
        _ => auditor_verdict(client.post(&format!("{url}/record"), "application/json", &piece.text)),
    }
}

/// AUDITOR says that it has a record already with a 500.
fn auditor_verdict(answer: Result<Answer, NoAnswer>) -> Verdict {
    match answer {
        Err(why) => Verdict::Down(why.to_string()),
        Ok(answer) => {
            let said = || format!("HTTP {}: {}", answer.status, first_line(&answer.body));
            match answer.status {
                200..=299 => Verdict::Acked,
                _ if answer.body.contains("RECORD_EXISTS") => Verdict::Acked,
                400 | 413 | 422 => Verdict::Rejected(said()),
                401 | 403 | 404 | 429 | 502 | 503 => Verdict::Down(said()),
                _ => Verdict::Later(said()),
            }
        }
    }
}

/// A collector answers OK, whatever the status.
fn gratia_verdict(answer: Result<Answer, NoAnswer>) -> Verdict {
    match answer {
        Err(why) => Verdict::Down(why.to_string()),
        Ok(answer) if answer.status == 200 && answer.body.trim() == "OK" => Verdict::Acked,
        Ok(answer) => Verdict::Down(format!("HTTP {}: {}", answer.status, first_line(&answer.body))),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

fn gratia_form(piece: &Piece) -> String {
    let probe =
        piece.text.split("<ProbeName>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or("glexec");
    let body = piece.text.lines().skip(1).collect::<Vec<_>>().join("\n");
    let fields = [
        ("command", "multiupdate"),
        ("arg1", body.as_str()),
        ("from", probe),
        ("xmlfiles", "0"),
        ("tarfiles", "0"),
        ("maxpendingfiles", "0"),
        ("backlog", "0"),
        ("bundlesize", &piece.ids.len().to_string()),
    ];
    fields.map(|(key, value)| format!("{key}={}", percent(value))).join("&")
}

fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Answer, NoAnswer> {
        Ok(Answer { status, body: body.to_owned() })
    }

    #[test]
    fn answers_of_auditor_are_understood() {
        assert_eq!(auditor_verdict(answer(200, "")), Verdict::Acked);
        assert_eq!(auditor_verdict(answer(500, "RECORD_EXISTS")), Verdict::Acked, "it has it already");
        assert!(matches!(auditor_verdict(answer(400, "bad")), Verdict::Rejected(_)));
        assert!(matches!(auditor_verdict(answer(500, "pool timed out")), Verdict::Later(_)));
        assert!(matches!(auditor_verdict(answer(503, "")), Verdict::Down(_)));
    }

    #[test]
    fn a_collector_takes_what_it_says_ok_to() {
        assert_eq!(gratia_verdict(answer(200, "OK\n")), Verdict::Acked);
        assert!(matches!(gratia_verdict(answer(200, "Error: quarantined")), Verdict::Down(_)));
        assert!(matches!(gratia_verdict(answer(503, "OK")), Verdict::Down(_)));
    }

    #[test]
    fn destinations_are_named_plainly() {
        assert_eq!(
            Destination::parse("dirq:/var/spool/apel/outgoing"),
            Ok(Destination::Dirq("/var/spool/apel/outgoing".into()))
        );
        assert!(["dirq:relative", "", "file", "ssm:x"].iter().all(|bad| Destination::parse(bad).is_err()));
    }
}
