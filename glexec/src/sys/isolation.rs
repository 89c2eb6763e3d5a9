//! `[payload] isolate = "account"`: a Landlock domain around the payload (landlock(7)).
//!
//! A process in a domain can trace only what is in the same domain, which covers `pidfd_getfd` and `process_vm_readv`; since
//! Linux 6.12 a domain can also keep signals in. No file, network or mount is restricted.

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
