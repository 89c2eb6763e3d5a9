//! `site-policy`: tells an administrator what the site's policy means before a job finds out.
//!
//! | looking for | see |
//! |---|---|
//! | the command line | [`cli`] |
//! | `check`: files, accounts and programs around the policy | [`check`] |
//! | `explain`: one decision, step by step | [`explain`] |
//! | `import`: from `lcmaps.db` to `policy.toml` | [`import`] |
//! | this machine as the decision sees it | [`host`] |
//! | which paths root may trust | [`outside`] |
//! | local accounts | [`accounts`] |
//! | running `glexec-verify` and `glexec-map` | [`child`] |
//!
//! It needs no privilege and changes nothing. Exit codes: 0 clean or would run, 1 errors or would be refused, 2 usage,
//! 3 something could not be read.
#![forbid(unsafe_code)]

mod accounts;
mod check;
mod child;
mod cli;
mod conf;
mod explain;
mod finding;
mod host;
mod import;
mod outside;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// What goes to standard output, and the exit code.
struct Reply {
    text: String,
    code: u8,
}

/// Exit code when something could not be read, so that nothing can be told.
const UNREADABLE: u8 = 3;

fn main() -> ExitCode {
    let reply = match cli::Cli::parse().command {
        cli::Command::Check(args) => check::run(&args),
        cli::Command::Explain(args) => explain::run(&args),
        cli::Command::Import(args) => import::run(&args),
    };
    let reply = reply.unwrap_or_else(|reason| {
        let _ = writeln!(std::io::stderr(), "site-policy: {reason}");
        Reply { text: String::new(), code: UNREADABLE }
    });
    match std::io::stdout().lock().write_all(reply.text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "site-policy: standard output: {error}");
            ExitCode::from(UNREADABLE)
        }
        // A reader that closed its pipe has seen enough.
        _ => ExitCode::from(reply.code),
    }
}
