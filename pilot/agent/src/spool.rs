//! A payload's output on its way to the queue.
//!
//! Each stream is kept by the agent, so that a payload never waits for the network, and sent from there with offsets: a
//! chunk whose answer was lost is sent again to the same place. Short streams stay in memory; a file is made for what
//! outgrows it. The rest of a short one travels with the result. Where the file cannot be written the pipe is read on, so that the payload does not die of it, and the log
//! ends with a mark.

use bytes::Bytes;
use pilot_client::{Client, ClientError, Pauses};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Most bytes of one stream in memory.
const IN_MEMORY: usize = 64 << 10;
/// Most bytes kept of one stream.
const LONGEST: u64 = 1 << 30;
/// Most bytes in one request.
const CHUNK: u64 = 512 << 10;
/// Pause between two requests while the payload writes all the time, so that a chatty one makes few large ones.
const BREATH: Duration = Duration::from_millis(100);
/// How long the first words wait for the end of the stream: what a short payload says goes with its result.
const FIRST_WORDS: Duration = Duration::from_millis(30);
const TOO_LONG: &str = "it has reached 1 GiB";

/// How much of a stream can be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    written: u64,
    end: bool,
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shipped {
    /// The queue has it, or nobody wants it any more.
    All,
    /// This is left for the result: where it begins, and the bytes.
    Rest(u64, Vec<u8>),
    /// The queue will not have all of it, for this reason.
    Missing(String),
}

/// One stream of one attempt.
#[derive(Debug, Clone)]
pub struct Spool {
    kept: Arc<Mutex<Kept>>,
    progress: watch::Receiver<Progress>,
    filling: AbortHandle,
}

impl Spool {
    /// Begins to read the pipe. `path` is made when the stream outgrows the memory that it may take.
    pub fn fill(path: PathBuf, pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let kept = Arc::new(Mutex::new(Kept::new(path)));
        let to = Arc::clone(&kept);
        let filling = tokio::spawn(async move {
            if let Err(e) = copy(pipe, &to, &sender).await {
                tracing::error!(error = %e, "cannot read a payload's output");
            }
            sender.send_modify(|p| p.end = true);
        });
        Self { kept, progress, filling: filling.abort_handle() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // What it holds is consistent after every single operation.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the pipe is closed, but not longer than `limit`: a stray process may hold it for ever, and what it
    /// writes after that is not the payload's any more.
    pub async fn close(&self, limit: Duration) {
        let mut progress = self.progress.clone();
        timeout(limit, progress.wait_for(|p| p.end)).await.ok();
        self.filling.abort();
    }

    /// Why the node could not keep all of it, if it could not.
    pub fn failure(&self) -> Option<String> {
        self.kept().failure.clone()
    }

    /// The last line written so far, for error messages.
    pub fn last_line(&self) -> String {
        let end = self.progress.borrow().written;
        let text = self.kept().read(end.saturating_sub(2000), end).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
        line.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
    }

    /// Sends everything, in order, until at most `rest` bytes are left at the end of the stream; only the loss of the lease
    /// (the caller drops this) or the queue's word that it will never take it ends it earlier.
    pub async fn ship(
        mut self,
        client: Client,
        (attempt, lease): (Uuid, Uuid),
        stream: &'static str,
        rest: u64,
    ) -> Shipped {
        let (mut sent, mut pauses) = (0, Pauses::default());
        loop {
            if self.progress.wait_for(|p| p.written > sent || p.end).await.is_err() {
                return Shipped::All;
            }
            if sent == 0 && rest > 0 {
                timeout(FIRST_WORDS, self.progress.wait_for(|p| p.end)).await.ok();
            }
            let progress = *self.progress.borrow();
            if progress.written <= sent {
                return Shipped::All;
            }
            if progress.end && progress.written - sent <= rest {
                return self.rest(sent, progress.written, attempt, stream);
            }
            let until = progress.written.min(sent + CHUNK);
            let read = self.kept().read(sent, until);
            let bytes = match read {
                Ok(bytes) => Bytes::from(bytes),
                Err(e) => {
                    return unreadable(attempt, stream, &e);
                }
            };
            match client.put_log(attempt, stream, lease, sent, bytes).await {
                Ok(()) => (sent, pauses) = (until, Pauses::default()),
                Err(e) => match next_offset(&e) {
                    Some(offset) if offset <= progress.written && offset != sent => sent = offset,
                    _ if e.is_final() => {
                        tracing::warn!(%attempt, stream, error = %e, "the queue takes no more of this log");
                        let why = format!("the queue took {sent} bytes of {stream} and no more: {e}");
                        return Shipped::Missing(why);
                    }
                    _ => sleep(pauses.after_failure()).await,
                },
            }
            if !progress.end && self.progress.borrow().written > until {
                // It has written on meanwhile. Sooner, when the stream ends: the result waits for its last words.
                timeout(BREATH, self.progress.wait_for(|p| p.end)).await.ok();
            }
        }
    }

    fn rest(&self, from: u64, to: u64, attempt: Uuid, stream: &'static str) -> Shipped {
        match self.kept().read(from, to) {
            Ok(bytes) => Shipped::Rest(from, bytes),
            Err(e) => unreadable(attempt, stream, &e),
        }
    }
}

fn unreadable(attempt: Uuid, stream: &'static str, error: &io::Error) -> Shipped {
    tracing::error!(%attempt, stream, %error, "cannot read back a payload's output");
    Shipped::Missing(format!("{stream} could not be read back on the node: {error}"))
}

/// Where the queue wants us to go on, when our offset was wrong.
fn next_offset(error: &ClientError) -> Option<u64> {
    match error {
        ClientError::Problem(problem) if problem.code == "wrong_offset" => problem.offset,
        _ => None,
    }
}

/// What has been written of a stream: in memory, or in a file, and at last a mark where it was cut.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
    length: u64,
    mark: Vec<u8>,
    failure: Option<String>,
}

impl Kept {
    fn new(path: PathBuf) -> Self {
        Self { path, memory: Vec::new(), file: None, length: 0, mark: Vec::new(), failure: None }
    }

