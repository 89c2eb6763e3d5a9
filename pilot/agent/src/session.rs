//! A started runner: the conversation with it, its logs, its output files, and ways to end it.

use super::conversation::{Heard, hear_session, listen, talk};
use super::launch::{Started, starting};
use super::lease::ChildExit;
use super::spool::Spool;
use anyhow::{Context, Result};
use identity::one_line;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pilot_wire::api::OutputSummary;
use pilot_wire::{Frame, Start, ToAgent, VERSION};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// How long pipes and socket of an ended child may stay open.
const LINGER: Duration = Duration::from_secs(5);
/// Most bytes of output files in memory.
const IN_MEMORY: usize = 64 << 10;
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

/// The archive of the output files.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// In memory.
    Small(&'a [u8]),
    /// In a file.
    File(&'a Path),
}

/// What a session tells.
pub enum SessionNews {
    /// The runner says something.
    Message(ToAgent),
    /// The node failed the payload, or the runner said what cannot be.
    Failed(String),
    /// The child is gone and has said all.
    Over(ChildExit),
}

/// How `glexec` ends a session for the one who opened it: everything in it, and proven; no proxy is needed.
struct SessionEnder {
    glexec: PathBuf,
    session: Option<String>,
}

impl SessionEnder {
    fn end(&self) -> Option<std::io::Result<Child>> {
        let session = self.session.as_deref()?;
        let mut command = tokio::process::Command::new(&self.glexec);
        let _alone = starting();
        Some(command.args(["--session", session, "--end"]).env_clear().spawn())
    }
}

/// A started runner.
pub struct Session {
    child: Child,
    exited: Option<(ExitStatus, Instant)>,
    frames: Option<mpsc::Receiver<Heard>>,
    stops: Option<mpsc::UnboundedSender<Duration>>,
    forced: u32,
    ender: Option<SessionEnder>,
    logs: [Spool; 2],
    output: OutputFile,
}

impl Session {
    /// Begins the conversation. `dir` is private and takes the streams.
    pub fn begin(started: Started, start: Start, inputs: Vec<Input>, dir: &Path) -> Result<Self> {
        let Started { glexec, mut child, socket, session } = started;
        let ender = glexec.map(|glexec| SessionEnder { glexec, session: None });
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let stderr = child.stderr.take().context("the child has no standard error")?;
        let logs = [Spool::fill(dir.join("stdout"), stdout), Spool::fill(dir.join("stderr"), stderr)];
        let (from, to) = socket.into_split();
        let (sender, frames) = mpsc::channel(8);
        if let Some(pipe) = session {
            tokio::spawn(hear_session(pipe, sender.clone()));
        }
        tokio::spawn(listen(from, sender));
        let (stops, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // When the runner is gone there is nobody to talk to; its exit says the rest.
            talk(to, start, inputs, receiver).await.ok();
        });
        let output = OutputFile::new(dir.join("output.tar"));
        let (frames, stops) = (Some(frames), Some(stops));
        Ok(Self { child, exited: None, frames, stops, forced: 0, ender, logs, output })
    }

    /// Standard output and standard error.
    pub fn logs(&self) -> [Spool; 2] {
        self.logs.clone()
    }

    /// The archive of the output files, if there is one.
    pub fn output(&self) -> Option<Output<'_>> {
        let output = &self.output;
        match &output.file {
            _ if output.size == 0 || output.lost => None,
            Some(_) => Some(Output::File(&output.path)),
            None => Some(Output::Small(&output.memory)),
        }
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
            3 if self.ender.as_ref().and_then(SessionEnder::end).is_some_and(|ended| ended.is_ok()) => return,
            _ => Signal::SIGKILL,
        };
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    /// Waits for news. May be cancelled and called again.
    pub async fn next(&mut self) -> SessionNews {
        loop {
            let give_up = self.exited.map(|(_, when)| when + LINGER);
            if let (Some((status, _)), None) = (self.exited, &self.frames) {
                return SessionNews::Over(self.exit(status).await);
            }
            tokio::select! {
                heard = receive(&mut self.frames) => match heard {
                    Some(Heard::Frame(Frame::Data(bytes), _)) => {
                        if let Some(why) = self.output.keep(&bytes) {
                            return SessionNews::Failed(why);
                        }
                    }
                    Some(Heard::Frame(frame, uid)) => match self.judge(&frame, uid) {
                        Ok(None) => (),
                        Ok(Some(message)) => return SessionNews::Message(message),
                        Err(why) => return self.distrust(why),
                    },
                    Some(Heard::Session(id)) => if let Err(why) = self.note_session(Some(&id)) {
                        return self.distrust(why);
                    },
                    Some(Heard::Contradiction(why)) => return self.distrust(why),
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

    fn distrust(&mut self, why: String) -> SessionNews {
        self.frames = None;
        SessionNews::Failed(format!("the runner cannot be believed: {why}"))
    }

    /// Compares what a message says with what is known.
    fn judge(&mut self, frame: &Frame, writer: u32) -> Result<Option<ToAgent>, String> {
        match frame.message().map_err(|e| e.to_string())? {
            ToAgent::Here { version, .. } if version != VERSION => Err(format!(
                "it speaks version {version}, this pilot {VERSION}; the pilot was upgraded meanwhile"
            )),
            ToAgent::Here { session, .. } => {
                self.note_session(session.as_deref())?;
                Ok(None)
            }
            ToAgent::Started(started) if started.uid != writer => {
                Err(format!("it says that it runs as uid {}, the kernel says {writer}", started.uid))
            }
            ToAgent::Started(mut started) => {
                self.note_session(started.session.as_deref())?;
                started.account = one_line(&started.account);
                Ok(Some(ToAgent::Started(started)))
            }
            ToAgent::Packed(summary) => Ok(Some(ToAgent::Packed(cleaned(summary)))),
            message => Ok(Some(message)),
        }
    }

    /// A session has one id from its first message to its last.
    fn note_session(&mut self, said: Option<&str>) -> Result<(), String> {
        let Some(ender) = &mut self.ender else { return Ok(()) };
        let Some(said) = said else { return Ok(()) };
        if uuid::Uuid::parse_str(said).is_err() {
            return Err("it names a session that can be none".to_owned());
        }
        match &ender.session {
            Some(known) if known != said => Err(format!("its session is {known} and then {said}")),
            _ => {
                ender.session = Some(said.to_owned());
                Ok(())
            }
        }
    }

    async fn exit(&self, status: ExitStatus) -> ChildExit {
        tokio::join!(self.logs[0].close(LINGER), self.logs[1].close(LINGER));
        match status.signal() {
            Some(signal) => ChildExit::Signal(signal),
            None => ChildExit::Code(status.code().unwrap_or(1), self.logs[1].last_line()),
        }
    }
}

/// The payload chose names and patterns.
fn cleaned(summary: OutputSummary) -> OutputSummary {
    let clean = |texts: Vec<String>| texts.iter().take(100).map(|text| one_line(text)).collect();
    OutputSummary { unmatched: clean(summary.unmatched), notes: clean(summary.notes), ..summary }
}

/// The archive as it comes. The file is made when it outgrows the memory that it may take.
struct OutputFile {
    path: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
    size: u64,
    lost: bool,
}

impl OutputFile {
    fn new(path: PathBuf) -> Self {
        Self { path, memory: Vec::new(), file: None, size: 0, lost: false }
    }

    /// Appends; returns once why it cannot. What comes after that is read and dropped, so that the runner does not wait.
    fn keep(&mut self, bytes: &[u8]) -> Option<String> {
        if self.lost {
            return None;
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
        let kept = self.append(bytes);
        self.lost = kept.is_err();
        if self.lost {
            // The disk may be full of it.
            (self.file, self.memory) = (None, Vec::new());
            std::fs::remove_file(&self.path).ok();
        }
        kept.err().map(|e| format!("this node cannot keep the output files: {e}"))
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.size > LARGEST_OUTPUT {
            return Err(std::io::Error::other("they are larger than 16 GiB"));
        }
        let file = match self.file.take() {
            Some(file) => file,
            None if self.memory.len() + bytes.len() <= IN_MEMORY => {
                self.memory.extend_from_slice(bytes);
                return Ok(());
            }
            None => {
                let mut file = File::options().read(true).write(true).create_new(true).open(&self.path)?;
                file.write_all(&std::mem::take(&mut self.memory))?;
                file
            }
        };
        self.file.insert(file).write_all(bytes)
    }
}

async fn receive(frames: &mut Option<mpsc::Receiver<Heard>>) -> Option<Heard> {
    match frames {
        Some(frames) => frames.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_cannot_be_kept_is_said_once_and_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.tar");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut output = OutputFile { file: Some(full), ..OutputFile::new(path) };
        let why = output.keep(b"abc").unwrap();
        assert!(why.contains("No space left"), "{why}");
        assert_eq!(output.keep(b"def"), None);
    }

    #[test]
    fn a_small_archive_needs_no_file_and_a_large_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = OutputFile::new(dir.path().join("output.tar"));
        assert_eq!(output.keep(&[1; 1000]), None);
        assert!(output.file.is_none() && output.memory.len() == 1000 && !output.path.exists());
        for n in 2..=100 {
            assert_eq!(output.keep(&[n; 1000]), None);
        }
        let kept = std::fs::read(&output.path).unwrap();
        assert_eq!((kept.len(), kept[0], kept[99_999]), (100_000, 1, 100));
        assert!(output.memory.is_empty());
    }
}
