//! Packs the output files of a payload into a tar stream.
//!
//! [`pilot_wire::api::Patterns`] says which names are taken. A symbolic link is packed as the file it leads to when that lies in the
//! working directory. Files and directories that the payload made unreadable are made readable, as their owner. What cannot
//! be brought home all the same is counted, and the first few are named: never left out in silence, and never at the cost of
//! the other files.

use anyhow::{Context, Result};
use pilot_wire::api::{OutputSummary, Patterns};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes the tar of all matching files, in order of their names.
///
/// # Errors
/// When the working directory is gone or nobody takes the archive.
pub fn pack(workdir: &Path, patterns: &Patterns, to: &mut impl Write) -> Result<OutputSummary> {
    let root = workdir.canonicalize().context("the working directory is gone")?;
    let mut found = Found::default();
    walk(&root, Path::new(""), patterns, &mut found);
    let Found { mut files, used, mut summary } = found;
    files.sort();
    summary.unmatched = (0..patterns.len())
        .filter(|number| !used.contains(number))
        .filter_map(|number| Some(patterns.text(number)?.to_owned()))
        .collect();
    let mut archive = tar::Builder::new(to);
    for name in &files {
        match open_inside(&root, name) {
            Ok(file) => append(&mut archive, name, file, &mut summary)?,
            Err(why) => summary.leave_out(&name.to_string_lossy(), &why),
        }
    }
    let to = archive.into_inner().context("cannot send the output files")?;
    to.flush().context("cannot send the output files")?;
    Ok(summary)
}

#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    /// Numbers of the patterns that took something.
    used: std::collections::BTreeSet<usize>,
    summary: OutputSummary,
}

/// Collects the relative names of all matching files and links.
fn walk(root: &Path, below: &Path, patterns: &Patterns, found: &mut Found) {
    let dir = root.join(below);
    let entries = std::fs::read_dir(&dir).or_else(|_| {
        give_owner(&dir, 0o700)?;
        std::fs::read_dir(&dir)
    });
    let entries = match entries {
        Ok(entries) => entries,
        // Nobody can tell what would have matched in there.
        Err(e) => return found.summary.leave_out(&format!("{}/", below.display()), &e.to_string()),
    };
    for entry in entries.flatten() {
        let name = below.join(entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            walk(root, &name, patterns, found);
            continue;
        }
        let taken: Vec<usize> = patterns.that_take(&name).collect();
        if taken.is_empty() {
            continue;
        }
        found.used.extend(taken);
        if kind.is_file() || kind.is_symlink() {
            found.files.push(name);
        } else {
            found.summary.leave_out(&name.to_string_lossy(), "is a socket, pipe or device");
        }
    }
}

/// Adds permission bits that the owner may give itself.
fn give_owner(path: &Path, bits: u32) -> std::io::Result<()> {
    let mode = std::fs::symlink_metadata(path)?.permissions().mode();
    std::fs::set_permissions(path, Permissions::from_mode(mode | bits))
}

/// Opens a regular file that lies below `root` once all links are followed. The error says why not.
fn open_inside(root: &Path, name: &Path) -> Result<File, String> {
    let real = root.join(name).canonicalize().map_err(|e| e.to_string())?;
    if !real.starts_with(root) {
        return Err("is a link that leads out of the working directory".to_owned());
    }
    let text = |e: std::io::Error| e.to_string();
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&real);
    let file = open().or_else(|_| give_owner(&real, 0o400).and_then(|()| open())).map_err(text)?;
    if !file.metadata().map_err(text)?.is_file() {
        return Err("is a link to something that is no file".to_owned());
    }
    Ok(file)
}

/// Appends one file. Only the loss of the receiver is an error: a file that cannot be read to its end is filled up with zeros,
/// because its length is already on its way.
fn append(
    archive: &mut tar::Builder<&mut impl Write>,
    name: &Path,
    mut file: File,
    summary: &mut OutputSummary,
) -> Result<()> {
    let told = name.to_string_lossy();
    let meta = match file.metadata() {
        Ok(meta) => meta,
        Err(e) => {
            summary.leave_out(&told, &e.to_string());
            return Ok(());
        }
    };
    summary.files += 1;
    summary.bytes += meta.len();
    if meta.blocks() * 512 < meta.len() {
        // Holes travel as holes, so a large and empty file costs nothing.
        return archive
            .append_file(name, &mut file)
            .with_context(|| format!("cannot pack output file {told:?}"));
    }
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&meta);
    let mut content = Filled { file, missing: meta.len(), error: None };
    let appended = archive.append_data(&mut header, name, &mut content);
    if let Some(e) = content.error {
        summary.files -= 1;
        summary.leave_out(&told, &format!("could not be read to its end: {e}"));
    }
    appended.with_context(|| format!("cannot pack output file {told:?}"))
}

