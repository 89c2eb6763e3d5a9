//! Names that a user chooses: input files, output patterns, variables. One rule for command line, queue and runner.

use glob::{MatchOptions, Pattern};
use std::path::{Component, Path, PathBuf};

const RULES: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The user's patterns of output files.
///
/// A pattern is matched against names relative to the working directory: `*` and `?` stay within one directory, `**`
/// crosses them, and a pattern that matches a directory takes all of it.
#[derive(Debug)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Parses; the error names the bad pattern.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        let one = |text: &String| {
            let trimmed = text.trim_start_matches("./").trim_end_matches('/');
            Pattern::new(trimmed).map_err(|e| format!("output pattern {text:?} cannot be used: {e}"))
        };
        Ok(Self(texts.iter().map(one).collect::<Result<_, _>>()?))
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a file with this name, relative to the working directory, is wanted.
    pub fn takes(&self, name: &Path) -> bool {
        let mut upwards = name.ancestors().filter(|a| !a.as_os_str().is_empty());
        upwards.any(|a| self.0.iter().any(|p| p.matches_path_with(a, RULES)))
    }
}

/// The name of an input file as a path that stays below the working directory.
pub fn safe_name(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain || name.ends_with('/') || name.contains('\0') || path.file_name().is_none() {
        return Err(format!("input file {name:?}: the name must be relative and without \"..\""));
    }
    Ok(path.components().filter(|c| matches!(c, Component::Normal(_))).collect())
}

/// Whether only the pilot may set this variable: `PILOT_*`, `GLEXEC_*`, `X509_USER_PROXY`, `GLOBUS_TCP_PORT_RANGE`
/// and `GLOBUS_HOSTNAME`. `pilot submit` refuses them, and the runner drops them.
pub fn reserved(name: &str) -> bool {
    name.starts_with("PILOT_")
        || name.starts_with("GLEXEC_")
        || matches!(name, "X509_USER_PROXY" | "GLOBUS_TCP_PORT_RANGE" | "GLOBUS_HOSTNAME")
}

/// Whether a variable can exist at all under this name: not empty, no `=`, no NUL.
pub fn possible(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_pattern_is_named() {
        let Err(error) = Patterns::parse(&["a[".to_owned()]) else { panic!("accepted") };
        assert!(error.contains("a["), "{error}");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "a/", "a\0b"] {
            assert!(safe_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(safe_name("./a/./b").unwrap(), Path::new("a/b"));
    }
}
