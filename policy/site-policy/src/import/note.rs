//! What the administrator must know about an import, with file and line.

use identity::one_line;
use std::fmt;
use std::path::{Path, PathBuf};

/// What it means for the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Left out of the policy.
    Dropped,
    /// `glexec` will accept what LCMAPS refused.
    Looser,
    /// `glexec` will refuse what LCMAPS accepted.
    Stricter,
    /// Same users, other accounts, groups or behaviour.
    Differs,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "not carried over",
            Self::Looser => "glexec accepts more",
            Self::Stricter => "glexec refuses more",
            Self::Differs => "differs",
            Self::Note => "note",
        })
    }
}

/// One remark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub file: PathBuf,
    pub line: Option<usize>,
    pub effect: Effect,
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", one_line(&self.file.to_string_lossy()))?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))?;
        write!(f, ": {}: {}", self.effect, one_line(&self.text))
    }
}

/// Remarks about one file after the other.
pub struct Notes {
    file: PathBuf,
    pub list: Vec<Note>,
}

impl Notes {
    /// No remarks yet; the first ones will be about this file.
    pub fn about(file: &Path) -> Self {
        Self { file: file.to_owned(), list: Vec::new() }
    }

    /// The next remarks are about another file.
    pub fn turn_to(&mut self, file: &Path) {
        self.file = file.to_owned();
    }

    /// Adds a remark, unless it was made already.
    pub fn add(&mut self, line: Option<usize>, effect: Effect, text: impl Into<String>) {
        let note = Note { file: self.file.clone(), line, effect, text: text.into() };
        if !self.list.contains(&note) {
            self.list.push(note);
        }
    }
}
