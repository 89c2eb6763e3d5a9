//! From a process whose state the caller chose to a permitted account.
//!
//! | step | module |
//! |---|---|
//! | set the process straight, find out the mode | [`process_init`] |
//! | read `glexec.conf` and `policy.toml` | [`config`] |
//! | open files that root trusts | [`audit`] |
//! | recognise payloads that call | [`nesting`] |
//! | argv and environment to a typed request | [`request`] |
//! | `-h`, `-v`, `-V` | [`information`] |
//! | read the proxy with the caller's rights | [`credential`] |
//! | locks on proxy files | [`proxy_lock`] |
//! | run the helper programs without privilege | [`child`], [`verify`] |
//! | identity to account | [`mapping`], [`cache`], [`accounts`] |
//! | bound the records of refusals | [`refusal_limit`] |

pub(crate) mod accounts;
pub(crate) mod audit;
pub(crate) mod cache;
pub(crate) mod child;
pub(crate) mod config;
pub(crate) mod credential;
pub(crate) mod information;
pub(crate) mod mapping;
pub(crate) mod nesting;
pub(crate) mod process_init;
pub(crate) mod proxy_lock;
pub(crate) mod refusal_limit;
pub mod request;
pub(crate) mod verify;
