//! What may happen in the queue: rules without clock, store, socket or thread.
//!
//! For: deciding what an event does to payloads, attempts, leases and pilots. An event says what it has to know
//! ([`Event::need`]), a store loads that into a [`View`], [`decide()`] answers with changes to store, effects to carry out
//! once they are stored, and what the asker is told.
//!
//! Must never: read a clock, make a random number, do input or output, or fail for any input that its types allow.
//! Called by: the stores, which speak these types, and the queue. Nobody else.
#![forbid(unsafe_code)]

pub mod capacity;
pub mod change;
mod claims;
mod decide;
pub mod event;
mod growth;
pub mod model;
mod payloads;
mod pilots;
pub mod rules;
mod submissions;
mod switching;

pub use capacity::Capacity;
pub use change::{Answer, Change, Decision, Effect, Refused};
pub use decide::{decide, entitled};
pub use event::Event;
pub use model::{Need, Requirements, Terms, View};
pub use switching::{SwitchRule, Switching};
