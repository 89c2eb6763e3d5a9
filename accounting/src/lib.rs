//! Answers from the site's usage records.
//!
//! | looking for | see |
//! |---|---|
//! | which records a question means | [`filter`] |
//! | points in time as people write them | [`when`] |
//! | a record as JSON | [`view`] |
//! | a list of records as a table | [`table`] |
//! | one record in full, and who ran where | [`report`] |
//!
//! The records themselves, and the spool that holds them, are the crate `record`.
#![forbid(unsafe_code)]

pub mod filter;
pub mod report;
pub mod table;
pub mod view;
pub mod when;
