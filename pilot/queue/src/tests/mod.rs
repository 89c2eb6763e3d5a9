//! The queue through its router, without TLS.

mod ahead;
mod attached;
mod delegation;
mod ends;
mod events;
mod factories;
mod flow;
mod keys;
mod leases;
mod limits;
mod long_life;
mod refusals;
mod retention;
mod store;
mod support;
mod switching;
mod waiting;
