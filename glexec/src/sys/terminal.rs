//! A payload that shares its caller's terminal must not type there: what it types, the caller's shell would execute.

use nix::errno::Errno;
use std::io::IsTerminal;

/// `TIOCSTI` pushes a byte into the terminal's input, `TIOCLINUX` can paste into a console (ioctl_tty(2), ioctl_console(2)).
const FORBIDDEN: [u32; 2] = [0x5412, 0x541c];
/// Architecture (linux/audit.h) and number of ioctl: this program's, x32's, and those of 32-bit programs.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [(u32, u32); 3] = [(0xc000_003e, 16), (0xc000_003e, 0x4000_0202), (0x4000_0003, 54)];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [(u32, u32); 2] = [(0xc000_00b7, 29), (0x4000_0028, 54)];

/// Whether the payload gets hold of a terminal: the controlling one, or one behind 0, 1 or 2, which it could make its own
/// controlling one. Pilots in batch jobs have none.
pub(crate) fn is_shared() -> bool {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let [input, output, error] =
        [std::io::stdin().is_terminal(), std::io::stdout().is_terminal(), std::io::stderr().is_terminal()];
    input || output || error || open("/dev/tty", flags, nix::sys::stat::Mode::empty()).is_ok()
}

/// Forbids typing into terminals, to this process and all that it starts: a seccomp filter that lets everything else pass.
///
/// Needs `no_new_privs` or `CAP_SYS_ADMIN` (seccomp(2)).
pub(crate) fn forbid_typing() -> Result<(), Errno> {
    let mut program = filter();
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points to a live program of the length it states; the kernel copies it.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) };
    Errno::result(set).map(drop)
}

/// The program in classic BPF: offsets are those of `struct seccomp_data`.
fn filter() -> Vec<libc::sock_filter> {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const SECOND_ARGUMENT: u32 = 24;
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equal = |value, yes, no| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let answer = |value| step(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let mut program = Vec::new();
    for (architecture, ioctl) in ARCHITECTURES {
        // Whatever does not match goes on behind the block: with the other architecture, or to the end.
        program.extend([
            load(ARCHITECTURE),
            equal(architecture, 0, 6),
            load(NUMBER),
            equal(ioctl, 0, 4),
            load(SECOND_ARGUMENT),
            equal(FORBIDDEN[0], 1, 0),
            equal(FORBIDDEN[1], 0, 1),
            answer(denied),
        ]);
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
