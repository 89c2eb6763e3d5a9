//! System calls on files that fail or take long, in the program under test alone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SOURCE: &str = include_str!("calls.c");

/// A library between a program and its system calls. It changes nothing until a rule says so; rules can be changed while
/// the program runs. Setuid and static programs do not load it: give these a [`Disk`](super::Disk) instead.
///
/// Calls are `fsync` (with `fdatasync`), `write` (with `pwrite` and `writev`), `ftruncate`, `rename` (by the new name) and `open`.
#[derive(Debug)]
pub struct FaultyCalls {
    library: PathBuf,
    rules: PathBuf,
}

impl FaultyCalls {
    /// Builds it in a directory that the program can read and write; `#[needs("cc")]`.
    ///
    /// # Panics
    /// When it cannot be compiled.
    pub fn new(dir: &Path) -> Self {
        let library = dir.join("faulty-calls.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-x", "c", "-", "-ldl", "-o"]).arg(&library);
        let mut running = compiler.stdin(Stdio::piped()).spawn().expect("cc can be run");
        let mut source = running.stdin.take().expect("its input is a pipe");
        source.write_all(SOURCE.as_bytes()).expect("cc reads the source");
        drop(source);
        assert!(running.wait().expect("cc ends").success(), "calls.c does not compile");
        let this = Self { library, rules: dir.join("faults") };
        this.set("");
        this
    }

    /// What the program needs in its environment.
    pub fn env(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("PILOTAGE_FAULTS", &self.rules)]
    }

    /// From now on the call fails with this error number on files whose path contains `path`; empty for all files.
    pub fn fail(&self, call: &str, errno: i32, path: &str) {
        self.add(&format!("{call} {errno} {}", pattern(path)));
    }

    /// From now on the call takes longer.
    pub fn delay(&self, call: &str, by: Duration, path: &str) {
        self.add(&format!("{call} ~{} {}", by.as_millis(), pattern(path)));
    }

    /// From now on all is well.
    pub fn heal(&self) {
        self.set("");
    }

    /// The calls that met a rule so far: name of the call and path. A test asks whether its fault took place.
    pub fn met(&self) -> Vec<String> {
        let noted = fs::read_to_string(format!("{}.met", self.rules.display())).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }

    fn add(&self, rule: &str) {
        let before = fs::read_to_string(&self.rules).expect("the rules are there");
        self.set(&format!("{before}{rule}\n"));
    }

    /// Programs read the rules at any moment: never half of them.
    fn set(&self, rules: &str) {
        let new = self.rules.with_extension("new");
        fs::write(&new, rules).expect("rules can be written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).expect("the file is ours");
        fs::rename(&new, &self.rules).expect("rules can be replaced");
    }
}

fn pattern(path: &str) -> &str {
    assert!(!path.contains(char::is_whitespace), "rules are words: {path:?}");
    if path.is_empty() { "-" } else { path }
}
