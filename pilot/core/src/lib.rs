//! What may happen in the queue: rules without clock, store, socket or thread.
//!
//! For: deciding what an event does to a payload, an attempt and a pilot. Must never: read a clock, do input or
//! output, or fail for any input that its types allow. Called by: the queue and its stores.

pub mod rules;
