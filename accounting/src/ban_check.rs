//! Which ban lines would hit whom, by what ran lately; and which hit nobody: a misspelt ban is the worst kind.
//!
//! Lines are read by the same code as in `glexec`.

use crate::filter;
use identity::{Dn, Fqan};
use policy::mapfile::bans::BanFile;
use record::Record;
use record::time::rfc3339;
use serde::Serialize;
use std::collections::BTreeMap;

/// One line of a ban file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its number, from 1.
    pub line: usize,
    /// The line as it stands.
    pub text: String,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Whom it means.
    pub hits: Vec<Hit>,
    /// Names that ran and look like it, where it means nobody.
    pub similar: Vec<String>,
}

/// Somebody whom a line means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Subject or FQAN.
    pub name: String,
    /// Sessions and tries of it.
    pub records: u64,
    /// When it was seen last.
    pub last_utc: String,
}

/// Compares a ban file, of subjects or of FQANs, with records.
pub fn check(text: &str, records: &[Record]) -> Vec<Line> {
    let names = names(records);
    let is_rule = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let lines = text.lines().enumerate().filter(|(_, line)| is_rule(line));
    lines.map(|(index, line)| one(index + 1, line, &names)).collect()
}

/// All names, how often, and when they were seen last.
fn names(records: &[Record]) -> BTreeMap<String, (u64, u64)> {
    let mut names: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in records {
        let Some(subject) = filter::subject(record) else { continue };
        for name in std::iter::once(&subject.dn).chain(&subject.fqans).filter(|name| !name.is_empty()) {
            let (count, last) = names.entry(name.clone()).or_default();
            *count += 1;
            *last = (*last).max(record.start_unix_ns());
        }
    }
    names
}

fn one(number: usize, line: &str, names: &BTreeMap<String, (u64, u64)>) -> Line {
    let mut found =
        Line { line: number, text: line.to_owned(), fault: None, hits: Vec::new(), similar: Vec::new() };
    match BanFile::parse(line) {
        Err(error) => found.fault = Some(error.reason.to_string()),
        Ok(rule) => {
            let hits = names.iter().filter(|(name, _)| is_banned(&rule, name));
            found.hits = hits
                .map(|(name, (records, last))| Hit {
                    name: name.clone(),
                    records: *records,
                    last_utc: rfc3339(*last),
                })
                .collect();
        }
    }
    if found.hits.is_empty() {
        found.similar = names.keys().filter(|name| looks_like(line, name)).take(3).cloned().collect();
    }
    found
}

/// A file of subjects or one of FQANs: the name says which it can be.
fn is_banned(rule: &BanFile, name: &str) -> bool {
    Dn::parse(name).is_ok_and(|dn| rule.lists_dn(&dn))
        || Fqan::parse(name).is_ok_and(|fqan| rule.lists_fqan(&fqan))
}

/// Whether a name has the letters and digits of a line, whatever else stands between them.
fn looks_like(line: &str, name: &str) -> bool {
    let letters = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let (line, name) = (letters(line), letters(name));
    // Half of a name says as much as all of it: the last part is the person.
    !name.is_empty()
        && line.len() >= 4
        && (line.contains(&name) || name.contains(&line) || same_end(&line, &name))
}

fn same_end(line: &str, name: &str) -> bool {
    let common = line.chars().rev().zip(name.chars().rev()).take_while(|(a, b)| a == b).count();
    common >= 8 && common * 2 >= name.chars().count()
}

/// The lines as text.
pub fn text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let rule = identity::shown::log_line(line.text.trim());
        match (&line.fault, line.hits.as_slice()) {
            (Some(fault), _) => text.push_str(&format!("line {}: BROKEN, {fault}: {rule}\n", line.line)),
            (None, []) => text.push_str(&format!("line {}: means NOBODY who ran: {rule}\n", line.line)),
            (None, hits) => {
                text.push_str(&format!("line {}: {rule}\n", line.line));
                for hit in hits {
                    let name = identity::shown::log_line(&hit.name);
                    text.push_str(&format!("    {} times, last {}  {name}\n", hit.records, hit.last_utc));
                }
            }
        }
        for name in &line.similar {
            text.push_str(&format!("    did you mean  {}\n", identity::shown::log_line(name)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Opened, State, Subject};

    fn ran(dn: &str, fqan: &str, start: u64) -> Record {
        let payload = Subject { dn: dn.into(), fqans: vec![fqan.into()], ..Subject::default() };
        Record {
            id: "a".into(),
            state: State::Closed,
            path: "a".into(),
            opened: Some(Box::new(Opened { payload, start_unix_ns: start, ..Opened::default() })),
            denied: None,
            pid: None,
            usage: None,
            end_unix_ns: Some(start),
            exit: None,
            clock_stepped: false,
            estimated: false,
            torn: false,
            amended: None,
        }
    }

    #[test]
    fn each_line_says_whom_it_means() {
        let records = [
            ran("/DC=org/CN=Ada Analyst", "/cms/Role=NULL", 1_000_000_000),
            ran("/DC=org/CN=Ada Analyst", "/cms/Role=NULL", 2_000_000_000),
            ran("/DC=org/CN=Bob", "/atlas/Role=pilot", 0),
        ];
        let file = "# bans\n\"/DC=org/CN=Ada Analyst\"\n\"/cms*\"\n\"/DC=org/CN=ada analyst\"\n\"/CN=Eve\n";
        let lines = check(file, &records);
        let numbers: Vec<_> = lines.iter().map(|l| (l.line, l.hits.len(), l.fault.is_some())).collect();
        assert_eq!((numbers[0], numbers[1], numbers[3]), ((2, 1, false), (3, 1, false), (5, 0, true)));
        assert_eq!(
            (lines[0].hits[0].records, lines[0].hits[0].last_utc.as_str()),
            (2, "1970-01-01T00:00:02Z")
        );
        let said = text(&lines);
        assert!(said.contains("line 5: BROKEN"), "{said}");
    }

    #[test]
    fn a_line_that_means_nobody_is_told_with_what_looks_like_it() {
        let records = [ran("/DC=org/DC=example/CN=Ada Analyst", "/cms", 0)];
        let lines = check("\"/DC=org/DC=exmaple/CN=Ada Analyst\"\n\"/CN=Nobody Else\"\n", &records);
        assert_eq!(lines[0].similar, ["/DC=org/DC=example/CN=Ada Analyst"]);
        assert!(lines[1].similar.is_empty());
        assert!(text(&lines).contains("means NOBODY"));
    }
}
