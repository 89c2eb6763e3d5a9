//! The payload's working directory: made 0700, filled with the input files, removed at the end.

use anyhow::{Context, Result};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A working directory; dropping it removes it.
pub struct Workdir {
    path: PathBuf,
}

impl Workdir {
    /// Makes `pilotage-ATTEMPT-XXXXXX` in `base`.
    ///
    /// # Errors
    /// Names `base` when it cannot be used.
    pub fn create(base: &Path, attempt: Uuid) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("pilotage-{attempt}-"))
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(base)
            .with_context(|| format!("cannot make a working directory in {}", base.display()))?;
        Ok(Self { path: dir.keep() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty input file and its directories. Never follows a link and never replaces a file.
    ///
    /// # Errors
    /// Names the file when its name leads elsewhere or it cannot be made.
    pub fn create_file(&self, name: &str, mode: u32) -> Result<InputFile> {
        let elsewhere = || format!("input file {name:?}: the name must be relative and without \"..\"");
        let path = self.path.join(pilot_wire::api::plain_path(name).with_context(elsewhere)?);
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .with_context(|| format!("input file {name:?}: cannot make its directory"))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("input file {name:?}: cannot create it"))?;
        Ok(InputFile { file, name: name.to_owned(), mode: mode & 0o777 })
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if std::fs::remove_dir_all(&self.path).is_ok() {
            return;
        }
        // A payload may leave directories that it took its own rights from.
        open_up(&self.path);
        if let Err(e) = std::fs::remove_dir_all(&self.path) {
            super::complain(&format!("cannot remove {}: {e}", self.path.display()));
        }
    }
}

/// Gives the owner its rights back, in this directory and in all below.
fn open_up(dir: &Path) {
    // Errors show again when the removal is tried.
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).ok();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// An input file that is being written.
pub struct InputFile {
    file: File,
    name: String,
    mode: u32,
}

impl InputFile {
    /// Appends.
    ///
    /// # Errors
    /// Names the file, for instance on a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("input file {:?}: cannot write it", self.name))
    }

    /// Sets the permission bits; the owner can always read.
    ///
    /// # Errors
    /// Names the file.
    pub fn finish(self) -> Result<()> {
        let mode = Permissions::from_mode(self.mode | 0o400);
        self.file
            .set_permissions(mode)
            .with_context(|| format!("input file {:?}: cannot set its mode", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn workdir() -> (tempfile::TempDir, Workdir) {
        let base = tempfile::tempdir().unwrap();
        let workdir = Workdir::create(base.path(), Uuid::nil()).unwrap();
        (base, workdir)
    }

    #[test]
    fn input_files_get_their_mode_and_directories() {
        let (_base, workdir) = workdir();
        let mut file = workdir.create_file("a/b/run.sh", 0o4755).unwrap();
        file.write(b"#!/bin/sh\n").unwrap();
        file.finish().unwrap();
        let made = workdir.path().join("a/b/run.sh");
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read(made).unwrap(), b"#!/bin/sh\n");
        assert_eq!(std::fs::metadata(workdir.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn links_and_present_files_are_not_written_through() {
        let (base, workdir) = workdir();
        let victim = base.path().join("victim");
        std::fs::write(&victim, "keep").unwrap();
        std::os::unix::fs::symlink(&victim, workdir.path().join("link")).unwrap();
        assert!(workdir.create_file("link", 0o600).is_err());
        assert!(workdir.create_file("../victim", 0o600).is_err());
        workdir.create_file("twice", 0o600).unwrap();
        assert!(workdir.create_file("twice", 0o600).is_err());
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "keep");
    }

    #[test]
    fn a_directory_without_rights_is_removed_too() {
        let (base, workdir) = workdir();
        let closed = workdir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(closed.join("f"), "x").unwrap();
        std::fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
        drop(workdir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
