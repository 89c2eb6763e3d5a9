//! The queue through its router, without TLS.

mod delegation;
mod ends;
mod flow;
mod leases;
mod refusals;
mod store;
mod support;
mod waiting;
