//! The cell: walls that a child of `glexec` puts around itself before it looks at a byte from outside.
//!
//! | wall | see | when |
//! |---|---|---|
//! | no new privileges, no tracing, small limits | [`give_up`] | first |
//! | system calls | [`filter`] | before the first byte is read |
//! | files, TCP ports, signals, abstract sockets | [`narrow`] | when the request has told the paths, before anything else is parsed |
//!
//! Each wall binds the calling thread and all threads that it starts afterwards, for the rest of their lives. The first
//! two must hold or the child answers nothing. The third is Landlock's, which older kernels do not have: [`narrow`] says
//! what it got.
//!
//! Must never: leave a wall out in silence. Called by: `glexec-verify` and `glexec-map`, around themselves.
#![forbid(unsafe_code)]

mod calls;
mod view;

pub use calls::{Calls, filter};
pub use nix::sys::resource::Resource;
pub use view::{Landlock, View, narrow, roots};

use nix::sys::resource::{getrlimit, setrlimit};

/// No new privileges by exec, no core files, no tracing by others of the account, and at most these resources.
///
/// # Errors
/// One line for people; nothing may be read after an error.
pub fn give_up(limits: &[(Resource, u64)]) -> Result<(), String> {
    nix::sys::prctl::set_no_new_privs().map_err(|e| format!("no_new_privs: {e}"))?;
    nix::sys::prctl::set_dumpable(false).map_err(|e| format!("dumpable: {e}"))?;
    for (resource, most) in [(Resource::RLIMIT_CORE, 0)].iter().chain(limits) {
        // Whoever started us may have set a lower one, which nobody without privilege can raise.
        let limit = getrlimit(*resource).map_or(*most, |(_, hard)| hard.min(*most));
        setrlimit(*resource, limit, limit).map_err(|e| format!("{resource:?}: {e}"))?;
    }
    Ok(())
}

/// What a program that has just built all walls says about them to an administrator.
pub fn report(landlock: Landlock) -> String {
    format!("no new privileges: yes\nsystem calls: filtered (seccomp)\nLandlock: {landlock}")
}
