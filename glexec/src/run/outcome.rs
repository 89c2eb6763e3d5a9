//! How a payload ended, for the record and as the exit code of `glexec`. Pure.

use nix::sys::wait::WaitStatus;
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
pub(crate) fn fill_exit(exit: &mut Exit, status: WaitStatus, mishap: Option<&Mishap>) -> u8 {
    match (mishap, status) {
        (Some(mishap), _) => {
            exit.code = Some(i32::from(mishap.code));
            exit.killed_by = Some(format!("not executed: {}", mishap.reason));
            mishap.code
        }
        (None, WaitStatus::Signaled(_, signal, _)) => {
            exit.signal = Some(signal as i32);
            u8::try_from(128 + signal as i32).unwrap_or(255)
        }
        (None, WaitStatus::Exited(_, code)) => {
            exit.code = Some(code);
            caller_code(code)
        }
        (None, _) => 202,
    }
}

/// 201 to 204 are ours: a payload that ends with one of them is shown as 204.
fn caller_code(code: i32) -> u8 {
    if (201..=204).contains(&code) { 204 } else { u8::try_from(code).unwrap_or(255) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;

    fn code(status: WaitStatus, mishap: Option<&Mishap>) -> u8 {
        fill_exit(&mut Exit::default(), status, mishap)
    }

    #[test]
    fn codes_of_the_payload_pass_but_for_ours() {
        let exited = |n| WaitStatus::Exited(Pid::from_raw(2), n);
        for (n, expected) in
            [(0, 0), (7, 7), (127, 127), (200, 200), (201, 204), (203, 204), (204, 204), (205, 205)]
        {
            assert_eq!(code(exited(n), None), expected);
        }
        assert_eq!(code(WaitStatus::Signaled(Pid::from_raw(2), Signal::SIGTERM, false), None), 143);
        assert_eq!(code(WaitStatus::Signaled(Pid::from_raw(2), Signal::SIGKILL, false), None), 137);
    }

    #[test]
    fn a_mishap_before_exec_keeps_its_own_code() {
        let mishap = Mishap { code: 201, reason: "no such command".into() };
        assert_eq!(code(WaitStatus::Exited(Pid::from_raw(2), 201), Some(&mishap)), 201);
    }
}
