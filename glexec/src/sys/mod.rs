//! The seam to the kernel: every system call that nix and std cannot make safely for us, and nothing else.
//!
//! | what | where |
//! |---|---|
//! | what is inherited, and restored for the payload | [`attributes`] |
//! | a domain for signals and tracing | [`isolation`] |
//! | sockets stay inside the leased ports | [`bind_filter`] |
//! | user and group ids, capabilities | [`ids`] |
//! | fork, exec, prctl, keyrings, clocks | [`process`] |
//! | descriptors | [`fds`] |
//! | calls that a payload may not make | [`seccomp`] |
//! | no typing into a shared terminal | [`terminal`] |
//! | which file a process executes | [`executable`] |
//! | process events of the kernel | [`netlink`] |

pub(crate) mod attributes;
pub(crate) mod bind_filter;
pub(crate) mod executable;
pub(crate) mod fds;
pub(crate) mod ids;
pub(crate) mod isolation;
pub(crate) mod netlink;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod terminal;
