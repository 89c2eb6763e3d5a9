//! Why a call ends without a payload.

use policy::decide::Stop;
use policy::judge::{Code, Denial};
use std::ffi::OsStr;

/// A path or word of the caller's in a message: one line, and so short that the reason behind it is not cut off.
pub(crate) fn shown(text: &OsStr) -> String {
    const MOST: usize = 250;
    let line = identity::one_line(&text.to_string_lossy());
    line.get(..MOST).map_or_else(|| line.clone(), |start| format!("{start}..."))
}

/// A refusal on its way to the caller, the log and the record.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    reason: String,
    denial: Option<Denial>,
}

impl Failure {
    /// 201: the caller must mend something.
    pub(crate) fn caller(reason: impl Into<String>) -> Self {
        Self { code: Code::Caller, reason: reason.into(), denial: None }
    }

    /// 202: the site must mend something.
    pub(crate) fn site(reason: impl Into<String>) -> Self {
        Self { code: Code::Site, reason: reason.into(), denial: None }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// What was wrong and what to do, one line.
    pub(crate) fn reason(&self) -> String {
        identity::one_line(&self.reason)
    }

    /// The decision behind it, when there was one.
    pub(crate) fn denial(&self) -> Option<&Denial> {
        self.denial.as_ref()
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        Self { code: denial.code(), reason: denial.to_string(), denial: Some(denial) }
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Denied(denial) => denial.into(),
            Stop::Site(reason) | Stop::CannotTell(reason) => Self::site(reason),
        }
    }
}

/// What the decision's host reports: the site's failures and decisions of helpers, never a failure of the caller's.
impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        failure.denial.map_or(Self::Site(failure.reason), Self::Denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_leave_room_for_the_reason() {
        assert_eq!(shown(OsStr::new("/a b\n")), "/a b\\x0A");
        let failure = Failure::caller(format!("{}: chmod 600", shown(OsStr::new(&"\n".repeat(4000)))));
        assert!(failure.reason().ends_with("...: chmod 600"), "{}", failure.reason());
    }
}