    /// Appends, as long as nothing was cut; returns how much can be read back.
    fn append(&mut self, bytes: &[u8]) -> u64 {
        if self.mark.is_empty() {
            if self.length >= LONGEST {
                self.cut(TOO_LONG);
            } else if let Err(e) = self.try_append(bytes) {
                self.cut(&format!("this node could not keep more of it: {e}"));
                self.failure = Some(format!("this node cannot keep the payload's output: {e}"));
            }
        }
        self.length + self.mark.len() as u64
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.memory.len() + bytes.len() > IN_MEMORY {
            let file = new_file(&self.path)?;
            file.write_all_at(&self.memory, 0)?;
            self.file = Some(file);
            self.memory = Vec::new();
        }
        match &self.file {
            Some(file) => file.write_all_at(bytes, self.length)?,
            None => self.memory.extend_from_slice(bytes),
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn cut(&mut self, why: &str) {
        self.mark = format!("\npilot: the log is cut here, {why}\n").into_bytes();
    }

    fn read(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to.min(self.length).saturating_sub(from)).unwrap_or(0)];
        match &self.file {
            Some(file) => file.read_exact_at(&mut bytes, from)?,
            None => {
                let from = usize::try_from(from.min(self.length)).unwrap_or(0);
                let to = from + bytes.len();
                bytes.copy_from_slice(&self.memory[from..to]);
            }
        }
        let mark =
            |at: u64| usize::try_from(at.saturating_sub(self.length)).unwrap_or(0).min(self.mark.len());
        bytes.extend_from_slice(&self.mark[mark(from)..mark(to)]);
        Ok(bytes)
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).open(path)
}

async fn copy(
    mut pipe: impl AsyncRead + Unpin,
    kept: &Mutex<Kept>,
    progress: &watch::Sender<Progress>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = pipe.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let written = kept.lock().unwrap_or_else(PoisonError::into_inner).append(&buffer[..length]);
        progress.send_modify(|p| p.written = written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_api::Problem;

    #[tokio::test]
    async fn the_last_line_is_found_and_made_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"first\nglexec: denied\x1b[31m\n\n".as_slice();
        let spool = Spool::fill(dir.path().join("log"), text);
        spool.close(Duration::from_secs(5)).await;
        assert_eq!(spool.last_line(), "glexec: denied [31m");
        assert_eq!(spool.kept().read(0, 5).unwrap(), b"first");
        assert!(!dir.path().join("log").exists(), "a short log needs no file");
    }

    #[tokio::test]
    async fn a_long_stream_goes_to_a_file_and_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let spool = Spool::fill(dir.path().join("log"), io::Cursor::new(text.clone()));
        spool.close(Duration::from_secs(20)).await;
        assert!(spool.kept().read(0, 300_000).unwrap() == text);
        assert!(spool.kept().read(70_000, 70_010).unwrap() == text[70_000..70_010]);
        assert!(dir.path().join("log").exists());
    }

    #[tokio::test]
    async fn a_full_disk_cuts_the_log_with_a_mark_and_the_pipe_is_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let text = vec![b'x'; 200_000];
        let (mut payload, pipe) = tokio::io::duplex(64);
        let path = dir.path().join("log");
        std::fs::create_dir(&path).unwrap();
        let spool = Spool::fill(path, pipe);
        tokio::io::AsyncWriteExt::write_all(&mut payload, &text).await.unwrap();
        drop(payload);
        spool.close(Duration::from_secs(20)).await;
        let end = spool.progress.borrow().written;
        let kept = String::from_utf8(spool.kept().read(0, end).unwrap()).unwrap();
        let (content, mark) = kept.split_once('\n').unwrap();
        assert!(content.len() <= IN_MEMORY && content.bytes().all(|c| c == b'x'));
        assert!(mark.contains("the log is cut here"), "{mark}");
        assert!(spool.last_line().contains("cut here"));
        assert!(spool.failure().is_some());
    }

    #[tokio::test]
    async fn a_pipe_that_stays_open_does_not_keep_the_log_open() {
        let dir = tempfile::tempdir().unwrap();
        let (mut stray, pipe) = tokio::io::duplex(64);
        let mut spool = Spool::fill(dir.path().join("log"), pipe);
        tokio::io::AsyncWriteExt::write_all(&mut stray, b"said").await.unwrap();
        spool.progress.wait_for(|p| p.written == 4).await.unwrap();
        spool.close(Duration::from_millis(10)).await;
        // What `ship` waits for next: there will be nothing more.
        let more = spool.progress.wait_for(|p| p.written > 4 || p.end);
        let more = tokio::time::timeout(Duration::from_secs(5), more).await.expect("waits for ever");
        assert!(more.is_err());
    }

    #[test]
    fn only_a_wrong_offset_moves_the_place() {
        let problem = |code: &str| {
            let offset = Some(7);
            ClientError::from(Problem {
                status: 409,
                code: code.into(),
                title: "t".into(),
                retryable: false,
                offset,
            })
        };
        assert_eq!(next_offset(&problem("wrong_offset")), Some(7));
        assert_eq!(next_offset(&problem("lease_superseded")), None);
    }
}
