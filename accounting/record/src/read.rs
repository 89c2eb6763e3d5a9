//! Reading records back: tolerant of what a crash leaves, strict about everything else.

use crate::event::{Denied, Event, Exit, Opened, Usage};
use crate::line::{self, Line, LineFault};
use crate::place;
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes: a checkpoint every ten minutes for ten years has less.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Open: it runs, or the sweep has not looked yet.
    Running,
    /// Its supervisor saw the end.
    Closed,
    /// Nobody saw the end.
    Lost,
    /// It was refused.
    Denied,
}

/// One session or refusal: all events folded, the last one wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Id, equal to the file's name.
    pub id: String,
    /// How far it has come.
    pub state: State,
    /// The file.
    pub path: PathBuf,
    /// What was known before the payload ran; `None` for a refusal.
    pub opened: Option<Box<Opened>>,
    /// The refusal; `None` for a session.
    pub denied: Option<Box<Denied>>,
    /// Process id of the payload, once it was started.
    pub pid: Option<u32>,
    /// The last checkpoint or the final usage.
    pub usage: Option<Usage>,
    /// End by the wall clock.
    pub end_unix_ns: Option<u64>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Whether the wall clock jumped during the session.
    pub clock_stepped: bool,
    /// Whether end and usage are estimates.
    pub estimated: bool,
    /// Whether the last line was cut off and left out.
    pub torn: bool,
    /// How often it was corrected after its end, and why the last time.
    pub amended: Option<(u32, String)>,
}

/// A file that is not a record, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// The first bad line, from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    kind: ErrorKind,
}

impl Damaged {
    pub(crate) fn file(path: &Path, kind: ErrorKind, what: String) -> Self {
        Self { path: path.to_owned(), line: None, what, kind }
    }

    fn at(path: &Path, line: usize, what: String) -> Self {
        Self { path: path.to_owned(), line: Some(line), what, kind: ErrorKind::InvalidData }
    }

    /// `NotFound` or the like when the file could not be read, `InvalidData` when its content is bad,
    /// `UnexpectedEof` when it has no complete line yet: its writer is at work, or died before the session began.
    pub fn error_kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.what),
            None => write!(f, "{}: {}", self.path.display(), self.what),
        }
    }
}

impl std::error::Error for Damaged {}

/// The good lines of a file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) lines: Vec<Line>,
    pub(crate) torn: bool,
    pub(crate) intact_bytes: u64,
    pub(crate) ends_with_newline: bool,
}

/// Reads and checks a whole file.
pub(crate) fn file(path: &Path) -> Result<Found, Damaged> {
    parse(path, &bytes(path)?)
}

/// Reads and checks a whole file that is open already.
pub(crate) fn from(path: &Path, file: &File) -> Result<Found, Damaged> {
    parse(path, &all(path, file)?)
}

/// The bytes of a whole file, unchecked.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, Damaged> {
    let file = place::open_to_read(path).map_err(|e| Damaged::file(path, e.kind(), e.to_string()))?;
    all(path, &file)
}

