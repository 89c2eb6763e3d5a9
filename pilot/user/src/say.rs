//! Output of commands: standard output has what was asked for, standard error everything else.
//!
//! Whoever reads may have gone (`pilot jobs | head`), and a disk may be full. Neither may make a command panic: the macros of
//! the standard library would, so the workspace forbids them.

use super::{Failure, Result};
use identity::shown;
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Writes to standard output; a closed pipe is no failure.
pub fn print(text: &str) -> Result<u8> {
    let mut output = std::io::stdout();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::no(format!("cannot write: {e}"))),
        _ => Ok(0),
    }
}

/// JSON in which nothing can mislead a terminal.
pub fn print_json(value: &impl Serialize) -> Result<u8> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Failure::no(format!("cannot write JSON: {e}")))?;
    print(&format!("{}\n", shown::json(&text)))
}

/// One line on standard error. Nobody is left to tell when that fails.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "pilot: {}", shown::terminal(text));
}
