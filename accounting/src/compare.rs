//! The files with which records are compared, for the command and for the server.

use crate::reconcile::{self, BadLine, Finding, Overhead};
use record::Record;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Usage may be apart by this part.
const APART: f64 = 0.05;

/// What others say, and where it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Others {
    /// What sacct -P -X -o JobIDRaw,User,ElapsedRaw printed
    #[arg(long, value_name = "FILE")]
    pub slurm: Option<PathBuf>,
    /// What oarstat --json printed of jobs that have ended
    #[arg(long, value_name = "FILE")]
    pub oar: Option<PathBuf>,
    /// The accounting file of Grid Engine
    #[arg(long, value_name = "FILE")]
    pub gridengine: Option<PathBuf>,
    /// What pilots told the queue, as pilot runs prints it: lines of JSON with payload, session, wall_s, cpu_s, and the pilot
    #[arg(long, value_name = "FILE")]
    pub claims: Option<PathBuf>,
}

/// Why nothing can be compared.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It cannot be read.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {bad}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        bad: BadLine,
    },
}

impl Others {
    /// Whether nobody is named to compare with.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Compares records with all of them.
    ///
    /// # Errors
    /// The first file that cannot be read, or has a line that is none.
    pub fn compare(&self, records: &[Record]) -> Result<(Vec<Finding>, Overhead), BadFile> {
        let mut slots = Vec::new();
        if let Some(path) = &self.slurm {
            slots.extend(read(path, reconcile::slurm)?);
        }
        if let Some(path) = &self.oar {
            slots.extend(read(path, reconcile::oar)?);
        }
        if let Some(path) = &self.gridengine {
            slots.extend(read(path, reconcile::gridengine)?);
        }
        let (mut findings, overhead) = reconcile::with_slots(&slots, records);
        if let Some(path) = &self.claims {
            findings.extend(reconcile::with_claims(&read(path, reconcile::claims)?, records, APART));
        }
        Ok((findings, overhead))
    }
}

fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T, BadLine>) -> Result<T, BadFile> {
    let text = std::fs::read_to_string(path).map_err(|why| BadFile::File { path: path.to_owned(), why })?;
    parse(&text).map_err(|bad| BadFile::Line { path: path.to_owned(), bad })
}
