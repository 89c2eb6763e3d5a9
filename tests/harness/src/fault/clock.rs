//! A clock that a test can step, for one program.

use std::fs;
use std::path::{Path, PathBuf};

/// The wall clock of a program, as libfaketime shows it. The monotonic clock, by which programs wait, goes on as it is, and
/// times of files are true: this is what a step by an operator or by NTP looks like. Setuid and static programs do not load it.
#[derive(Debug)]
pub struct Clock {
    offset: PathBuf,
    library: PathBuf,
}

/// The library of Debian's package libfaketime, the one for programs with threads.
pub(crate) fn library() -> Option<PathBuf> {
    let places =
        ["/usr/lib", "/usr/lib64"].into_iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten());
    let places =
        places.flatten().map(|entry| entry.path()).chain(["/usr/lib", "/usr/lib64"].map(PathBuf::from));
    places.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file())
}

impl Clock {
    /// A clock that is right so far; its setting is kept in `dir`. `#[needs(faketime)]`.
    ///
    /// # Panics
    /// When libfaketime is not installed.
    pub fn new(dir: &Path) -> Self {
        let clock = Self { offset: dir.join("clock"), library: library().expect("libfaketime is installed") };
        clock.step("+0");
        clock
    }

    /// What the program needs in its environment.
    pub fn env(&self) -> [(&'static str, &Path); 5] {
        let yes = Path::new("1");
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", &self.offset),
            ("FAKETIME_NO_CACHE", yes),
            ("DONT_FAKE_MONOTONIC", yes),
            ("NO_FAKE_STAT", yes),
        ]
    }

    /// Sets the clock off the right time, such as `+1h`, `-2d` or `+0`; running programs see it at once.
    ///
    /// # Panics
    /// When the setting cannot be written.
    pub fn step(&self, offset: &str) {
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{offset}\n")).expect("the clock's setting can be written");
        fs::rename(&new, &self.offset).expect("the clock's setting can be replaced");
    }
}
