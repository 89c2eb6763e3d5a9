//! Answers from the site's usage records.
//!
//! | looking for | see |
//! |---|---|
//! | which records a question means | [`filter`] |
//! | all records, wherever they stand | [`source`] |
//! | day files and their index | [`store`] |
//! | sums of usage | [`sum`] |
//! | records as csv and lines of JSON | [`rows`] |
//! | what ran inside a batch job | [`tree`] |
//! | points in time as people write them | [`when`] |
//! | a record as JSON | [`view`] |
//! | a list of records as a table | [`table`] |
//! | one record in full, and who ran where | [`report`] |
//!
//! The records themselves, and the spool that holds them, are the crate `record`.
#![forbid(unsafe_code)]

pub mod filter;
pub mod report;
pub mod rows;
pub mod source;
pub mod store;
pub mod sum;
pub mod table;
pub mod tree;
pub mod view;
pub mod when;
