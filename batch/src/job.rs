//! The words: jobs, commands, and what a listing says of a job.

use crate::{BatchError, cut, shell};

/// One line of text without control characters, not empty: it can stand in a command, a script or a submit description.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Line(String);

impl Line {
    /// Checks it.
    ///
    /// # Errors
    /// When it is empty or would be more than a line.
    pub fn parse(text: &str) -> Result<Self, BatchError> {
        if text.is_empty() || text.chars().any(char::is_control) {
            let remedy = "write one line, without control characters";
            return Err(BatchError::Malformed { what: "text", text: cut(text), remedy });
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Name of a job: at most 15 letters, digits and hyphens after a letter, which every system shows in full.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobName(String);

impl JobName {
    /// Checks it.
    ///
    /// # Errors
    /// When some system would refuse or cut it.
    pub fn parse(text: &str) -> Result<Self, BatchError> {
        let good = text.len() <= 15
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let remedy = "write at most 15 letters, digits and hyphens, a letter first";
        let bad = || BatchError::Malformed { what: "job name", text: cut(text), remedy };
        good.then(|| Self(text.to_owned())).ok_or_else(bad)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The batch system's own name of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

impl JobId {
    /// Checks it: a digit first, then letters, digits, and what separates arrays, servers and parts.
    ///
    /// # Errors
    /// When it could be anything but an id.
    pub fn parse(text: &str) -> Result<Self, BatchError> {
        let part = |c: char| c.is_ascii_alphanumeric() || "._-[]+".contains(c);
        let good =
            text.len() <= 128 && text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(part);
        let bad =
            || BatchError::Malformed { what: "job id", text: cut(text), remedy: "it begins with a number" };
        good.then(|| Self(text.to_owned())).ok_or_else(bad)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to submit: one node, one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Name, by which it is found again.
    pub name: JobName,
    /// A line for `/bin/sh`.
    pub command: Line,
    /// Cores.
    pub cores: u32,
    /// Memory of the whole job in MiB.
    pub memory_mib: Option<u64>,
    /// Longest run in seconds; rounded up where the system counts minutes.
    pub walltime: u64,
    /// Partition or queue.
    pub queue: Option<Line>,
    /// Project or account to charge.
    pub project: Option<Line>,
    /// Grid Engine's parallel environment for more than one core.
    pub environment: Option<Line>,
    /// File for standard output and error.
    pub output: Line,
    /// Nodes that it shall not get, where the system can be told; names with other than letters, digits, `.`, `_`, `-` are left out.
    pub avoid: Vec<Line>,
    /// More options, each one word of the submit command; for HTCondor lines of the submit description.
    pub options: Vec<Line>,
}

impl Job {
    /// The walltime as `H:MM:SS`.
    pub(crate) fn clock(&self) -> String {
        let (hours, rest) = (self.walltime / 3600, self.walltime % 3600);
        format!("{hours}:{:02}:{:02}", rest / 60, rest % 60)
    }

    /// The nodes to avoid, as words that mean nothing else to any system.
    pub(crate) fn avoided(&self) -> Vec<&str> {
        let part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let names = self.avoid.iter().map(Line::as_str);
        names.filter(|name| !name.starts_with(['-', '.']) && name.chars().all(part)).collect()
    }

    /// The whole script.
    pub(crate) fn script(&self) -> String {
        format!("#!/bin/sh\n{}\n", self.command.as_str())
    }
}

/// A program to run: never through a shell, unless the shell is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What it reads on standard input.
    pub stdin: String,
}

impl Command {
    pub(crate) fn new<'a>(argv: impl IntoIterator<Item = &'a str>) -> Self {
        Self { argv: argv.into_iter().map(str::to_owned).collect(), stdin: String::new() }
    }

    pub(crate) fn with(mut self, option: &str, value: impl Into<String>) -> Self {
        self.argv.extend([option.to_owned(), value.into()]);
        self
    }

    pub(crate) fn with_some(self, option: &str, value: Option<&Line>) -> Self {
        match value {
            Some(value) => self.with(option, value.as_str()),
            None => self,
        }
    }

    pub(crate) fn options(mut self, options: &[Line]) -> Self {
        self.argv.extend(options.iter().map(|o| o.as_str().to_owned()));
        self
    }

    pub(crate) fn reading(self, stdin: String) -> Self {
        Self { stdin, ..self }
    }

    /// The remote shell joins its arguments with spaces: each word is quoted once.
    pub(crate) fn over_ssh(self, host: &str) -> Self {
        let line: Vec<String> = self.argv.iter().map(|word| shell::quote(word)).collect();
        let argv = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "--", host, &line.join(" ")];
        Self::new(argv).reading(self.stdin)
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Queued, starting, or stopped before its start.
    Pending,
    /// On a node.
    Running,
    /// It will not start without somebody's help: held, or in error.
    Held,
    /// Over, and still listed.
    Ended,
}

/// One job in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// Id.
    pub id: JobId,
    /// Name, as long as the system shows it.
    pub name: String,
    /// State.
    pub state: State,
    /// First node.
    pub host: Option<String>,
    /// The system's own word for the state, and its reason where it has one.
    pub why: String,
}
