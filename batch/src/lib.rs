//! Batch systems, text in and text out: what to run, and what its answer means. Nothing here starts a program.
#![forbid(unsafe_code)]

pub mod jobs;
