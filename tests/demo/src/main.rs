//! `pilotage-demo`: the whole of Pilotage on one machine, in half a minute, leaving nothing behind.
//!
//! Two users, Alice and Bob, submit payloads to a central queue; one pilot, running without privilege, fetches them and
//! has `glexec` run each under the account that the site's mapping service names. One of Bob's payloads is hostile and
//! tries to get at Alice's files, at the pilot and at `glexec` itself.
//!
//! | looking for | see |
//! |---|---|
//! | the namespaces that everything runs in, and the proof that nothing is left | [`outer`] |
//! | accounts, certificates and proxies | [`grid`] |
//! | the mapping service, the queue and the pilot | [`services`] |
//! | what happens, step by step | [`play`] |
//! | what is shown and what is checked | [`report`] |
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

mod grid;
mod outer;
mod play;
mod report;
mod services;

use clap::Parser;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Show Pilotage at work: two users, four payloads, one of them hostile, one pilot.
///
/// Runs as root in namespaces of its own: no account, process, file or mount of the host is touched. Exit codes: 0 all
/// went as it should, 1 something did not, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "pilotage-demo", version)]
struct Cli {
    /// Only remove what a killed demo or test may have left: processes and cgroups
    #[arg(long)]
    clean: bool,
    /// Play, inside of the namespaces; the demo calls itself with this
    #[arg(long, hide = true)]
    inner: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("pilotage-demo: switching accounts needs root; run it as root, or `sudo make demo`");
        return ExitCode::FAILURE;
    }
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        progress_over();
        report(panic);
    }));
    let result = match (cli.clean, cli.inner) {
        (true, _) => outer::clean(),
        (_, true) => play::run(),
        _ => outer::run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            progress_over();
            eprintln!("pilotage-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Back to the first column of a terminal's line, and the line empty.
const CLEARED: &str = "\r\x1b[2K";

/// Says on standard error what is going on: on a terminal in one line that is written again and again.
fn progress(what: &str) {
    let mut to = std::io::stderr().lock();
    // Who cannot read it misses nothing that counts.
    let _ = match to.is_terminal() {
        true => write!(to, "{CLEARED}demo: {what}").and_then(|()| to.flush()),
        false => writeln!(to, "demo: {what}"),
    };
}

/// Takes the line away, before anything else is printed.
fn progress_over() {
    let mut to = std::io::stderr().lock();
    if to.is_terminal() {
        let _ = write!(to, "{CLEARED}").and_then(|()| to.flush());
    }
}