/// A file as long as it was said to be.
struct Filled {
    file: File,
    missing: u64,
    error: Option<std::io::Error>,
}

impl Read for Filled {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.missing).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..most];
        let length = match self.file.read(buffer) {
            _ if self.error.is_some() => 0,
            Ok(length) => length,
            Err(e) => {
                self.error = Some(e);
                0
            }
        };
        let length = if length == 0 && most > 0 {
            self.error.get_or_insert_with(|| std::io::Error::other("it has become shorter"));
            buffer.fill(0);
            most
        } else {
            length
        };
        self.missing -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn packed(dir: &Path, patterns: &[&str]) -> (Vec<String>, OutputSummary) {
        let texts: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let mut tar = Vec::new();
        let summary = pack(dir, &Patterns::parse(&texts).unwrap(), &mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let names = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
        let names: Vec<_> = names.collect();
        assert_eq!(names.len() as u64, summary.files);
        (names, summary)
    }

    #[test]
    fn patterns_stay_within_a_directory_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("out/deep")).unwrap();
        for name in ["a.root", "b.txt", "out/c.root", "out/deep/d.root"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let names = |patterns: &[&str]| packed(dir.path(), patterns).0;
        assert_eq!(names(&["*.root"]), ["a.root"]);
        assert_eq!(names(&["**/*.root"]), ["a.root", "out/c.root", "out/deep/d.root"]);
        assert_eq!(names(&["out"]), ["out/c.root", "out/deep/d.root"]);
        assert_eq!(names(&["b.tx?", "a.root"]), ["a.root", "b.txt"]);
        let (names, summary) = packed(dir.path(), &["none", "*.txt"]);
        assert_eq!((names, summary.unmatched), (vec!["b.txt".to_owned()], vec!["none".to_owned()]));
    }

    #[test]
    fn what_is_no_file_of_the_payload_is_left_out_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("real"), "x").unwrap();
        symlink("real", dir.path().join("inside")).unwrap();
        symlink("/etc/passwd", dir.path().join("outside")).unwrap();
        symlink("/etc", dir.path().join("etc")).unwrap();
        symlink("nowhere", dir.path().join("broken")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let (names, summary) = packed(dir.path(), &["**"]);
        assert_eq!(names, ["inside", "real"]);
        assert_eq!(summary.left_out, 4, "{summary:?}");
        assert!(
            summary.notes.iter().any(|note| note.contains("outside") && note.contains("leads out")),
            "{summary:?}"
        );
    }

    #[test]
    fn names_that_are_not_utf8_come_home() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::from_bytes(b"caf\xe9.dat");
        fs::write(dir.path().join(name), "x").unwrap();
        let mut tar = Vec::new();
        pack(dir.path(), &Patterns::parse(&["*.dat".to_owned()]).unwrap(), &mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().as_os_str().as_bytes(), name.as_bytes());
    }

    #[test]
    fn a_sparse_file_keeps_its_length_and_costs_little() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("x")).unwrap().set_len(3 << 20).unwrap();
        fs::write(dir.path().join("y"), "after").unwrap();
        let mut tar = Vec::new();
        let summary = pack(dir.path(), &Patterns::parse(&["*".to_owned()]).unwrap(), &mut tar).unwrap();
        assert_eq!((summary.files, summary.bytes), (2, (3 << 20) + 5));
        assert!(tar.len() < 1 << 20, "{}", tar.len());
        let out = tempfile::tempdir().unwrap();
        tar::Archive::new(tar.as_slice()).unpack(out.path()).unwrap();
        assert_eq!(fs::metadata(out.path().join("x")).unwrap().len(), 3 << 20);
        assert_eq!(fs::read(out.path().join("y")).unwrap(), b"after");
    }

    #[test]
    fn a_file_that_becomes_shorter_does_not_cost_the_others() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), vec![7; 5000]).unwrap();
        }
        let mut summary = OutputSummary::default();
        let mut tar = Vec::new();
        let mut sink = &mut tar;
        let mut archive = tar::Builder::new(&mut sink);
        let file = File::open(dir.path().join("a")).unwrap();
        let mut content = Filled { file, missing: 6000, error: None };
        let mut filled = Vec::new();
        content.read_to_end(&mut filled).unwrap();
        assert_eq!((filled.len(), filled[4999], filled[5000]), (6000, 7, 0));
        assert!(content.error.is_some());
        append(&mut archive, Path::new("b"), File::open(dir.path().join("b")).unwrap(), &mut summary)
            .unwrap();
        assert_eq!((summary.files, summary.left_out), (1, 0));
    }
}
