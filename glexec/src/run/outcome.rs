//! How a payload ended, for the record and as the exit code of `glexec`. Pure.

use crate::sys::process::End;
use nix::unistd::Pid;
use record::{Exit, Usage};

/// Why the child could not execute the command, with the exit code for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mishap {
    /// 201, 202 or 126.
    pub(crate) code: u8,
    /// One line.
    pub(crate) reason: String,
}

/// How it ended.
pub(crate) struct Outcome {
    /// The payload's first process.
    pub(crate) pid: Pid,
    /// For the record.
    pub(crate) exit: Exit,
    /// For the record.
    pub(crate) usage: Usage,
    /// What kept the command from being executed.
    pub(crate) mishap: Option<Mishap>,
    /// Exit code of `glexec`.
    pub(crate) code: u8,
}

/// Notes how the first process ended, and returns the exit code of `glexec`.
pub(crate) fn fill_exit(exit: &mut Exit, end: End, mishap: Option<&Mishap>) -> u8 {
    match (mishap, end) {
        (Some(mishap), _) => {
            exit.code = Some(i32::from(mishap.code));
            exit.killed_by = Some(format!("not executed: {}", mishap.reason));
            mishap.code
        }
        (None, End::Signaled(signal)) => {
            exit.signal = Some(signal);
            u8::try_from(128 + signal).unwrap_or(255)
        }
        (None, End::Exited(code)) => {
            exit.code = Some(code);
            caller_code(code)
        }
    }
}

/// 201 to 204 are ours: a payload that ends with one of them is shown as 204.
fn caller_code(code: i32) -> u8 {
    if (201..=204).contains(&code) { 204 } else { u8::try_from(code).unwrap_or(255) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(end: End, mishap: Option<&Mishap>) -> u8 {
        fill_exit(&mut Exit::default(), end, mishap)
    }

    #[test]
    fn codes_of_the_payload_pass_but_for_ours() {
        for (n, expected) in
            [(0, 0), (7, 7), (127, 127), (200, 200), (201, 204), (203, 204), (204, 204), (205, 205)]
        {
            assert_eq!(code(End::Exited(n), None), expected);
        }
    }

    #[test]
    fn every_signal_is_told_by_its_number() {
        for signal in 1..=64 {
            let mut exit = Exit::default();
            assert_eq!(i32::from(fill_exit(&mut exit, End::Signaled(signal), None)), 128 + signal);
            assert_eq!((exit.signal, exit.code), (Some(signal), None));
        }
    }

    #[test]
    fn a_mishap_before_exec_keeps_its_own_code() {
        let mishap = Mishap { code: 201, reason: "no such command".into() };
        assert_eq!(code(End::Exited(201), Some(&mishap)), 201);
    }
}
