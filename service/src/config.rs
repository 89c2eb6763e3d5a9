//! Configuration files in TOML: read once, and refused in one line that names file, line, column and reason.

use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

/// Why a configuration cannot be used: one line with file, place, reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(String);

impl From<String> for BadConfig {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

/// Reads a file and has its text checked.
///
/// # Errors
/// With the file's name before the reason.
pub fn load<T, E: Display>(file: &Path, check: impl FnOnce(&str) -> Result<T, E>) -> Result<T, BadConfig> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| BadConfig(format!("{shown}: {e}; name the configuration with --config")))?;
    check(&text).map_err(|e| BadConfig(format!("{shown}: {e}")))
}

/// The file that is read when none is named: `None` when there is none. One that cannot be looked at counts as there, so
/// that it is refused and not passed over.
pub fn standard(file: &Path) -> Option<&Path> {
    let missing = std::fs::metadata(file).is_err_and(|e| e.kind() == ErrorKind::NotFound);
    (!missing).then_some(file)
}

/// Takes the keys out of a text.
///
/// # Errors
/// Names line and column, counted from 1 and in characters, and the reason.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, BadConfig> {
    toml::from_str(text).map_err(|e| {
        let (line, column) = place(text, e.span().map_or(0, |span| span.start));
        BadConfig(format!("line {line}, column {column}: {}", identity::one_line(e.message())))
    })
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_wrong_is_named_with_its_place_in_one_line() {
        for (text, why) in [
            ("a = 1\n\u{e9} = 2\n", "line 2, column 1: "),
            ("a = 1\nb = 'x'\n", "line 2, column 5: invalid type"),
            ("a = [\n", "line "),
            ("a = 1\na = 2\n", "line 2, column 1: duplicate key"),
        ] {
            let told = parse::<BTreeMap<String, u8>>(text).expect_err(text).to_string();
            assert!(told.starts_with(why) && !told.contains('\n'), "{text:?}: {told}");
        }
    }

    #[test]
    fn a_file_is_named_whatever_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        let load = || load(&file, parse::<BTreeMap<String, u8>>).map_err(|e| e.to_string());
        let shown = file.display().to_string();
        assert_eq!(standard(&file), None);
        assert!(load().unwrap_err().starts_with(&format!("{shown}: ")));
        std::fs::write(&file, "a = 'x'\n").unwrap();
        assert_eq!(standard(&file), Some(file.as_path()));
        assert!(load().unwrap_err().starts_with(&format!("{shown}: line 1, column 5: ")));
        std::fs::write(&file, "a = 1\n").unwrap();
        assert_eq!(load().unwrap()["a"], 1);
        // Below a file there is nothing to look at, which is not the same as nothing being there.
        assert!(standard(&file.join("below")).is_some());
    }
}
