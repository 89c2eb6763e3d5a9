//! Answers from the site's usage records.
//!
//! | looking for | see |
//! |---|---|
//! | which records a question means | [`filter`], as it is written: [`filter_args`] |
//! | all records, wherever they stand | [`source`] |
//! | day files and their index | [`store`] |
//! | sums of usage | [`sum`], in text: [`sum_view`] |
//! | from a node to the site's server | [`forward`], [`upload`] |
//! | the site's server | [`serve`] |
//! | formats of others, and sending them once | [`export`] |
//! | whom bans would hit | [`ban_check`] |
//! | records against what others say | [`reconcile`] |
//! | a month on one page | [`html`] |
//! | requests to other hosts | [`http`] |
//! | records as csv and lines of JSON | [`rows`] |
//! | what ran inside a batch job | [`tree`] |
//! | points in time as people write them | [`when`] |
//! | a record as JSON | [`view`] |
//! | a list of records as a table | [`table`] |
//! | one record in full, and who ran where | [`report`] |
//!
//! The records themselves, and the spool that holds them, are the crate `record`.
//!
//! Must never: change a record, or answer from a damaged one as if it were whole. Called by: its own program only; `glexec` links
//! `record` and nothing of this.
#![forbid(unsafe_code)]

pub mod ban_check;
pub mod compare;
pub mod export;
pub mod filter;
pub mod filter_args;
pub mod forward;
pub mod html;
pub mod http;
pub mod reconcile;
pub mod report;
pub mod rows;
pub mod serve;
pub mod source;
pub mod store;
pub mod sum;
pub mod sum_view;
pub mod table;
pub mod tree;
pub mod upload;
pub mod view;
pub mod when;
