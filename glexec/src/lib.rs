//! Everything that ever runs as root.
//!
//! The story of a run is [`pipeline`], on one screen. Who decides is the crate `policy` (`judge`); here is who acts.
//!
//! | step | module |
//! |---|---|
//! | set the process straight, find out the mode | [`start`] |
//! | read `glexec.conf` and `policy.toml` | [`config`] |
//! | open files that root trusts | [`audit`] |
//! | recognise payloads that call | [`nesting`] |
//! | argv and environment to a typed request | [`request`] |
//! | `-h`, `-v`, `-V` | [`information`] |
//! | read the proxy with the caller's rights | [`credential`] |
//! | locks on proxy files | [`proxy_lock`] |
//! | run the children without privilege | [`child`], [`verify`] |
//! | identity to account | [`mapping`], [`cache`], [`accounts`] |
//! | sessions, their cgroup, the sweep of dead ones | [`session`], [`cgroup`], [`sweep`] |
//! | `--session`: status, signal, kill, end without a credential | [`session_call`] |
//! | the payload's own directory, made and removed as its account | [`work_dir`] |
//! | refusals by the thousand | [`flood`] |
//! | what is opened before the switch and closed after it | [`sitting`] |
//! | the site's record | [`recording`] |
//! | a process namespace of the payload's own | [`namespace`] |
//! | switch and exec | [`launch`], [`target_proxy`], [`payload_env`] |
//! | wait, forward signals, end what is left | [`supervise`] |
//! | whose children these are | [`kin`] |
//! | without linger: who watches instead | [`keeper`] |
//! | what a session used | [`usage`] |
//! | the site's program after the payload | [`epilogue`] |
//! | lines that accounting probes read | [`monitor`] |
//! | `glexec-monitor`, the optional daemon | [`watch`] |
//! | system calls that need `unsafe` | [`sys`] |

mod accounts;
mod audit;
mod cache;
mod cgroup;
mod child;
mod config;
mod credential;
mod epilogue;
mod failure;
mod flood;
mod guard;
mod information;
mod keeper;
mod kin;
mod launch;
mod log;
mod mapping;
mod monitor;
mod namespace;
mod nesting;
mod payload_env;
mod pipeline;
mod proxy_lock;
mod recording;
pub mod request;
mod session;
mod session_call;
mod sitting;
mod start;
mod supervise;
mod sweep;
mod sys;
mod target_proxy;
mod usage;
mod verify;
pub mod watch;
mod work_dir;

pub use pipeline::main;
