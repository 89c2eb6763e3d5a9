//! The two system calls that no library offers for every signal number: `nix` knows no real-time signals, and a payload may
//! die by one.

use nix::errno::Errno;
use nix::unistd::Pid;

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// It exited with this code, or died by a signal: 128+n.
    Child(Pid, i32),
    /// Children run, none has ended.
    None,
    /// There is no child at all, so no descendant either: orphans come to this process.
    NoChildren,
}

/// Reaps one child that has ended, whatever ended it.
pub(crate) fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` is a valid place for one int for the time of the call, which keeps no pointer to it.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match pid {
        0 => Reaped::None,
        pid if pid > 0 => Reaped::Child(Pid::from_raw(pid), code(status)),
        _ if Errno::last() == Errno::ECHILD => Reaped::NoChildren,
        _ => Reaped::None,
    }
}

/// As a shell would show it.
fn code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Sends a signal by its number; `false` when the process is gone or out of reach.
pub(crate) fn send_signal(pid: i32, number: i32) -> bool {
    // SAFETY: kill takes two numbers and touches no memory of this process.
    pid > 0 && unsafe { libc::kill(pid, number) } == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_a_code() {
        for number in (1..=31).chain(34..=64) {
            assert_eq!(code(number), 128 + number);
            assert_eq!(code(number | 0x80), 128 + number, "with a core dump");
        }
        assert_eq!(code(7 << 8), 7);
    }
}
