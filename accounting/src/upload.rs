//! What a worker node sends to the site's server, and what it is told about each record.
//!
//! Records travel as the bytes of their events, so that the site seals what the node wrote.

use crate::filter::{host, same_host};
use record::Record;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Most records of one upload.
pub const MOST_RECORDS: usize = 5000;
/// Most bytes of one upload.
pub const MOST_BYTES: usize = 32 * 1024 * 1024;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// Its events, one JSON object a line, each line with its newline.
    pub lines: String,
}

/// Body of `POST /v1/sessions`: final records; of `POST /v1/running`: all that are open on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// The records.
    pub records: Vec<Item>,
}

/// What became of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is new, and on the site's disk.
    Created,
    /// The site has it already, byte by byte.
    Duplicate,
    /// The site has another record of this id.
    Conflict,
    /// It is no record that the site takes.
    Invalid,
}

/// The answer about one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemResult {
    /// Its id.
    pub id: String,
    /// What became of it.
    pub result: Outcome,
    /// Why it was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of the answer: one result for each record, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// The results.
    pub results: Vec<ItemResult>,
}

/// Whether a record is still growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has its final event.
    Final,
    /// It has none yet.
    Open,
}

/// Reads a record that a node sent. `of_host` is the only host whose records the sender may bring, where that is held.
///
/// # Errors
/// Says what is wrong with it, and where.
pub fn judge(item: &Item, stage: Stage, of_host: Option<&str>) -> Result<Record, String> {
    if !item.lines.ends_with('\n') {
        return Err("lines: the last one has no newline".to_owned());
    }
    let (path, bytes) = (Path::new("lines"), item.lines.as_bytes());
    let read = match stage {
        Stage::Final => Record::from_bytes(path, &item.id, bytes),
        Stage::Open => Record::from_bytes_so_far(path, &item.id, bytes),
    };
    let record = read.map_err(|damaged| damaged.to_string())?;
    match of_host {
        Some(sender) if !same_host(sender, host(&record)) => {
            Err(format!("it is of host {:?}, and {sender} sent it", host(&record)))
        }
        _ => Ok(record),
    }
}

/// The host that a certificate's subject names: its last CN, without the service before it (`host/wn1.example.org`).
pub fn host_of(subject: &str) -> Option<&str> {
    let (_, name) = subject.rsplit_once("/CN=")?;
    // Mail addresses of administrators follow the name in old certificates.
    let name = name.split("/emailAddress=").next().unwrap_or(name).split("/Email=").next().unwrap_or(name);
    let name = name.rsplit_once('/').map_or(name, |(_, host)| host);
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_name_hosts_in_old_and_new_ways() {
        for (subject, host) in [
            ("/DC=org/CN=wn1.example.org", Some("wn1.example.org")),
            ("/DC=org/CN=host/wn1.example.org", Some("wn1.example.org")),
            ("/DC=org/CN=host\\/wn1.example.org", Some("wn1.example.org")),
            ("/DC=org/CN=wn1.example.org/emailAddress=a@example.org", Some("wn1.example.org")),
            ("/DC=org/O=x", None),
            ("/DC=org/CN=", None),
        ] {
            assert_eq!(host_of(subject), host, "{subject}");
        }
    }

    #[test]
    fn a_record_without_its_newline_or_of_another_id_is_refused() {
        let item = |lines: &str| Item { id: "0190".into(), lines: lines.into() };
        for (lines, why) in
            [("{}", "newline"), ("{}\n", "line 1"), ("\n", "line 1"), ("{\"record\":\"x\"}\n", "line 1")]
        {
            let told = judge(&item(lines), Stage::Final, None).unwrap_err();
            assert!(told.contains(why) || told.contains("lines:1"), "{lines:?}: {told}");
        }
    }
}
