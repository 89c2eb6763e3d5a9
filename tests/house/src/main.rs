//! `check-house`: holds the workspace to the rules that no compiler knows. `make lint` runs it at the top of the repository.
//!
//! | rule | see |
//! |---|---|
//! | which of our crates may know which: the table in `docs/architecture.md` | [`edges`] |
//! | no dependency that nobody uses | [`unused`] |
//! | every test that `docs/threat-model.md` names exists, and every rule there has one | [`threats`] |
//! | licences, banned crates, sources: `deny.toml` | [`deny`] |
//!
//! It asks `cargo metadata` and reads files of the repository; it needs no network once cargo has the crates.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

mod deny;
mod edges;
mod licence;
mod metadata;
mod threats;
mod unused;

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Where the table of edges stands.
const ARCHITECTURE: &str = "docs/architecture.md";

fn complaints(top: &Path) -> Result<Vec<String>> {
    let read = |file: &str| fs::read_to_string(top.join(file)).with_context(|| file.to_owned());
    let workspace = metadata::read(top)?;
    let mut all = edges::complaints(&workspace, &read(ARCHITECTURE)?);
    all.extend(unused::complaints(&workspace, &read("Cargo.toml")?)?);
    all.extend(deny::complaints(&workspace, &read("deny.toml")?)?);
    all.extend(threats::complaints(&read(threats::DOC)?, &threats::Names::read(top)?));
    Ok(all)
}

fn main() -> ExitCode {
    match complaints(Path::new(".")) {
        Ok(complaints) if complaints.is_empty() => {
            println!(
                "house: the edges between our crates, their dependencies, deny.toml and the tests of the threat model agree"
            );
            ExitCode::SUCCESS
        }
        Ok(complaints) => {
            complaints.iter().for_each(|complaint| eprintln!("house: {complaint}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("house: {error:#}");
            ExitCode::FAILURE
        }
    }
}
