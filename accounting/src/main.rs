//! `accounting`: ask the site's usage records.
//!
//! [`cli`] is the command line, [`commands`] answers it. Exit codes: 0 found, 1 nothing found, 2 usage,
//! 3 spool unreadable or records damaged.
#![forbid(unsafe_code)]

mod cli;
mod commands;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let reply = commands::run(&cli).unwrap_or_else(|failure| {
        let _ =
            writeln!(std::io::stderr(), "accounting: {}", identity::shown::log_line(&failure.to_string()));
        commands::Reply { text: String::new(), code: commands::FAILED }
    });
    // A server has said all it had to say; its full standard output must not change how it ended.
    if reply.text.is_empty() {
        return ExitCode::from(reply.code);
    }
    // Text for people was escaped where it was made; what misleads can now stand in JSON only.
    match std::io::stdout().lock().write_all(identity::shown::json(&reply.text).as_bytes()) {
        Ok(()) => ExitCode::from(reply.code),
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(reply.code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "accounting: standard output: {error}");
            ExitCode::from(commands::FAILED)
        }
    }
}
