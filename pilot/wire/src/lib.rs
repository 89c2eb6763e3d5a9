//! What `pilot run` and `pilot-runner` say to each other over the runner's standard input, a UNIX stream socket.
//!
//! A frame is one byte (`j` for a JSON message, `d` for data), a length in four bytes, big-endian, and that many bytes.
//! Runner to agent: [`ToAgent::Here`], [`ToAgent::Started`], [`ToAgent::Ended`], the tar of the output files as data,
//! [`ToAgent::Packed`], [`ToAgent::Done`]. Agent to runner: [`ToRunner::Start`], per input file a [`ToRunner::File`] and its
//! data, [`ToRunner::Go`], and at any time [`ToRunner::Stop`]. The end of the stream means that the other side is dead.
//!
//! This crate turns bytes into messages and back; it opens nothing and waits for nothing. The runner calls it from a loop
//! around poll(2), the agent from its asynchronous runtime. The runner lives under the payload's account, so whatever the
//! agent reads here may have been written by a stranger.

pub mod signals;

pub use pilot_api as api;
use pilot_api::{LimitReached, OutputSummary, RawSpec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::io;
use uuid::Uuid;

/// Version of the messages. A pilot that outlives its own upgrade may meet a runner of another build: both sides say theirs.
pub const VERSION: u32 = 3;
/// Longest frame accepted, in bytes: the largest specification ([`pilot_api::MAX_SPEC`]) and what the pilot adds.
pub const MAX_FRAME: usize = 4 << 20;
/// Size of the data frames that we send, in bytes.
pub const CHUNK: usize = 128 << 10;
/// Bytes before the content of a frame: its kind and its length.
pub const HEAD: usize = 5;

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
    /// What the user wants; the runner judges it again with [`pilot_api::PayloadSpec::parse`].
    pub spec: RawSpec,
    /// The pilot's additions to the environment; they win.
    pub site_env: BTreeMap<String, String>,
    /// Directory for the working directory, when `glexec` makes none.
    pub scratch: Option<String>,
    /// A copy of the proxy that the runner removes at the end.
    pub proxy_copy: Option<String>,
    /// Time between SIGTERM and SIGKILL in milliseconds when a limit ends the payload or the agent dies.
    pub grace_ms: u64,
    /// When the batch slot ends, seconds since the epoch.
    pub slot_end: Option<u64>,
}

/// To the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "lowercase")]
pub enum ToAgent {
    /// The runner is there, before anything of the user's runs: its payload could stop it later.
    Here {
        /// [`VERSION`] of the runner.
        #[serde(default)]
        version: u32,
        /// Session id, when `glexec` made one.
        session: Option<String>,
    },
    /// The payload runs.
    Started(Started),
    /// The payload has ended and nothing of it is left.
    Ended(Ended),
    /// The archive of the output files is complete.
    Packed(OutputSummary),
    /// All has been said.
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
    pub cause: EndCause,
    /// One line, where there is more to say.
    pub reason: Option<String>,
    /// Elapsed time in milliseconds.
    pub wall_ms: u64,
    /// User and system CPU time of all its processes in milliseconds.
    pub cpu_ms: u64,
    /// The limit that ended it.
    pub limit: Option<LimitReached>,
}

/// What ended a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndCause {
    /// It ended by itself.
    Exited,
    /// It ran longer than it may.
    Walltime,
    /// It used more memory than it may.
    Memory,
    /// Its working directory holds more than it may.
    Disk,
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
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`], with a reason that is safe to log.
    pub fn message<T: DeserializeOwned>(&self) -> io::Result<T> {
        match self {
            Self::Json(text) => serde_json::from_slice(text).map_err(invalid),
            Self::Data(_) => Err(invalid("data where a message was due")),
        }
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    // The other side chose some of the words.
    let reason = identity::one_line(&reason.to_string());
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("pilot and its runner do not understand each other: {reason}"),
    )
}

/// The frame of a message.
///
/// # Errors
/// When it is longer than [`MAX_FRAME`].
pub fn message_frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message).map_err(invalid)?;
    let mut frame = head(b'j', text.len())?.to_vec();
    frame.extend_from_slice(&text);
    Ok(frame)
}

/// What stands before `length` bytes of data; at most [`CHUNK`] at once.
///
/// # Errors
/// When there are more than [`MAX_FRAME`].
pub fn data_head(length: usize) -> io::Result<[u8; HEAD]> {
    head(b'd', length)
}

fn head(kind: u8, length: usize) -> io::Result<[u8; HEAD]> {
    if length > MAX_FRAME {
        return Err(invalid(format!("a message of {length} bytes is too long")));
    }
    let length = u32::try_from(length).map_err(invalid)?.to_be_bytes();
    Ok([kind, length[0], length[1], length[2], length[3]])
}

/// Turns a stream of bytes, however it was cut, into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Takes more bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if all of it is there.
    ///
    /// # Errors
    /// For an unknown kind or a length above [`MAX_FRAME`], before the content is waited for. Nothing follows after that.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let rest = &self.buffer[self.taken..];
        let Some((head, rest)) = rest.split_at_checked(HEAD) else { return Ok(None) };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !matches!(head[0], b'j' | b'd') {
            return Err(invalid(format!("unknown frame {:#x}", head[0])));
        }
        if length > MAX_FRAME {
            return Err(invalid(format!("a frame of {length} bytes is too long")));
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        let frame =
            if head[0] == b'j' { Frame::Json(content.to_vec()) } else { Frame::Data(content.to_vec()) };
        self.taken += HEAD + length;
        Ok(Some(frame))
    }

    /// Whether the stream may end here: no part of a frame is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_however_it_is_cut() {
        let stop = ToRunner::Stop { grace_ms: 7 };
        let mut wire = message_frame(&stop).unwrap();
        wire.extend(data_head(3).unwrap());
        wire.extend(b"abc");
        for size in [1, 2, 7, 1000] {
            let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
            for part in wire.chunks(size) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert!(decoder.is_at_end());
            assert_eq!(frames[0].message::<ToRunner>().unwrap(), stop);
            assert_eq!(frames[1..], [Frame::Data(b"abc".to_vec())]);
        }
    }

    #[test]
    fn long_and_unknown_frames_are_errors_and_cut_ones_are_noticed() {
        for bad in [&[b'j', 0xff, 0, 0, 0][..], &[b'x', 0, 0, 0, 0]] {
            let mut decoder = Decoder::default();
            decoder.push(bad);
            assert!(decoder.next_frame().is_err(), "{bad:?}");
        }
        for cut in [&[b'j', 0, 0, 0, 4, b'{'][..], &[b'j', 0]] {
            let mut decoder = Decoder::default();
            decoder.push(cut);
            assert_eq!(decoder.next_frame().unwrap(), None);
            assert!(!decoder.is_at_end(), "{cut:?}");
        }
        assert!(Frame::Data(vec![]).message::<ToAgent>().is_err());
        assert!(Frame::Json(b"{\"say\":\"dance\"}".to_vec()).message::<ToAgent>().is_err());
        assert!(data_head(MAX_FRAME + 1).is_err());
    }
}
