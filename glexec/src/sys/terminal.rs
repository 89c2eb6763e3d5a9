//! A payload that shares its caller's terminal must not type there: what it types, the caller's shell would execute.

use crate::sys::seccomp::{self, Refused, When};
use nix::errno::Errno;
use std::io::IsTerminal;

/// `TIOCSTI` pushes a byte into the terminal's input, `TIOCLINUX` can paste into a console (ioctl_tty(2), ioctl_console(2)).
const FORBIDDEN: [u32; 2] = [0x5412, 0x541c];
/// Number of ioctl for 32-bit programs.
const IOCTL_32: u32 = 54;
/// x32 has a number of its own for it.
const IOCTL_X32: u32 = 0x4000_0202;

/// Whether the payload gets hold of a terminal: the controlling one, or one behind 0, 1 or 2, which it could make its own
/// controlling one. Pilots in batch jobs have none.
pub(crate) fn is_shared() -> bool {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let [input, output, error] =
        [std::io::stdin().is_terminal(), std::io::stdout().is_terminal(), std::io::stderr().is_terminal()];
    input || output || error || open("/dev/tty", flags, nix::sys::stat::Mode::empty()).is_ok()
}

/// Forbids typing into terminals, to this process and all that it starts. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
pub(crate) fn forbid_typing() -> Result<(), Errno> {
    let typing = |request| Refused {
        own: libc::SYS_ioctl,
        bits32: IOCTL_32,
        x32: Some(IOCTL_X32),
        when: When::Is(1, request),
    };
    seccomp::refuse(&FORBIDDEN.map(typing))
}
