//! A started runner: the conversation with it, its logs, its output files, and ways to end it.

use super::launch::Started;
use super::lease::Exit;
use super::spool::Spool;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pilot_wire::{CHUNK, Frame, Start, ToAgent, ToRunner};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// How long pipes and socket of an ended child may stay open.
const LINGER: Duration = Duration::from_secs(5);
/// Most bytes of output files.
const LARGEST_OUTPUT: u64 = 16 << 30;

/// An input file for the runner.
pub struct Input {
    /// Name in the working directory.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// Length in bytes.
    pub size: u64,
    /// Where its content is.
    pub content: PathBuf,
}

/// What a session tells.
pub enum News {
    /// The runner says something.
    Message(ToAgent),
    /// The child is gone and has said all.
    Over(Exit),
}

/// How `glexec` ends a session for the one who opened it: everything in it, and proven; no proxy is needed.
struct Ender {
    glexec: PathBuf,
    session: Option<String>,
}

impl Ender {
    fn end(&self) -> Option<std::io::Result<Child>> {
        let session = self.session.as_deref()?;
        let mut command = tokio::process::Command::new(&self.glexec);
        Some(command.args(["--session", session, "--end"]).env_clear().spawn())
    }
}

/// A started runner.
pub struct Session {
    child: Child,
    exited: Option<(ExitStatus, Instant)>,
    frames: Option<mpsc::Receiver<Frame>>,
    stops: Option<mpsc::UnboundedSender<Duration>>,
    forced: u32,
    ender: Option<Ender>,
    logs: [Spool; 2],
    output: File,
    output_size: u64,
}

impl Session {
    /// Begins the conversation. `dir` is private and takes the streams.
    pub fn begin(started: Started, start: Start, inputs: Vec<Input>, dir: &Path) -> Result<Self> {
        let Started { glexec, mut child, socket } = started;
        let ender = glexec.map(|glexec| Ender { glexec, session: None });
        let new = |name: &str| {
            let file = File::options().read(true).write(true).create_new(true).open(dir.join(name));
            file.with_context(|| format!("cannot make {} in {}", name, dir.display()))
        };
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let stderr = child.stderr.take().context("the child has no standard error")?;
        let logs = [Spool::fill(new("stdout")?, stdout), Spool::fill(new("stderr")?, stderr)];
        let (from, to) = socket.into_split();
        let (sender, frames) = mpsc::channel(8);
        tokio::spawn(listen(from, sender));
        let (stops, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // When the runner is gone there is nobody to talk to; its exit says the rest.
            talk(to, start, inputs, receiver).await.ok();
        });
        let output = new("output.tar")?;
        let (frames, stops) = (Some(frames), Some(stops));
        Ok(Self { child, exited: None, frames, stops, forced: 0, ender, logs, output, output_size: 0 })
    }

    /// Standard output and standard error.
    pub fn logs(&self) -> [Spool; 2] {
        self.logs.clone()
    }

    /// Size of the output tar in bytes.
    pub fn output_size(&self) -> u64 {
        self.output_size
    }

    /// Asks the runner to end the payload.
    pub fn stop(&self, grace: Duration) {
        if let Some(stops) = &self.stops {
            stops.send(grace).ok();
        }
    }

    /// Ends a runner that does not answer: by hanging up, by a signal, by its session, and at last by force.
    pub fn force(&mut self) {
        self.forced += 1;
        self.stops = None;
        let signal = match self.forced {
            1 => return,
            2 => Signal::SIGTERM,
            // A supervisor that is killed cannot close its record, so the session is ended properly first.
            3 if self.ender.as_ref().and_then(Ender::end).is_some_and(|ended| ended.is_ok()) => return,
            _ => Signal::SIGKILL,
        };
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    /// Waits for news. May be cancelled and called again.
    pub async fn next(&mut self) -> News {
        loop {
            let give_up = self.exited.map(|(_, when)| when + LINGER);
            if let (Some((status, _)), None) = (self.exited, &self.frames) {
                return News::Over(self.exit(status).await);
            }
            tokio::select! {
                frame = receive(&mut self.frames) => match frame {
                    Some(Frame::Data(bytes)) => self.keep(&bytes),
                    Some(frame) => match frame.message() {
                        Ok(ToAgent::Here { session }) => self.note_session(session),
                        Ok(message) => return News::Message(message),
                        Err(e) => { tracing::error!(error = %e, "bad message from a runner"); self.frames = None; }
                    },
                    None => self.frames = None,
                },
                status = self.child.wait(), if self.exited.is_none() => {
                    let status = status.unwrap_or_else(|_| ExitStatus::from_raw(1 << 8));
                    self.exited = Some((status, Instant::now()));
                }
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => self.frames = None,
            }
        }
    }

    fn note_session(&mut self, session: Option<String>) {
        if let Some(ender) = &mut self.ender {
            ender.session = session;
        }
    }

    async fn exit(&self, status: ExitStatus) -> Exit {
        tokio::join!(self.logs[0].close(LINGER), self.logs[1].close(LINGER));
        match status.signal() {
            Some(signal) => Exit::Signal(signal),
            None => Exit::Code(status.code().unwrap_or(1), self.logs[1].last_line()),
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.output_size += bytes.len() as u64;
        let kept = if self.output_size > LARGEST_OUTPUT {
            Err(std::io::Error::other("the output files are larger than 16 GiB"))
        } else {
            self.output.write_all(bytes)
        };
        if let Err(e) = kept {
            tracing::error!(error = %e, "cannot keep a payload's output files");
            self.frames = None;
        }
    }
}

async fn receive(frames: &mut Option<mpsc::Receiver<Frame>>) -> Option<Frame> {
    match frames {
        Some(frames) => frames.recv().await,
        None => std::future::pending().await,
    }
}

async fn listen(mut from: OwnedReadHalf, to: mpsc::Sender<Frame>) {
    loop {
        match pilot_wire::receive(&mut from).await {
            Ok(Some(frame)) => {
                if to.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            // It ended without reading all that was sent: its exit code says why.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            Err(e) => return tracing::warn!(error = %e, "lost a runner"),
        }
    }
}

/// Sends the start and the input files, then every stop. Returning hangs up, which ends the payload.
async fn talk(
    mut to: OwnedWriteHalf,
    start: Start,
    inputs: Vec<Input>,
    mut stops: mpsc::UnboundedReceiver<Duration>,
) -> Result<()> {
    tokio::select! {
        sent = send_all(&mut to, start, inputs) => sent?,
        // Nothing has been started yet, so hanging up is the quickest stop.
        _ = stops.recv() => return Ok(()),
    }
    while let Some(grace) = stops.recv().await {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        pilot_wire::send(&mut to, &ToRunner::Stop { grace_ms }).await?;
    }
    Ok(())
}

async fn send_all(to: &mut OwnedWriteHalf, start: Start, inputs: Vec<Input>) -> Result<()> {
    pilot_wire::send(to, &ToRunner::Start(Box::new(start))).await?;
    for input in inputs {
        pilot_wire::send(to, &ToRunner::File { path: input.name, mode: input.mode, size: input.size })
            .await?;
        let mut content = tokio::fs::File::open(&input.content).await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = content.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            pilot_wire::send_data(to, &buffer[..length]).await?;
        }
    }
    pilot_wire::send(to, &ToRunner::Go).await?;
    Ok(())
}
