//! What exists while an identity is switched, from the record's opening to its closing.
//!
//! | what | module |
//! |---|---|
//! | the session's directory, state file and lock | [`store`] |
//! | all that one call opens and closes | [`active_session`] |
//! | the cgroup leaf | [`cgroup`] |
//! | a process namespace of the payload's own | [`namespace`] |
//! | the ports of a payload, and the wall around them | [`ports`] |
//! | which pilot may have which block of ports | [`port_blocks`] |
//! | the site's record | [`recording`] |
//! | what a payload used, and who counted it | [`usage`] |
//! | the payload's own directory | [`work_dir`] |
//! | close sessions whose supervisor is gone | [`orphans`] |
//! | `--session`: status, signal, kill, end without a credential | [`session_call`] |

pub(crate) mod active_session;
pub(crate) mod cgroup;
pub(crate) mod namespace;
pub(crate) mod orphans;
pub(crate) mod port_blocks;
pub(crate) mod ports;
pub(crate) mod recording;
pub(crate) mod session_call;
pub(crate) mod store;
pub(crate) mod usage;
pub(crate) mod work_dir;

#[cfg(test)]
mod lifecycle_tests;
