//! A payload's output on its way to the queue.
//!
//! Each stream is first written to a file of the agent, so that a payload never waits for the network, and sent from
//! there with offsets: a chunk whose answer was lost is sent again to the same place.

use bytes::Bytes;
use pilot_client::{Client, ClientError, pause};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use uuid::Uuid;

/// Most bytes kept of one stream.
const LONGEST: u64 = 1 << 30;
/// Most bytes in one request.
const CHUNK: u64 = 512 << 10;
/// Pause between two requests, so that a chatty payload makes few large ones.
const BREATH: Duration = Duration::from_millis(100);
const CUT: &[u8] = b"\npilot: the log is cut here, it has reached 1 GiB\n";

/// How much of a stream has been written to the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    written: u64,
    end: bool,
}

/// One stream of one attempt.
#[derive(Debug, Clone)]
pub struct Spool {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    filling: AbortHandle,
}

impl Spool {
    /// Begins to read the pipe into the file.
    pub fn fill(file: File, pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let file = Arc::new(file);
        let to = Arc::clone(&file);
        let filling = tokio::spawn(async move {
            if let Err(e) = copy(pipe, &to, &sender).await {
                tracing::error!(error = %e, "cannot keep a payload's output");
            }
            sender.send_modify(|p| p.end = true);
        });
        Self { file, progress, filling: filling.abort_handle() }
    }

    /// Waits until the pipe is closed, but not longer than `limit`: a stray process may hold it for ever, and what it
    /// writes after that is not the payload's any more.
    pub async fn close(&self, limit: Duration) {
        let mut progress = self.progress.clone();
        tokio::time::timeout(limit, progress.wait_for(|p| p.end)).await.ok();
        self.filling.abort();
    }

    /// The last line written so far, for error messages.
    pub fn last_line(&self) -> String {
        let end = self.progress.borrow().written;
        let text = self.read(end.saturating_sub(2000), end).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
        line.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
    }

    fn read(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }

    /// Sends everything, in order, until the end of the stream; only the loss of the lease (the caller drops this)
    /// or a refusal that will not go away ends it earlier.
    pub async fn ship(mut self, client: Client, attempt: Uuid, lease: Uuid, stream: &'static str) {
        let (mut sent, mut failures) = (0, 0);
        loop {
            let Ok(progress) = self.progress.wait_for(|p| p.written > sent || p.end).await.map(|p| *p) else {
                return;
            };
            if progress.written <= sent {
                return;
            }
            let until = progress.written.min(sent + CHUNK);
            let bytes = match self.read(sent, until) {
                Ok(bytes) => Bytes::from(bytes),
                Err(e) => {
                    return tracing::error!(%attempt, stream, error = %e, "cannot read back a payload's output");
                }
            };
            match client.put_log(attempt, stream, lease, sent, bytes).await {
                Ok(()) => (sent, failures) = (until, 0),
                Err(e) => match next_offset(&e) {
                    Some(offset) if offset <= progress.written && offset != sent => sent = offset,
                    _ if e.is_transient() => {
                        failures += 1;
                        sleep(pause(failures, fastrand::f64())).await;
                    }
                    _ => {
                        return tracing::warn!(%attempt, stream, error = %e, "the queue takes no more of this log");
                    }
                },
            }
            if !progress.end {
                sleep(BREATH).await;
            }
        }
    }
}

/// Where the queue wants us to go on, when our offset was wrong.
fn next_offset(error: &ClientError) -> Option<u64> {
    match error {
        ClientError::Problem(problem) if problem.code == "wrong_offset" => problem.offset,
        _ => None,
    }
}

async fn copy(
    mut pipe: impl AsyncRead + Unpin,
    file: &File,
    progress: &watch::Sender<Progress>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut written = 0;
    loop {
        let length = pipe.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if written >= LONGEST {
            continue;
        }
        file.write_all_at(&buffer[..length], written)?;
        written += length as u64;
        if written >= LONGEST {
            file.write_all_at(CUT, written)?;
            written += CUT.len() as u64;
        }
        progress.send_modify(|p| p.written = written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_api::Problem;

    #[tokio::test]
    async fn the_last_line_is_found_and_made_harmless() {
        let text = b"first\nglexec: denied\x1b[31m\n\n".as_slice();
        let spool = Spool::fill(tempfile::tempfile().unwrap(), text);
        spool.close(Duration::from_secs(5)).await;
        assert_eq!(spool.last_line(), "glexec: denied [31m");
        assert_eq!(spool.read(0, 5).unwrap(), b"first");
    }

    #[tokio::test]
    async fn a_pipe_that_stays_open_does_not_keep_the_log_open() {
        let (mut stray, pipe) = tokio::io::duplex(64);
        let mut spool = Spool::fill(tempfile::tempfile().unwrap(), pipe);
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
