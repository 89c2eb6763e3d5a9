//! One event as one line of text.
//!
//! `{"seq":0,"written_unix_ns":N,"event":"open",...,"crc32c":"89abcdef"}`: the checksum always stands last and is
//! computed over the object as it is without that field, that is over the bytes before the comma and a `}`.

use crate::crc::crc32c;
use crate::event::Event;
use serde::{Deserialize, Serialize};
use std::fmt;

const KEY: &[u8] = b",\"crc32c\":\"";
const TAIL: usize = KEY.len() + 8 + 2;

/// A line that was read and whose checksum holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Position in the record, from 0.
    pub seq: u64,
    /// When it was written.
    pub written_unix_ns: u64,
    /// What it says; `None` for an event of a later version.
    pub event: Option<Event>,
}

/// Why a line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineFault {
    /// No checksum at its end: cut off, or not a line of a record.
    NoChecksum,
    /// The checksum belongs to other bytes.
    Checksum,
    /// The checksum holds, but the content makes no sense.
    Content(String),
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineFault::NoChecksum => f.write_str("has no crc32c at its end"),
            LineFault::Checksum => f.write_str("does not match its crc32c"),
            LineFault::Content(why) => write!(f, "is not an event: {why}"),
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    seq: u64,
    written_unix_ns: u64,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Deserialize)]
struct Header {
    seq: u64,
    #[serde(default)]
    written_unix_ns: u64,
    event: String,
}

/// The names of the events that this version knows, as they stand in the file.
const KNOWN: [&str; 7] = ["open", "exec", "usage", "close", "lost", "denied", "amend"];

/// The line with its newline.
pub fn encode(seq: u64, written_unix_ns: u64, event: &Event) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(&Written { seq, written_unix_ns, event })?;
    let sum = crc32c(&[&line]);
    line.pop();
    line.extend_from_slice(KEY);
    line.extend_from_slice(format!("{sum:08x}\"}}\n").as_bytes());
    Ok(line)
}

/// Reads a line without its newline.
pub fn decode(line: &[u8]) -> Result<Line, LineFault> {
    let (body, tail) = line.split_at_checked(line.len().wrapping_sub(TAIL)).ok_or(LineFault::NoChecksum)?;
    let sum = tail.strip_prefix(KEY).and_then(|t| t.strip_suffix(b"\"}")).ok_or(LineFault::NoChecksum)?;
    if sum != format!("{:08x}", crc32c(&[body, b"}"])).as_bytes() {
        return Err(LineFault::Checksum);
    }
    let content = |e: serde_json::Error| LineFault::Content(e.to_string());
    let header: Header = serde_json::from_slice(line).map_err(content)?;
    let event = match KNOWN.contains(&header.event.as_str()) {
        true => Some(serde_json::from_slice(line).map_err(content)?),
        false => None,
    };
    Ok(Line { seq: header.seq, written_unix_ns: header.written_unix_ns, event })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line with a right checksum around any content.
    fn signed(body: &str) -> String {
        let sum = crc32c(&[body.as_bytes(), b"}"]);
        format!("{body},\"crc32c\":\"{sum:08x}\"}}")
    }

    #[test]
    fn a_line_survives_the_round_trip_in_a_fixed_order() {
        let line = encode(3, 7, &Event::Exec { pid: 42 }).unwrap();
        let text = String::from_utf8(line.clone()).unwrap();
        assert!(
            text.starts_with(r#"{"seq":3,"written_unix_ns":7,"event":"exec","pid":42,"crc32c":""#),
            "{text}"
        );
        let read = decode(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!(read, Line { seq: 3, written_unix_ns: 7, event: Some(Event::Exec { pid: 42 }) });
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let line = encode(0, 0, &Event::Exec { pid: 42 }).unwrap();
        let line = line.strip_suffix(b"\n").unwrap();
        for position in 0..line.len() * 8 {
            let mut bad = line.to_vec();
            bad[position / 8] ^= 1 << (position % 8);
            assert!(decode(&bad).is_err(), "bit {position}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let line = encode(0, 0, &Event::Exec { pid: 42 }).unwrap();
        for end in 0..line.len() - 1 {
            assert_eq!(decode(&line[..end]), Err(LineFault::NoChecksum), "cut at {end}");
        }
    }

    #[test]
    fn later_versions_may_add_events_and_fields() {
        let moved = decode(signed(r#"{"seq":1,"event":"moved","what":[1]"#).as_bytes()).unwrap();
        assert_eq!(moved.event, None);
        let exec = decode(signed(r#"{"seq":1,"event":"exec","pid":5,"cpu_set":"0-3""#).as_bytes()).unwrap();
        assert_eq!(exec.event, Some(Event::Exec { pid: 5 }));
    }

    #[test]
    fn a_known_event_with_a_wrong_type_is_a_fault() {
        let fault = decode(signed(r#"{"seq":1,"event":"exec","pid":"five""#).as_bytes());
        assert!(matches!(fault, Err(LineFault::Content(_))), "{fault:?}");
    }
}
