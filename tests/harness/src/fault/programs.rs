//! What others do to a running program: replace its file, signal it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Puts an equal program in the place of one, as an upgrade by a package manager does: whoever runs it keeps a file that
/// has no name any more.
///
/// # Panics
/// When the file cannot be replaced.
pub fn upgrade(program: &Path) {
    let new = program.with_extension("upgrade");
    fs::copy(program, &new).unwrap_or_else(|e| panic!("{}: {e}", new.display()));
    fs::rename(&new, program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
}

/// Puts the content of one file in the place of another at once, with the mode of the new one, as tools that renew
/// credentials do.
///
/// # Panics
/// When the file cannot be replaced.
pub fn replace_file(file: &Path, by: &Path) {
    let new = file.with_extension("renewed");
    fs::copy(by, &new).unwrap_or_else(|e| panic!("{}: {e}", by.display()));
    fs::rename(&new, file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// Sends a process signals, one after the other and again, until it is dropped.
#[derive(Debug)]
pub struct SignalStorm {
    /// How many were sent; the highest bit says stop.
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

const STOP: u64 = 1 << 63;

impl SignalStorm {
    /// Begins to signal by number, also real-time signals, with a pause after each.
    pub fn on(pid: i32, signals: &[i32], pause: Duration) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (count, signals) = (sent.clone(), signals.to_vec());
        let thread = std::thread::spawn(move || {
            for signal in signals.iter().cycle() {
                if count.load(Ordering::Relaxed) & STOP != 0 {
                    return;
                }
                // SAFETY: kill has no memory to misuse.
                if unsafe { libc::kill(pid, *signal) } == 0 {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(pause);
            }
        });
        Self { sent, thread: Some(thread) }
    }

    /// Waits until so many signals have reached the process.
    ///
    /// # Panics
    /// When that takes more than a minute.
    #[track_caller]
    pub fn wait_for(&self, count: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.sent() < count {
            assert!(Instant::now() < end, "only {} of {count} signals in a minute", self.sent());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How many signals reached the process so far.
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) & !STOP
    }
}

impl Drop for SignalStorm {
    fn drop(&mut self) {
        self.sent.fetch_or(STOP, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
