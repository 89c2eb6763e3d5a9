//! The LCMAPS that is installed here, as an oracle: `oracle/lcmaps.c` asks it.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The real LCMAPS and a directory for its files.
#[derive(Debug)]
pub struct Oracle {
    dir: tempfile::TempDir,
}

impl Default for Oracle {
    fn default() -> Self {
        Self::new()
    }
}

impl Oracle {
    /// Compiles the driver.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn new() -> Self {
        let oracle = Self { dir: tempfile::tempdir().unwrap() };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle/lcmaps.c");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-Wall", "-Wextra", "-Werror", "-o"])
            .arg(oracle.path("driver"))
            .arg(source)
            .arg("-ldl");
        let built = compiler.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        oracle
    }

    /// A file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file; `@DIR@` becomes the directory.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let at = self.dir.path().to_str().unwrap();
        fs::write(self.path(name), text.replace("@DIR@", at)).unwrap();
    }

    /// The driver, with the database `lcmaps.db` and a log.
    pub fn driver(&self) -> Command {
        let mut command = Command::new(self.path("driver"));
        command.arg("-l").arg(self.path("log")).env_clear();
        command.env("LCMAPS_DB_FILE", self.path("lcmaps.db")).env("LCMAPS_LOG_FILE", self.path("log"));
        command.env("LCMAPS_DEBUG_LEVEL", "1");
        command
    }

    /// The uid that LCMAPS gives, if any.
    ///
    /// # Panics
    /// When it says something else.
    pub fn uid(&self, command: &mut Command) -> Option<u32> {
        let ran = command.output().unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        match ran.status.code() {
            Some(0) => {
                let uid = said.split_whitespace().find_map(|w| w.strip_prefix("uid=")).map(str::parse);
                Some(uid.unwrap_or_else(|| panic!("the driver says {said:?}")).unwrap())
            }
            Some(1) if said.contains("denied") => None,
            other => panic!("driver {other:?}: {said}{}", String::from_utf8_lossy(&ran.stderr)),
        }
    }

    /// Whom LCMAPS makes of these names with the policy.
    pub fn names(&self, policy: &str, dn: &str, fqans: &[&str]) -> Option<u32> {
        self.uid(self.driver().args(["names", policy, dn]).args(fqans))
    }
}
