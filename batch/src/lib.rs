//! Batch systems, text in and text out: what to run, and what its answer means. Nothing here starts a program.
//!
//! | looking for | see |
//! |---|---|
//! | a job, a command, a line of a listing | [`Job`], [`Command`], [`JobStatus`] |
//! | one of the systems at some place | [`Batch`] |
//! | how each system is spoken to | `slurm`, `oar`, `gridengine`, `pbs`, `htcondor`, `local` |
//! | whose jobs run where, for a whole site | [`jobs`] |
//! | the same on another host | [`Batch::over_ssh`] |
//!
//! Answers of batch systems are other people's text: what is not understood is an error that shows the line.
//!
//! Must never: run a command, or decide whether one is run. Called by: the factory and `gridfw`.
#![forbid(unsafe_code)]

mod gridengine;
mod htcondor;
mod job;
pub mod jobs;
mod local;
mod oar;
mod pbs;
mod shell;
mod slurm;

pub use job::{Command, Job, JobId, JobName, JobStatus, Line, State};
pub use shell::quote;

use std::str::FromStr;

/// Why something cannot be said to a batch system, or why its answer is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The answer is none that the system's documentation describes.
    #[error("{system}: not understood: {line:?}; {expected}")]
    Strange {
        /// The batch system.
        system: System,
        /// The line, cut.
        line: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The job cannot be described to this system.
    #[error("{system}: {reason}")]
    Unsayable {
        /// The batch system.
        system: System,
        /// Why, and the remedy.
        reason: String,
    },
    /// A word that may not be part of a command.
    #[error("{what} {text:?} is not usable: {remedy}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What it is, cut.
        text: String,
        /// What to write.
        remedy: &'static str,
    },
}

/// A kind of batch system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum System {
    /// Slurm.
    Slurm,
    /// OAR 2.5.
    Oar,
    /// Grid Engine and its descendants.
    GridEngine,
    /// Torque, OpenPBS, and Slurm's wrappers with their names.
    Pbs,
    /// HTCondor.
    HtCondor,
    /// No batch system: processes on this host.
    Local,
}

impl System {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Slurm, "slurm"),
        (Self::Oar, "oar"),
        (Self::GridEngine, "gridengine"),
        (Self::Pbs, "pbs"),
        (Self::HtCondor, "htcondor"),
        (Self::Local, "local"),
    ];

    /// Its word in configuration files.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(system, _)| *system == self).map_or("", |(_, word)| word)
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for System {
    type Err = BatchError;

    fn from_str(text: &str) -> Result<Self, BatchError> {
        let found = Self::ALL.iter().find(|(_, word)| *word == text).map(|(system, _)| *system);
        let remedy = "write slurm, oar, gridengine, pbs, htcondor or local";
        found.ok_or_else(|| BatchError::Malformed { what: "batch system", text: cut(text), remedy })
    }
}

/// A batch system as one account sees it, here or on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    system: System,
    account: Line,
    ssh: Option<Line>,
}

impl Batch {
    /// The one of this host, for jobs of this account.
    pub fn here(system: System, account: Line) -> Self {
        Self { system, account, ssh: None }
    }

    /// The same on another host, `[USER@]HOST`, by `ssh` without questions.
    ///
    /// # Errors
    /// When the destination could be taken for an option.
    pub fn over_ssh(self, destination: Line) -> Result<Self, BatchError> {
        if destination.as_str().starts_with('-') || destination.as_str().contains(char::is_whitespace) {
            let text = cut(destination.as_str());
            return Err(BatchError::Malformed { what: "ssh destination", text, remedy: "write USER@HOST" });
        }
        Ok(Self { ssh: Some(destination), ..self })
    }

    /// Which kind.
    pub fn system(&self) -> System {
        self.system
    }

    /// What submits a job. Read the answer with [`Batch::parse_submitted`].
    ///
    /// # Errors
    /// When the system has no words for what the job asks.
    pub fn submit_command(&self, job: &Job) -> Result<Command, BatchError> {
        let command = match self.system {
            System::Slurm => slurm::submit(job),
            System::Oar => oar::submit(job),
            System::GridEngine => gridengine::submit(job)?,
            System::Pbs => pbs::submit(job),
            System::HtCondor => htcondor::submit(job)?,
            System::Local => local::submit(job),
        };
        Ok(self.there(command))
    }

    /// What asks whether the system could ever run a job, where it can be asked. Success means yes.
    ///
    /// # Errors
    /// As [`Batch::submit_command`].
    pub fn check_command(&self, job: &Job) -> Result<Option<Command>, BatchError> {
        Ok(match self.system {
            System::Slurm => Some(self.there(slurm::check(job))),
            System::GridEngine => Some(self.there(gridengine::check(job)?)),
            System::Oar | System::Pbs | System::HtCondor | System::Local => None,
        })
    }

    /// The id in the answer to a submission.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse_submitted(&self, text: &str) -> Result<JobId, BatchError> {
        match self.system {
            System::Slurm => slurm::submitted(text),
            System::Oar => oar::submitted(text),
            System::GridEngine => gridengine::submitted(text),
            System::Pbs => pbs::submitted(text),
            System::HtCondor => htcondor::submitted(text),
            System::Local => local::submitted(text),
        }
    }

    /// What lists the account's jobs. Read the answer with [`Batch::parse_status`].
    pub fn status_command(&self) -> Command {
        let account = self.account.as_str();
        self.there(match self.system {
            System::Slurm => slurm::status(account),
            System::Oar => oar::status(account),
            System::GridEngine => gridengine::status(account),
            System::Pbs => pbs::status(),
            System::HtCondor => htcondor::status(account),
            System::Local => local::status(account),
        })
    }

    /// The jobs of a listing.
    ///
    /// # Errors
    /// A line that is not understood: then nobody can say which jobs there are.
    pub fn parse_status(&self, text: &str) -> Result<Vec<JobStatus>, BatchError> {
        match self.system {
            System::Slurm => slurm::listed(text),
            System::Oar => oar::listed(text),
            System::GridEngine => gridengine::listed(text),
            System::Pbs => pbs::listed(text, self.account.as_str()),
            System::HtCondor => htcondor::listed(text),
            System::Local => local::listed(text),
        }
    }

    /// What ends a job, or takes it out of the queue.
    pub fn cancel_command(&self, id: &JobId) -> Command {
        let id = id.as_str();
        self.there(match self.system {
            System::Slurm => Command::new(["scancel", id]),
            System::Oar => Command::new(["oardel", id]),
            System::GridEngine | System::Pbs => Command::new(["qdel", id]),
            System::HtCondor => Command::new(["condor_rm", id]),
            System::Local => local::cancel(id),
        })
    }

    fn there(&self, command: Command) -> Command {
        match &self.ssh {
            Some(host) => command.over_ssh(host.as_str()),
            None => command,
        }
    }
}

/// A line of a batch system for an error.
fn strange(system: System, line: &str, expected: &'static str) -> BatchError {
    BatchError::Strange { system, line: cut(line), expected }
}

fn cut(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests;
