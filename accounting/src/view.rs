//! A record as JSON. Every time and duration has its unit in the name of its field.

use crate::filter::{Decision, decision};
use record::line::Line;
use record::time::rfc3339;
use record::{Denied, Event, Exit, Opened, Record, State, Usage};
use serde::Serialize;

/// What `--json` shows of a record; order and names are stable, more may be added.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    state: State,
    decision: Decision,
    start_utc: String,
    end_utc: Option<String>,
    end_unix_ns: Option<u64>,
    #[serde(flatten)]
    opened: Option<&'a Opened>,
    #[serde(flatten)]
    denied: Option<&'a Denied>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<&'a Exit>,
    clock_stepped: bool,
    estimated: bool,
    torn: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<EventView<'a>>>,
}

/// One event of a record.
#[derive(Debug, Serialize)]
struct EventView<'a> {
    seq: u64,
    written_utc: String,
    written_unix_ns: u64,
    #[serde(flatten)]
    event: Option<&'a Event>,
}

impl<'a> View<'a> {
    /// The view of a record, without its single events.
    pub fn new(record: &'a Record) -> Self {
        Self {
            state: record.state,
            decision: decision(record),
            start_utc: rfc3339(record.start_unix_ns()),
            end_utc: record.end_unix_ns.map(rfc3339),
            end_unix_ns: record.end_unix_ns,
            opened: record.opened.as_deref(),
            denied: record.denied.as_deref(),
            pid: record.pid,
            usage: record.usage.as_ref(),
            exit: record.exit.as_ref(),
            clock_stepped: record.clock_stepped,
            estimated: record.estimated,
            torn: record.torn,
            events: None,
        }
    }

    /// The same with its events; those of a later version have no content here.
    #[must_use]
    pub fn with_events(mut self, lines: &'a [Line]) -> Self {
        let view = |line: &'a Line| EventView {
            seq: line.seq,
            written_utc: rfc3339(line.written_unix_ns),
            written_unix_ns: line.written_unix_ns,
            event: line.event.as_ref(),
        };
        self.events = Some(lines.iter().map(view).collect());
        self
    }
}

/// The answer to a question: the question, how many records there are, and the records.
#[derive(Debug, Serialize)]
pub struct Answer<'a, Q: Serialize> {
    query: &'a Q,
    count: usize,
    records: Vec<View<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl<'a, Q: Serialize> Answer<'a, Q> {
    /// Puts question and records together.
    pub fn new(query: &'a Q, records: Vec<View<'a>>) -> Self {
        Self { query, count: records.len(), records, next: None }
    }

    /// The same as one page, with the cursor of the next one.
    #[must_use]
    pub fn with_next(self, next: Option<String>) -> Self {
        Self { next, ..self }
    }

    /// The answer on one line, with its newline.
    ///
    /// # Errors
    /// Only when the question cannot be serialised.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|text| text + "\n")
    }
}
