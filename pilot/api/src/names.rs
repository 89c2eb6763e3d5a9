//! Names and patterns below a payload's working directory.
//!
//! A pattern is matched against names relative to the working directory: `*` and `?` stay within one directory, `**`
//! crosses them, and a pattern that matches a directory takes all of it.

use glob::{MatchOptions, Pattern};
use std::path::{Path, PathBuf};

/// Longest name of a file in bytes: `NAME_MAX` of Linux.
const MAX_NAME: usize = 255;
/// Longest path below the working directory in bytes, so that the whole one stays within `PATH_MAX`.
const MAX_PATH: usize = 3000;

const RULES: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Patterns that compile and stay inside.
#[derive(Debug, Clone)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Compiles; the error names the bad pattern.
    ///
    /// # Errors
    /// One line with the remedy.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| Ok(compile(text)?.1)).collect::<Result<_, _>>().map(Self)
    }

    /// The patterns in their shortest form, each one judged.
    pub(crate) fn normal(texts: &[String], most: usize) -> Result<Vec<String>, String> {
        if texts.len() > most {
            return Err(format!("more than {most} patterns; take whole directories"));
        }
        texts.iter().map(|text| Ok(compile(text)?.0)).collect()
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The text of one of them.
    #[must_use]
    pub fn text(&self, number: usize) -> Option<&str> {
        self.0.get(number).map(Pattern::as_str)
    }

    /// The numbers of the patterns that take this name, itself or with one of the directories that it lies in. Bytes that
    /// are not UTF-8 count as one unknown character each.
    pub fn that_take<'a>(&'a self, name: &'a Path) -> impl Iterator<Item = usize> + 'a {
        let name = name.to_string_lossy().into_owned();
        let takes = move |pattern: &Pattern| {
            let mut upwards = Path::new(&name).ancestors().filter(|a| !a.as_os_str().is_empty());
            upwards.any(|a| pattern.matches_path_with(a, RULES))
        };
        self.0.iter().enumerate().filter(move |(_, pattern)| takes(pattern)).map(|(number, _)| number)
    }
}

/// One name or pattern, judged.
///
/// # Errors
/// One line with the remedy.
pub fn output_pattern(text: &str) -> Result<String, String> {
    compile(text).map(|(text, _)| text)
}

fn compile(text: &str) -> Result<(String, Pattern), String> {
    if text.starts_with('/') || text.split('/').any(|part| part == "..") || text.contains('\0') {
        return Err(format!("{text:?}: patterns are relative to the working directory, without '..'"));
    }
    let normal = parts(text).collect::<Vec<_>>().join("/");
    if normal.is_empty() {
        return Err(format!("{text:?} names no file; '**' takes all of them"));
    }
    if normal.len() > MAX_PATH {
        return Err(format!("a pattern is longer than {MAX_PATH} bytes"));
    }
    let pattern = Pattern::new(&normal).map_err(|e| format!("{text:?} cannot be used: {e}"))?;
    Ok((normal, pattern))
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// The name of a file below the working directory in its shortest form; `None` when it leads elsewhere, names no file, or
/// is longer than a file system takes.
#[must_use]
pub fn plain_path(text: &str) -> Option<String> {
    let bad = |part: &str| part == ".." || part.len() > MAX_NAME;
    let last = text.rsplit('/').next().unwrap_or_default();
    if text.starts_with('/') || text.contains('\0') || matches!(last, "" | ".") || text.split('/').any(bad) {
        return None;
    }
    let normal = parts(text).collect::<Vec<_>>().join("/");
    (normal.len() <= MAX_PATH).then_some(normal)
}

/// [`plain_path`], for what comes from a machine that is not ours.
///
/// # Errors
/// One line.
pub fn safe_name(name: &str) -> Result<PathBuf, String> {
    let refused = || format!("file {name:?}: the name must be relative and without \"..\"");
    plain_path(name).map(PathBuf::from).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "a/", "a/.", "a\0b"] {
            assert_eq!(plain_path(bad), None, "{bad:?}");
        }
        assert_eq!(plain_path("./a/./b"), Some("a/b".to_owned()));
    }

    #[test]
    fn a_pattern_takes_names_that_are_not_utf8() {
        let patterns = Patterns::parse(&["*.dat".to_owned(), "r?n".to_owned(), "none".to_owned()]).unwrap();
        let taken = |name: &[u8]| patterns.that_take(Path::new(OsStr::from_bytes(name))).collect::<Vec<_>>();
        assert_eq!(taken(b"caf\xe9.dat"), [0]);
        assert_eq!(taken(b"r\xffn/inside"), [1]);
        assert_eq!(taken(b"other"), [0; 0]);
    }
}
