//! Queue, pilot and user commands. The binary `pilot` is a thin shell over this library.

pub mod agent;
pub mod api;
pub mod client;
pub mod queue;
pub mod runner;
pub mod user;
