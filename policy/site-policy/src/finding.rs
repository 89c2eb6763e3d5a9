//! What `check` finds.

use identity::one_line;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Some or all calls of `glexec` will fail.
    Error,
    /// Probably not what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

/// One finding: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    pub severity: Severity,
    pub what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", one_line(&self.file.to_string_lossy()))?;
        [self.line, self.column].iter().flatten().try_for_each(|number| write!(f, ":{number}"))?;
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, ": {severity}: {}", one_line(&self.what))?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", one_line(&self.remedy)) }
    }
}

/// Findings about one file.
pub struct About<'a> {
    file: &'a Path,
    found: &'a mut Vec<Finding>,
}

impl<'a> About<'a> {
    /// Adds to `found` what is to be said about `file`.
    pub fn new(file: &'a Path, found: &'a mut Vec<Finding>) -> Self {
        Self { file, found }
    }

    /// Some or all calls will fail.
    pub fn error(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(None, Severity::Error, what, remedy);
    }

    /// Probably not what was meant.
    pub fn warning(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(None, Severity::Warning, what, remedy);
    }

    /// The same with all its parts.
    pub fn add(
        &mut self,
        line: Option<usize>,
        severity: Severity,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (file, what, remedy) = (self.file.to_owned(), what.into(), remedy.into());
        self.found.push(Finding { file, line, column: None, severity, what, remedy });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_editors_understand() {
        let mut found = Vec::new();
        About::new(Path::new("/etc/x"), &mut found).add(Some(3), Severity::Error, "bad\nline", "mend it");
        assert_eq!(found[0].to_string(), "/etc/x:3: error: bad\\x0Aline; mend it");
        found[0].column = Some(7);
        found[0].remedy.clear();
        assert_eq!(found[0].to_string(), "/etc/x:3:7: error: bad\\x0Aline");
    }
}
