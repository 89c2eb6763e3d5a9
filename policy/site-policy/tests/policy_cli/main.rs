//! The built program against small sites in temporary directories.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod check;
mod docs;
mod explain;
mod keys;
mod ports;
mod site;
