//! What became of a payload's output files.

use identity::one_line;
use serde::{Deserialize, Serialize};

/// Most files that are named one by one.
const MAX_NOTES: usize = 20;

/// What was brought home, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputSummary {
    /// Files in the archive.
    pub files: u64,
    /// Their length in bytes, all together.
    pub bytes: u64,
    /// Patterns that matched nothing.
    pub unmatched: Vec<String>,
    /// Files that matched and could not be brought home.
    pub left_out: u64,
    /// Why, one line each, for the first few.
    pub notes: Vec<String>,
    /// Whether the archive itself is missing or incomplete.
    pub broken: bool,
}

impl OutputSummary {
    /// Whether everything that was asked for is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.broken && self.left_out == 0 && self.unmatched.is_empty()
    }

    /// Counts a file that cannot be brought home.
    pub fn leave_out(&mut self, name: &str, why: &str) {
        self.left_out = self.left_out.saturating_add(1);
        self.note(&format!("{name:?}: {why}"));
    }

    /// Adds a line, unless there are many already.
    pub fn note(&mut self, text: &str) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(one_line(text));
        }
    }

    /// One line for people: what is missing; `None` when nothing is.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.broken {
            parts.push("the output files could not be stored".to_owned());
        }
        if !self.unmatched.is_empty() {
            let patterns: Vec<String> = self.unmatched.iter().take(3).map(|p| format!("{p:?}")).collect();
            let more = if self.unmatched.len() > 3 { ", ..." } else { "" };
            parts.push(format!(
                "{} of the output patterns matched nothing: {}{more}",
                self.unmatched.len(),
                patterns.join(", ")
            ));
        }
        if self.left_out > 0 {
            parts.push(format!("{} output files could not be brought home", self.left_out));
        }
        if let Some(note) = self.notes.first() {
            parts.push(note.clone());
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_a_count() {
        let mut summary = OutputSummary { files: 3, ..OutputSummary::default() };
        assert_eq!((summary.missing(), summary.is_complete()), (None, true));
        summary.unmatched.push("*.root".to_owned());
        for number in 0..30 {
            summary.leave_out(&format!("f{number}"), "permission denied");
        }
        assert!(!summary.is_complete());
        let text = summary.missing().unwrap();
        for words in ["1 of the output patterns", "*.root", "30 output files", "\"f0\": permission denied"] {
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(summary.notes.len(), MAX_NOTES);
    }
}
