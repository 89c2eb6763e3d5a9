//! Writing the files of an output archive. The archive was made on a machine that is not ours: it may hold anything.
//!
//! What is written is what was asked for, and no more: plain files, under names that the payload's own patterns take, below
//! one directory, in the place of nothing else. What one entry is refused for does not cost the others.

use pilot_api::names::Patterns;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Zeros of this length become a hole: files may be sparse, and larger than the disk.
const BLOCK: usize = 64 << 10;

/// What may be written.
#[derive(Debug)]
pub struct Rules<'a> {
    /// The payload's own patterns.
    pub wanted: &'a Patterns,
    /// Their texts.
    pub texts: &'a [String],
    /// Whether existing files are replaced.
    pub force: bool,
    /// Whether names at the top may begin with a dot.
    pub dot_files: bool,
}

/// What was written, and what not.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Names below the directory.
    pub files: Vec<PathBuf>,
    /// Names and reasons.
    pub refused: Vec<(PathBuf, String)>,
}

/// Writes what the rules allow below `to`.
///
/// # Errors
/// When the archive is damaged or `to` cannot be made; what was written until then stays.
pub fn unpack(archive: impl Read, to: &Path, rules: &Rules<'_>) -> std::io::Result<Unpacked> {
    let mut archive = tar::Archive::new(archive);
    let mut done = Unpacked::default();
    DirBuilder::new().recursive(true).create(to)?;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        let mode = entry.header().mode()? & 0o777;
        let written = match rules.judge(&name, kind) {
            Ok(name) => write(&mut entry, to, &name, mode, rules.force).map(|()| name),
            Err(reason) => Err(reason),
        };
        match written {
            Ok(name) => done.files.push(name),
            Err(reason) => done.refused.push((name, reason)),
        }
    }
    Ok(done)
}

impl Rules<'_> {
    /// The name as a path below the directory, or why it is not written.
    fn judge(&self, name: &Path, kind: EntryType) -> Result<PathBuf, String> {
        if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse) {
            return Err("is no plain file".to_owned());
        }
        let parts = name.components().filter(|c| !matches!(c, Component::CurDir));
        let plain: Option<PathBuf> =
            parts.map(|c| if let Component::Normal(part) = c { Some(part) } else { None }).collect();
        let plain = plain.filter(|path| path.file_name().is_some());
        let Some(plain) = plain else { return Err("leads out of the directory".to_owned()) };
        if self.wanted.that_take(&plain).next().is_none() {
            return Err("was not asked for: no --output pattern of the payload takes it".to_owned());
        }
        let dotted = |text: &str| text.trim_start_matches("./").starts_with('.');
        let named = self.texts.iter().any(|text| dotted(text));
        if dotted(&plain.to_string_lossy()) && !self.dot_files && !named {
            return Err("begins with a dot; --dot-files writes such files, too".to_owned());
        }
        Ok(plain)
    }
}

/// Writes beside the place, then moves the whole file there: nobody meets half of it, and a link in its place is not followed.
fn write(from: &mut impl Read, to: &Path, name: &Path, mode: u32, force: bool) -> Result<(), String> {
    let told = |e: std::io::Error| e.to_string();
    let mut parent = to.to_owned();
    for part in name.parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        match std::fs::symlink_metadata(&parent) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(format!("{} is no directory", parent.display())),
            Err(_) => std::fs::create_dir(&parent).map_err(told)?,
        }
    }
    let place = to.join(name);
    let exists = || format!("{} is there already; --force replaces it", place.display());
    if !force && place.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let mut file = tempfile::NamedTempFile::new_in(&parent).map_err(told)?;
    copy(from, file.as_file_mut()).map_err(told)?;
    file.as_file().set_permissions(Permissions::from_mode(mode | 0o600)).map_err(told)?;
    let moved = if force { file.persist(&place) } else { file.persist_noclobber(&place) };
    moved.map(drop).map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(),
        _ => e.error.to_string(),
    })
}

