//! `[payload] isolate = "account"`: a Landlock domain around the payload (landlock(7)), and a filter beside it.
//!
//! A process in a domain can trace only what is in the same domain, which covers `pidfd_getfd`, `process_vm_readv`,
//! `process_madvise`, `migrate_pages` and `kcmp`; since Linux 6.12 a domain can also keep signals in. No file, network or mount
//! is restricted. Limits and priorities of other processes are a matter of the uid alone, so a filter refuses to name any.

use crate::sys::seccomp::{self, Refused, When};
use nix::errno::Errno;
use std::os::fd::{FromRawFd, OwnedFd};

/// `LANDLOCK_CREATE_RULESET_VERSION`
const ASK_VERSION: u32 = 1;
/// The first version that knows scopes.
const WITH_SCOPES: i64 = 6;
/// `LANDLOCK_SCOPE_SIGNAL`
const SCOPE_SIGNAL: u64 = 1 << 1;

/// `struct landlock_ruleset_attr`
#[repr(C)]
struct Rules {
    files: u64,
    network: u64,
    scoped: u64,
}

/// Numbers of these calls for 32-bit programs.
#[cfg(target_arch = "x86_64")]
mod bits32 {
    pub(super) const PRLIMIT: u32 = 340;
    pub(super) const SETPRIORITY: u32 = 97;
    pub(super) const IOPRIO_SET: u32 = 289;
    pub(super) const SETPARAM: u32 = 154;
    pub(super) const SETSCHEDULER: u32 = 156;
    pub(super) const SETATTR: u32 = 351;
}
#[cfg(target_arch = "aarch64")]
mod bits32 {
    pub(super) const PRLIMIT: u32 = 369;
    pub(super) const SETPRIORITY: u32 = 97;
    pub(super) const IOPRIO_SET: u32 = 314;
    pub(super) const SETPARAM: u32 = 154;
    pub(super) const SETSCHEDULER: u32 = 156;
    pub(super) const SETATTR: u32 = 380;
}
/// `IOPRIO_WHO_PROCESS`
const ONE_PROCESS: u32 = 1;

/// Whether the kernel can keep signals and tracing inside a domain.
pub(crate) fn is_available() -> bool {
    // SAFETY: with this flag no attribute is read.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Rules>(), 0_usize, ASK_VERSION)
    };
    version >= WITH_SCOPES
}

/// Puts this process, and all that it starts, into a domain of its own. Needs `CAP_SYS_ADMIN` or no new privileges.
pub(crate) fn enter_domain() -> Result<(), Errno> {
    let rules = Rules { files: 0, network: 0, scoped: SCOPE_SIGNAL };
    // SAFETY: pointer and size describe one live structure, which the kernel copies.
    let ruleset =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &rules, size_of::<Rules>(), 0_u32) };
    let ruleset = i32::try_from(Errno::result(ruleset)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let _owned = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_u32) }).map(drop)
}

/// Refuses what would set limits or priorities of any process but the calling one, to this process and all that it starts.
///
/// A filter sees numbers and cannot tell a process's own id from another's, so 0 is the only one that passes.
/// `sched_setaffinity` is let through: C libraries pin new threads by their ids.
pub(crate) fn forbid_touching_others() -> Result<(), Errno> {
    let call = |own, bits32, when| Refused { own, bits32, x32: None, when };
    seccomp::refuse(&[
        call(libc::SYS_prlimit64, bits32::PRLIMIT, When::IsNot(0, 0)),
        call(libc::SYS_setpriority, bits32::SETPRIORITY, When::IsNot(0, libc::PRIO_PROCESS)),
        call(libc::SYS_setpriority, bits32::SETPRIORITY, When::IsNot(1, 0)),
        call(libc::SYS_ioprio_set, bits32::IOPRIO_SET, When::IsNot(0, ONE_PROCESS)),
        call(libc::SYS_ioprio_set, bits32::IOPRIO_SET, When::IsNot(1, 0)),
        call(libc::SYS_sched_setparam, bits32::SETPARAM, When::IsNot(0, 0)),
        call(libc::SYS_sched_setscheduler, bits32::SETSCHEDULER, When::IsNot(0, 0)),
        call(libc::SYS_sched_setattr, bits32::SETATTR, When::IsNot(0, 0)),
    ])
}
