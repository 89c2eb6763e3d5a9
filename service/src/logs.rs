//! The log of a server: one line for each event, on standard error or in a file.
//!
//! What others wrote (names, reasons, addresses) reaches a log through here only, and here every character that could break
//! a line or mislead its reader is escaped, whoever logged it. A log that cannot be written never ends the server.

use crate::Error;
use identity::shown;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing_subscriber::EnvFilter;

/// The log file of this process, if it has one.
static FILE: OnceLock<LogFile> = OnceLock::new();

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

fn open(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().append(true).create(true).mode(0o640).open(path)
}

/// Sends the events of this process to `file`, or to standard error; `RUST_LOG` chooses how much (default: `info`).
///
/// # Errors
/// When the file cannot be opened.
pub fn start(file: Option<&Path>) -> Result<(), Error> {
    if let Some(path) = file {
        let opened = open(path).map_err(|source| Error::Log { path: path.to_owned(), source })?;
        // A second call in one process (tests) keeps the first file.
        let _ = FILE.set(LogFile { path: path.to_owned(), file: Mutex::new(opened) });
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let subscriber = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        // The subscriber would report a full standard error on standard error, and panic.
        .log_internal_errors(false)
        .with_writer(|| Line);
    // A second subscriber in one process is no reason not to serve.
    let _ = subscriber.try_init();
    Ok(())
}

/// Opens the log file again under its name, after it was moved away by log rotation.
pub(crate) fn reopen() {
    let Some(log) = FILE.get() else { return };
    match open(&log.path) {
        Ok(file) => *log.file.lock().unwrap_or_else(PoisonError::into_inner) = file,
        Err(error) => {
            tracing::error!(file = ?log.path, %error, "the log cannot be opened again; the old file is written on")
        }
    }
}

/// Takes one event at a time.
struct Line;

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = format!("{}\n", shown::log_line(text.trim_end_matches('\n')));
        // There is nobody left to tell about a log that cannot be written.
        let _ = match FILE.get() {
            Some(log) => log.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
