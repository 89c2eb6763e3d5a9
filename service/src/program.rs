//! How every server begins and how it ends: the log and the signals first, one exit code and one line of reason last.

use crate::{Error, Signals, logs};
use identity::shown;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

/// Why a server ends other than by a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    reason: String,
}

impl Failure {
    /// Options or configuration are wrong: a restart does not mend it. Exit code 2.
    pub fn usage(reason: impl Display) -> Self {
        Self { code: 2, reason: reason.to_string() }
    }

    /// Something that it needs is missing, taken or damaged. Exit code 3.
    pub fn missing(reason: impl Display) -> Self {
        Self { code: 3, reason: reason.to_string() }
    }

    /// What is wrong and what to do.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::missing(error)
    }
}

/// What comes first: the log, then the signals. From here on SIGHUP no longer ends the process. To be called inside the runtime.
///
/// # Errors
/// When the log cannot be written or signals cannot be caught.
pub fn begin(log_file: Option<&Path>) -> Result<Signals, Error> {
    logs::start(log_file)?;
    Signals::catch()
}

/// The exit code of a program of this name; the reason of a failure goes to standard error.
pub fn ended(program: &str, done: Result<u8, Failure>) -> u8 {
    done.unwrap_or_else(|failure| {
        // Whoever closed standard error still gets the exit code.
        let _ = writeln!(std::io::stderr(), "{program}: {}", shown::log_line(&failure.reason));
        failure.code
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whose_fault_it_is() {
        assert_eq!(ended("x", Ok(1)), 1);
        assert_eq!(ended("x", Err(Failure::usage("a"))), 2);
        assert_eq!(ended("x", Err(Failure::missing("a"))), 3);
        let log = begin(Some(Path::new("/nowhere/x.log"))).unwrap_err();
        assert_eq!(ended("x", Err(log.into())), 3);
    }
}
