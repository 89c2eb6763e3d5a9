//! What `pilot run` and `pilot runner` say to each other over the runner's standard input, a UNIX stream socket.
//!
//! A frame is one byte (`j` for a JSON message, `d` for data), a length in four bytes, big-endian, and that many bytes.
//! Agent to runner: [`ToRunner::Start`], per input file a [`ToRunner::File`] and its data, [`ToRunner::Go`], and at any
//! time [`ToRunner::Stop`]. Runner to agent: [`ToAgent::Here`], [`ToAgent::Started`], [`ToAgent::Ended`], the tar of the output files as
//! data, [`ToAgent::Done`]. The end of the stream means that the other side is dead.

pub use pilot_api::names::{Patterns, possible, reserved, safe_name};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

/// Version of the messages; both sides come from the same file, so a difference means a damaged installation.
pub const VERSION: u32 = 1;
/// Longest frame accepted, in bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// Size of the data frames that we send, in bytes.
pub const CHUNK: usize = 128 << 10;

/// From the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "lowercase")]
pub enum ToRunner {
    /// The first message.
    Start(Box<Start>),
    /// An input file; data frames with `size` bytes in total follow.
    File {
        /// Name in the working directory.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Length in bytes.
        size: u64,
    },
    /// All input files are there: start the payload.
    Go,
    /// End the payload.
    Stop {
        /// Time between SIGTERM and SIGKILL in milliseconds.
        grace_ms: u64,
    },
}

/// What to run and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`].
    pub version: u32,
    /// The payload.
    pub payload: Uuid,
    /// The attempt; names the working directory.
    pub attempt: Uuid,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The user's additions to the environment.
    pub env: BTreeMap<String, String>,
    /// The pilot's additions; they win.
    pub site_env: BTreeMap<String, String>,
    /// Patterns of the output files.
    pub outputs: Vec<String>,
    /// Longest run in milliseconds.
    pub walltime_ms: Option<u64>,
    /// Most resident memory of the payload's processes together, in bytes.
    pub memory: Option<u64>,
    /// Time between SIGTERM and SIGKILL in milliseconds when a limit ends the payload or the agent dies.
    pub grace_ms: u64,
}

/// To the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "lowercase")]
pub enum ToAgent {
    /// The runner is there, before anything of the user's runs: its payload could stop it later.
    Here {
        /// Session id, when `glexec` made one.
        session: Option<String>,
    },
    /// The payload runs.
    Started(Started),
    /// The payload has ended and nothing of it is left.
    Ended(Ended),
    /// All output has been sent.
    Done,
}

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Local account.
    pub account: String,
    /// Its uid.
    pub uid: u32,
    /// Session id, when `glexec` made one.
    pub session: Option<String>,
    /// Process id of the payload.
    pub pid: u32,
    /// Its working directory.
    pub workdir: String,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit code, 128+n after signal n; `None` when nothing was started.
    pub exit_code: Option<i32>,
    /// What ended it.
    pub cause: Cause,
    /// One line, where there is more to say.
    pub reason: Option<String>,
    /// Elapsed time in milliseconds.
    pub wall_ms: u64,
    /// User and system CPU time of all its processes in milliseconds.
    pub cpu_ms: u64,
}

/// What ended a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// It ended by itself.
    Exited,
    /// It ran longer than it may.
    Walltime,
    /// It used more memory than it may.
    Memory,
    /// The agent asked for it, or is dead, or the session got a signal.
    Stopped,
    /// It was not started: the node is at fault.
    Setup,
}

/// One frame.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// A message in JSON.
    Json(Vec<u8>),
    /// Bytes.
    Data(Vec<u8>),
}

impl Frame {
    /// The message; fails for data and for messages of another version.
    pub fn message<T: DeserializeOwned>(&self) -> io::Result<T> {
        match self {
            Self::Json(text) => serde_json::from_slice(text).map_err(invalid),
            Self::Data(_) => Err(invalid("data where a message was due")),
        }
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        // The other side chose some of the words.
        identity::one_line(&format!(
            "pilot and its runner do not understand each other: {}",
            reason.to_string()
        )),
    )
}

/// Sends a message.
pub async fn send<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(invalid)?;
    frame(to, b'j', &text).await
}

/// Sends bytes, cut into frames.
pub async fn send_data(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(CHUNK) {
        frame(to, b'd', part).await?;
    }
    Ok(())
}

async fn frame(to: &mut (impl AsyncWrite + Unpin), kind: u8, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > MAX_FRAME {
        return Err(invalid(format!("a message of {} bytes is too long", bytes.len())));
    }
    let length = u32::try_from(bytes.len()).map_err(invalid)?.to_be_bytes();
    to.write_all(&[kind, length[0], length[1], length[2], length[3]]).await?;
    to.write_all(bytes).await?;
    to.flush().await
}

/// Receives a frame; `None` at the end of the stream. Not safe to cancel.
pub async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut head = [0; 5];
    if from.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..]).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_FRAME {
        return Err(invalid(format!("a frame of {length} bytes is too long")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    match head[0] {
        b'j' => Ok(Some(Frame::Json(bytes))),
        b'd' => Ok(Some(Frame::Data(bytes))),
        other => Err(invalid(format!("unknown frame {other:#x}"))),
    }
}

/// Where the agent has the payload's copy of the proxy put, by `glexec` or by itself.
pub fn proxy_copy(attempt: Uuid) -> PathBuf {
    PathBuf::from(format!("/tmp/pilotage-proxy-{attempt}.pem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives() {
        let mut wire = Vec::new();
        send(&mut wire, &ToRunner::Stop { grace_ms: 7 }).await.unwrap();
        send_data(&mut wire, &vec![3; CHUNK + 1]).await.unwrap();
        let mut from = wire.as_slice();
        let first = receive(&mut from).await.unwrap().unwrap();
        assert_eq!(first.message::<ToRunner>().unwrap(), ToRunner::Stop { grace_ms: 7 });
        assert_eq!(receive(&mut from).await.unwrap(), Some(Frame::Data(vec![3; CHUNK])));
        assert_eq!(receive(&mut from).await.unwrap(), Some(Frame::Data(vec![3])));
        assert_eq!(receive(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn long_cut_and_unknown_frames_are_errors() {
        for bad in [&[b'j', 0xff, 0, 0, 0][..], &[b'j', 0, 0, 0, 4, b'{'], &[b'x', 0, 0, 0, 0], &[b'j', 0]] {
            assert!(receive(&mut &*bad).await.is_err(), "{bad:?}");
        }
        assert!(Frame::Data(vec![]).message::<ToAgent>().is_err());
        assert!(Frame::Json(b"{\"say\":\"dance\"}".to_vec()).message::<ToAgent>().is_err());
    }
}
