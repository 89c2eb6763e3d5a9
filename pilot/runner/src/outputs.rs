//! Packs the output files of a payload into a tar stream.
//!
//! A pattern is matched against names relative to the working directory: `*` and `?` stay within one directory, `**`
//! crosses them, and a pattern that matches a directory takes all of it. A symbolic link is packed as the file it
//! leads to when that lies in the working directory; every other link, socket, pipe and device is left out.

use anyhow::{Context, Result};
use pilot_wire::Patterns;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes the tar of all matching files, in order of their names; returns how many there are.
pub fn pack(workdir: &Path, patterns: &Patterns, to: impl Write) -> Result<usize> {
    let root = workdir.canonicalize().context("the working directory is gone")?;
    let mut names = Vec::new();
    walk(&root, Path::new(""), &mut names);
    names.retain(|name| patterns.takes(name));
    names.sort();
    let mut tar = tar::Builder::new(to);
    let mut packed = 0;
    for name in &names {
        if let Some(mut file) = open_inside(&root, name) {
            tar.append_file(name, &mut file)
                .with_context(|| format!("cannot pack output file {}", name.display()))?;
            packed += 1;
        }
    }
    tar.into_inner()
        .context("cannot send the output files")?
        .flush()
        .context("cannot send the output files")?;
    Ok(packed)
}

/// Collects the relative names of all files and links. What cannot be read is left out.
fn walk(root: &Path, below: &Path, names: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let name = below.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(root, &name, names),
            Ok(kind) if kind.is_file() || kind.is_symlink() => names.push(name),
            _ => (),
        }
    }
}

/// Opens a regular file that lies below `root` once all links are followed.
fn open_inside(root: &Path, name: &Path) -> Option<File> {
    let real = root.join(name).canonicalize().ok().filter(|real| real.starts_with(root))?;
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(real).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn packed(dir: &Path, patterns: &[&str]) -> Vec<String> {
        let texts: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let mut tar = Vec::new();
        let count = pack(dir, &Patterns::parse(&texts).unwrap(), &mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let names = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
        let names: Vec<_> = names.collect();
        assert_eq!(names.len(), count);
        names
    }

    #[test]
    fn patterns_stay_within_a_directory_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("out/deep")).unwrap();
        for name in ["a.root", "b.txt", "out/c.root", "out/deep/d.root"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        assert_eq!(packed(dir.path(), &["*.root"]), ["a.root"]);
        assert_eq!(packed(dir.path(), &["**/*.root"]), ["a.root", "out/c.root", "out/deep/d.root"]);
        assert_eq!(packed(dir.path(), &["./out/"]), ["out/c.root", "out/deep/d.root"]);
        assert_eq!(packed(dir.path(), &["b.tx?", "a.root"]), ["a.root", "b.txt"]);
        assert_eq!(packed(dir.path(), &["../*", "/etc/passwd", "none"]), [""; 0]);
    }

    #[test]
    fn links_out_of_the_working_directory_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("real"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("inside")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        assert_eq!(packed(dir.path(), &["**"]), ["inside", "real"]);
    }
}