fn all(path: &Path, file: &File) -> Result<Vec<u8>, Damaged> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|e| Damaged::file(path, e.kind(), e.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Damaged::file(path, ErrorKind::InvalidData, format!("is longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// Checks the bytes of a file.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Found, Damaged> {
    let mut found = Found { lines: Vec::new(), torn: false, intact_bytes: 0, ends_with_newline: true };
    for (index, piece) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let whole = piece.strip_suffix(b"\n");
        match line::decode(whole.unwrap_or(piece)) {
            Ok(line) if line.seq == index as u64 => found.lines.push(line),
            Ok(line) => {
                return Err(Damaged::at(path, index + 1, format!("seq is {}, not {index}", line.seq)));
            }
            // Only the last piece can be without its newline: a crash or a full disk cut it.
            Err(_) if whole.is_none() => {
                found.torn = true;
                return Ok(found);
            }
            Err(fault) => return Err(Damaged::at(path, index + 1, fault_text(&fault))),
        }
        found.intact_bytes += piece.len() as u64;
        found.ends_with_newline = whole.is_some();
    }
    Ok(found)
}

fn fault_text(fault: &LineFault) -> String {
    format!("line {fault}")
}

impl Found {
    /// A file is moved to `closed/` only after its final event was synced, so there nothing may be missing.
    pub(crate) fn must_be_final(self, path: &Path) -> Result<Self, Damaged> {
        let lines = self.lines.len();
        if self.torn {
            let what = "the last line is cut off, and a closed record must be whole".to_owned();
            return Err(Damaged::at(path, lines + 1, what));
        }
        if lines == 0 {
            let what = "is empty, and a closed record must have its final event".to_owned();
            return Err(Damaged::file(path, ErrorKind::InvalidData, what));
        }
        // What a later version calls final is not known here, and is no damage.
        let is_final = |line: &Line| line.event.as_ref().is_none_or(Event::is_final);
        if self.lines.iter().any(is_final) {
            return Ok(self);
        }
        let what = "the final event is missing: the record was cut after this line".to_owned();
        Err(Damaged::at(path, lines, what))
    }
}

impl Record {
    pub(crate) fn fold(path: &Path, id: &str, found: Found) -> Result<Self, Damaged> {
        if found.lines.is_empty() {
            let what = "no complete event: nothing ran under this record".to_owned();
            return Err(Damaged::file(path, ErrorKind::UnexpectedEof, what));
        }
        let mut record = Record {
            id: id.to_owned(),
            state: State::Running,
            path: path.to_owned(),
            opened: None,
            denied: None,
            pid: None,
            usage: None,
            end_unix_ns: None,
            exit: None,
            clock_stepped: false,
            estimated: false,
            torn: found.torn,
            amended: None,
        };
        found.lines.into_iter().filter_map(|line| line.event).for_each(|event| record.apply(event));
        let opened = record.opened.as_ref().map(|o| o.record_id.as_str());
        let bad = match opened.or(record.denied.as_ref().map(|d| d.record_id.as_str())) {
            Some(name) if name == id => return Ok(record),
            Some(name) => format!("record_id {name:?} is not the file's name"),
            None => "neither an open nor a denied event".to_owned(),
        };
        Err(Damaged::at(path, 1, bad))
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Open(opened) => self.opened = Some(opened),
            Event::Exec { pid } => self.pid = Some(pid),
            Event::Usage { usage } => self.usage = Some(usage),
            Event::Close { end_unix_ns, usage, exit, clock_stepped } => {
                self.state = if exit.lost.is_some() { State::Lost } else { State::Closed };
                self.end_unix_ns = Some(end_unix_ns);
                self.usage = Some(*usage);
                self.exit = Some(*exit);
                self.clock_stepped = clock_stepped;
            }
            Event::Lost { end_unix_ns, usage, cause, estimated, leftovers } => {
                self.state = State::Lost;
                self.end_unix_ns = Some(end_unix_ns);
                self.usage = usage.map(|u| *u).or(self.usage.take());
                self.exit = Some(Exit { lost: Some(cause), leftovers, ..Exit::default() });
                self.estimated = estimated;
            }
            Event::Denied(denied) => {
                self.state = State::Denied;
                self.end_unix_ns = Some(denied.at_unix_ns);
                self.denied = Some(denied);
            }
            Event::Amend { why, usage, exit } => {
                let before = self.amended.take().map_or(0, |(times, _)| times);
                self.amended = Some((before + 1, why));
                self.usage = usage.map(|u| *u).or(self.usage.take());
                self.exit = exit.map(|e| *e).or(self.exit.take());
            }
        }
    }

    /// Reads the bytes of a final record, wherever they were kept; `path` names that place in what is told of damage.
    ///
    /// # Errors
    /// [`Damaged`] for what is no whole record of this id.
    pub fn from_bytes(path: &Path, id: &str, bytes: &[u8]) -> Result<Self, Damaged> {
        parse(path, bytes)
            .and_then(|found| found.must_be_final(path))
            .and_then(|found| Self::fold(path, id, found))
    }

    /// Reads the bytes of a record that may still grow: what they say so far.
    ///
    /// # Errors
    /// [`Damaged`] for what is no record of this id.
    pub fn from_bytes_so_far(path: &Path, id: &str, bytes: &[u8]) -> Result<Self, Damaged> {
        parse(path, bytes).and_then(|found| Self::fold(path, id, found))
    }

    /// Start of the session by the wall clock, or the moment of the refusal.
    pub fn start_unix_ns(&self) -> u64 {
        let opened = self.opened.as_ref().map(|o| o.start_unix_ns);
        opened.or(self.denied.as_ref().map(|d| d.at_unix_ns)).unwrap_or_default()
    }
}
