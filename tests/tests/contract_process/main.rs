//! How `glexec` behaves as a process, as the clients of gLExec rely on it.
//!
//! | what | module |
//! |---|---|
//! | descriptors, streams | `streams` |
//! | command line, environment, umask, working directory | `attributes` |
//! | who may call | `callers` |
//! | configuration files of sites | `configuration` |
//! | exit codes and signals | `signals` |
//! | the proxies that come in and go out | `proxies` |
//! | locks on proxies | `locks` |
//! | `linger = no` | `in_place` |
//! | installed without the setuid bit | `log_only` |
//! | log lines, monitor lines | `logs` |
//! | the site's program after each payload | `epilogue` |
//! | what a refusal looks like | `refusals` |

#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

mod attributes;
mod callers;
mod configuration;
mod epilogue;
mod in_place;
mod locks;
mod log_only;
mod logs;
mod proxies;
mod refusals;
mod signals;
mod streams;
