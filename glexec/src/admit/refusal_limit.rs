//! A bound on records of refusals: any local account can call `glexec` as often as it likes, and must not fill the spool.
//!
//! Each uid has a file `/run/glexec/refusals/<uid>` with the current minute and how many were recorded in it. Beyond the
//! limit a refusal is still a refusal and still in the log.

use crate::session::store::RUN_DIR;
use crate::sys::{ids, process};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Records of refusals per uid and minute.
const LIMIT: u32 = 60;
/// More than a counter has, in bytes.
const MAX_TEXT: u64 = 64;

/// How long another count of this uid may take. A count is a few system calls of root's.
const PATIENCE: Duration = Duration::from_millis(10);

/// Whether a refusal of this uid may be recorded. When that cannot be told, it is recorded.
pub(crate) fn admits(uid: u32) -> bool {
    // Whoever called could stop us with the counter in hand, and every other count would wait.
    let _unstoppable = ids::OutOfReach::enter();
    count(uid).unwrap_or_else(|e| e.kind() != io::ErrorKind::WouldBlock)
}

/// Who counts has the lock for a moment. Should it be held for longer, this refusal stays out of the spool, as one too many
/// would: nobody waits for a lock that somebody else could hold.
fn lock_soon(file: File) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + PATIENCE;
    let mut file = file;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((_, error)) if Instant::now() >= deadline => return Err(error.into()),
            Err((file, _)) => file,
        };
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn count(uid: u32) -> io::Result<bool> {
    let dir = Path::new(RUN_DIR).join("refusals");
    DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR)?;
    DirBuilder::new().mode(0o700).recursive(true).create(&dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = lock_soon(options.open(dir.join(uid.to_string()))?)?;
    let mut text = Vec::new();
    (&mut *file).take(MAX_TEXT).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let minute = process::boottime_ns() / 60_000_000_000;
    let next = next_count(&text, minute);
    file.rewind()?;
    file.write_all(counted(minute, next).as_bytes())?;
    Ok(next <= LIMIT)
}

/// Of one length, written over what was there: a call that ends here, or may not write, leaves no lower number.
fn counted(minute: u64, number: u32) -> String {
    format!("{minute:012} {number:010}")
}

/// How many there are in this minute, this one included.
fn next_count(text: &str, minute: u64) -> u32 {
    let mut words = text.split(' ');
    let same = words.next().and_then(|w| w.parse().ok()) == Some(minute);
    let before: u32 = words.next().filter(|_| same).and_then(|w| w.parse().ok()).unwrap_or(0);
    before.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_starts_anew_each_minute() {
        assert_eq!(next_count("", 5), 1);
        assert_eq!(next_count("5 59", 5), 60);
        assert_eq!(next_count("5 60", 6), 1);
        assert_eq!(next_count("garbage", 6), 1);
        assert_eq!(next_count(&counted(5, 59), 5), 60);
        assert_eq!(next_count("5 4294967295", 5), u32::MAX);
    }

    #[test]
    fn a_counter_that_is_cut_anywhere_does_not_count_less() {
        for before in [1, 9, 59, 99, 12_345, u32::MAX - 1] {
            let (old, new) = (counted(29_000_000, before), counted(29_000_000, before + 1));
            for cut in 0..new.len() {
                let text = format!("{}{}", &new[..cut], &old[cut..]);
                assert!(next_count(&text, 29_000_000) > before, "{text}");
            }
        }
    }
}
