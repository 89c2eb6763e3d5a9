//! `--exclude`, and the command line around it, shared by `glexec_wrapenv.pl` and `glexec_unwrapenv.pl`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Names that describe the account: glexec sets them for the payload, so they never travel.
pub const ALWAYS: [&str; 5] = ["HOME", "LOGNAME", "USER", "X509_USER_PROXY", "_"];

/// The names that are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion(BTreeSet<OsString>);

impl Default for Exclusion {
    fn default() -> Self {
        Self(ALWAYS.into_iter().map(OsString::from).collect())
    }
}

impl Exclusion {
    /// Whether exactly this name is left out.
    pub fn has(&self, name: &OsStr) -> bool {
        self.0.contains(name)
    }

    fn add(&mut self, list: &OsStr) {
        let names = list.as_bytes().split(|b| *b == b',').filter(|n| !n.is_empty());
        self.0.extend(names.map(|n| OsStr::from_bytes(n).to_owned()));
    }
}

/// What a command line says.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// `--help`
    Help,
    /// `--version`
    Version,
    /// Options, and the words behind them.
    Run(Exclusion, Vec<OsString>),
}

/// Reads options up to the first word that is none, or up to `--`; nothing behind that is looked at.
///
/// # Errors
/// One line about an option that is unknown or lacks its value.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let mut words = words.into_iter().peekable();
    let mut exclusion = Exclusion::default();
    while let Some(word) = words.next_if(|w| w.as_bytes().starts_with(b"-") && w != "-") {
        let text = word.as_bytes();
        // Perl's Getopt::Long takes one dash for two, and the value behind a blank or behind '='.
        let option = text.strip_prefix(b"--").unwrap_or(&text[1..]);
        match option {
            b"" => break,
            b"h" | b"help" => return Ok(Parsed::Help),
            b"V" | b"version" => return Ok(Parsed::Version),
            b"exclude" => exclusion.add(&words.next().ok_or("--exclude needs the names to leave out")?),
            _ => match option.strip_prefix(b"exclude=") {
                Some(list) => exclusion.add(OsStr::from_bytes(list)),
                None => return Err(format!("unknown option {word:?}; see --help")),
            },
        }
    }
    Ok(Parsed::Run(exclusion, words.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> (Exclusion, Vec<OsString>) {
        match parse(words.iter().map(OsString::from)).unwrap() {
            Parsed::Run(exclusion, rest) => (exclusion, rest),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_compared_whole() {
        let (exclusion, rest) =
            run(&["--exclude=A,B", "-exclude", "C", "--exclude=D[,", "cmd", "--exclude=E"]);
        for name in ["A", "B", "C", "D[", "HOME", "LOGNAME", "USER", "X509_USER_PROXY", "_"] {
            assert!(exclusion.has(OsStr::new(name)), "{name}");
        }
        for name in ["E", "ME", "U", "NAME", "LOG", "USE", "PROXY", "X509", ""] {
            assert!(!exclusion.has(OsStr::new(name)), "{name}");
        }
        assert_eq!(rest, ["cmd", "--exclude=E"]);
    }

    #[test]
    fn two_dashes_end_the_options() {
        assert_eq!(run(&["--", "--exclude=A", "--"]).1, ["--exclude=A", "--"]);
        assert_eq!(run(&["ls", "-l", "--", "x"]).1, ["ls", "-l", "--", "x"]);
        assert_eq!(run(&[]).1, [""; 0]);
    }

    #[test]
    fn unknown_options_are_named() {
        assert!(parse(["--excludes=A".into()]).unwrap_err().contains("--excludes=A"));
        assert!(parse(["--exclude".into()]).unwrap_err().contains("needs"));
        assert_eq!(parse(["--help".into()]), Ok(Parsed::Help));
    }
}