/// Copies to the end; blocks of zeros become holes.
fn copy(from: &mut impl Read, to: &mut File) -> std::io::Result<()> {
    let (mut buffer, mut length) = (vec![0; BLOCK], 0);
    loop {
        let filled = fill(from, &mut buffer)?;
        let block = &buffer[..filled];
        if filled == BLOCK && block.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(BLOCK as i64))?;
        } else {
            to.write_all(block)?;
        }
        length += filled as u64;
        if filled < BLOCK {
            return to.set_len(length);
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: EntryType, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        header.set_entry_type(kind);
        // The safe setter refuses what an attacker would write.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if kind.is_symlink() {
            header.set_link_name("/etc").unwrap();
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        names.iter().for_each(|name| append(&mut builder, name, EntryType::Regular, b"hi"));
        builder.into_inner().unwrap()
    }

    fn all(archive: &[u8], to: &Path, patterns: &[&str], force: bool, dot_files: bool) -> Unpacked {
        let texts: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let wanted = Patterns::parse(&texts).unwrap();
        unpack(archive, to, &Rules { wanted: &wanted, texts: &texts, force, dot_files }).unwrap()
    }

    #[test]
    fn plain_files_arrive_without_special_bits() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let done = all(&archive(&["a/b"]), &to, &["a"], false, false);
        assert_eq!((done.files, done.refused.len()), (vec![PathBuf::from("a/b")], 0));
        assert_eq!(std::fs::read(to.join("a/b")).unwrap(), b"hi");
        assert_eq!(std::fs::metadata(to.join("a/b")).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_hostile_archive_writes_nothing_that_was_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("home");
        std::fs::create_dir(&to).unwrap();
        std::fs::write(to.join("mine"), "kept").unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, "link", EntryType::Symlink, b"");
        for name in
            [".bashrc", ".ssh/authorized_keys", "../evil", "/tmp/evil", "mine", "other.bin", "good.txt"]
        {
            append(&mut builder, name, EntryType::Regular, b"hostile");
        }
        let done = all(
            &builder.into_inner().unwrap(),
            &to,
            &["*.txt", "mine", "link", "*ashrc", "**/*keys"],
            false,
            false,
        );
        assert_eq!(done.files, [PathBuf::from("good.txt")]);
        let refused: Vec<_> = done.refused.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(
            refused,
            ["link", ".bashrc", ".ssh/authorized_keys", "../evil", "/tmp/evil", "mine", "other.bin"]
        );
        let mut left: Vec<_> = std::fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["good.txt", "mine"]);
        assert_eq!(std::fs::read(to.join("mine")).unwrap(), b"kept");
        assert!(!dir.path().join("evil").exists());
    }

    #[test]
    fn what_is_asked_for_in_so_many_words_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path();
        std::fs::write(to.join("elsewhere"), "kept").unwrap();
        std::os::unix::fs::symlink(to.join("elsewhere"), to.join("a")).unwrap();
        assert_eq!(all(&archive(&["a"]), to, &["a"], true, false).files.len(), 1);
        assert_eq!(
            std::fs::read(to.join("elsewhere")).unwrap(),
            b"kept",
            "the link is replaced, not followed"
        );
        assert_eq!(std::fs::read(to.join("a")).unwrap(), b"hi");
        assert_eq!(all(&archive(&[".x"]), to, &["*"], false, true).files.len(), 1);
        assert_eq!(all(&archive(&[".config/y"]), to, &[".config"], false, false).files.len(), 1);
        std::os::unix::fs::symlink("/tmp", to.join("d")).unwrap();
        let done = all(&archive(&["d/x"]), to, &["**"], true, false);
        assert!(done.refused[0].1.contains("no directory"), "{done:?}");
    }

    #[test]
    fn a_sparse_file_comes_with_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("x");
        File::create(&source).unwrap().set_len(3_000_001).unwrap();
        let tarball = dir.path().join("x.tar");
        let mut made = std::process::Command::new("tar");
        made.args(["--sparse", "--format=gnu", "-C"]).arg(dir.path());
        assert!(made.arg("-cf").arg(&tarball).arg("x").status().unwrap().success());
        let to = dir.path().join("out");
        let done = all(&std::fs::read(&tarball).unwrap(), &to, &["x"], false, false);
        assert_eq!(done.refused.len(), 0, "{done:?}");
        let meta = std::fs::metadata(to.join("x")).unwrap();
        assert_eq!(meta.len(), 3_000_001);
    }
}
