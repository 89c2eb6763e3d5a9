//! The payload: switch, exec, supervise, end.
//!
//! | what | module |
//! |---|---|
//! | switch and exec | [`launch`], [`target_proxy`], [`payload_env`] |
//! | the process that the caller sees, and the supervisor behind it | [`front`] |
//! | wait, forward signals, end what is left | [`supervise`] |
//! | limits that came with the call | [`limits`] |
//! | usage of a payload that goes on | [`checkpoints`] |
//! | without linger: a supervisor that is not the payload's parent | [`detached_supervisor`] |
//! | how a payload ended | [`outcome`] |
//! | children of this process: ours and the caller's | [`child_processes`] |
//! | the site's program after the payload | [`epilogue`] |
//! | lines that the Gratia probe reads | [`gratia_log`] |

pub(crate) mod checkpoints;
pub(crate) mod child_processes;
pub(crate) mod detached_supervisor;
pub(crate) mod epilogue;
pub(crate) mod front;
pub(crate) mod gratia_log;
pub(crate) mod launch;
pub(crate) mod limits;
pub(crate) mod outcome;
pub(crate) mod payload_env;
pub(crate) mod supervise;
pub(crate) mod target_proxy;
