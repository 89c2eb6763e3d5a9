//! `pilot queue backup` and `restore`: store and files in one file that nobody else can read.
//!
//! The archive is a tar: `queue.db` first, as it stood at one moment, then `files/…`, and `end`. What the store names was on disk before
//! the store named it, so the files copied afterwards are all there.

use crate::config::Args;
use anyhow::{Context, Result, bail};
use pilot_store::sqlite::Lock;
use pilot_store::{SqliteStore, Store};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// What else can be done with a queue's store.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// Copy store, inputs, logs and outputs into one new file (mode 0600); the queue may go on meanwhile
    Backup {
        /// The file to make; it holds delegated private keys
        file: PathBuf,
    },
    /// Make store, inputs, logs and outputs from a backup; the queue must not run, and its store must not exist
    Restore {
        /// A file that `pilot queue backup` has made
        file: PathBuf,
    },
    /// Bring the store to the form of this version, as a start does, let it give back room that it no longer needs, and end; the
    /// queue must not run
    Migrate,
}

/// The last entry: a backup without it was cut.
const END: &str = "end";

/// For another's lock on the store.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries it out.
///
/// # Errors
/// Says what cannot be read or written; nothing half done keeps its name.
pub async fn run(action: &Action, args: &Args) -> Result<()> {
    let (store, files) = crate::config::places(args).map_err(anyhow::Error::msg)?;
    match action {
        Action::Backup { file } => backup(&store, &files, file).await,
        Action::Restore { file } => tokio::task::block_in_place(|| restore(file, &store, &files)),
        Action::Migrate => migrate(&store).await,
    }
}

fn new_file(path: &Path) -> Result<File> {
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
    options.open(path).with_context(|| format!("cannot make {}", path.display()))
}

async fn backup(store: &Path, files: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        bail!("{} exists; name a new file", to.display());
    }
    exists(store)?;
    let home = match to.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // Private, so that the copy is nobody else's before its mode is set.
    let private = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(home)
        .with_context(|| format!("cannot write in {}", home.display()))?;
    let copy = private.path().join("queue.db");
    let copied = SqliteStore::copy(store, &copy, PATIENCE).await;
    copied.with_context(|| format!("cannot copy {}", store.display()))?;
    std::fs::set_permissions(&copy, Permissions::from_mode(0o600))?;
    let part = private.path().join("backup.tar");
    let mut tar = tar::Builder::new(new_file(&part)?);
    append(&mut tar, &copy, Path::new("queue.db"))?;
    for name in ["blobs", "logs", "outputs"] {
        tree(&mut tar, &files.join(name), &Path::new("files").join(name))?;
    }
    let mut end = tar::Header::new_gnu();
    end.set_size(0);
    end.set_mode(0o600);
    tar.append_data(&mut end, END, std::io::empty())?;
    tar.into_inner()?.sync_all().with_context(|| format!("cannot write {}", to.display()))?;
    // A link fails when the name was taken meanwhile; a rename would replace it.
    std::fs::hard_link(&part, to).with_context(|| format!("cannot make {}", to.display()))?;
    File::open(home)?.sync_all()?;
    Ok(())
}

async fn migrate(store: &Path) -> Result<()> {
    exists(store)?;
    let _lock = Lock::take(store).map_err(anyhow::Error::msg)?;
    let open = SqliteStore::open(store, PATIENCE).await.map_err(anyhow::Error::msg)?;
    let compacted = open.compact().await;
    open.close().await;
    compacted.with_context(|| format!("cannot write store {} anew", store.display()))
}

fn exists(store: &Path) -> Result<()> {
    match store.is_file() {
        true => Ok(()),
        false => bail!("store {} does not exist; check --store", store.display()),
    }
}

fn tree(tar: &mut tar::Builder<File>, dir: &Path, name: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        match entry.file_type()? {
            kind if kind.is_dir() => tree(tar, &path, &name)?,
            kind if kind.is_file() => append(tar, &path, &name)?,
            _ => {}
        }
    }
    Ok(())
}

/// A log may grow while it is copied: what was there at the beginning counts. One that is gone was forgotten.
fn append(tar: &mut tar::Builder<File>, path: &Path, name: &Path) -> Result<()> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let size = file.metadata()?.len();
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_cksum();
    tar.append_data(&mut header, name, file.take(size))
        .with_context(|| format!("cannot copy {}", path.display()))
}

fn restore(from: &Path, store: &Path, files: &Path) -> Result<()> {
    let archive = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let _lock = Lock::take(store).map_err(anyhow::Error::msg)?;
    for taken in [store, files] {
        let empty = taken.is_dir() && std::fs::read_dir(taken)?.next().is_none();
        if taken.exists() && !empty {
            bail!("{} exists; move it away first", taken.display());
        }
    }
    let part = store.with_extension("restoring");
    let done = unpack(from, archive, &part, files).and_then(|()| {
        // The store comes last: one that is there is whole.
        std::fs::rename(&part, store).with_context(|| format!("cannot make {}", store.display()))
    });
    if done.is_err() {
        // What was written of a backup that is damaged is worth nothing, and would be in the way of a better one.
        std::fs::remove_file(&part).ok();
        std::fs::remove_dir_all(files).ok();
    }
    done
}

fn unpack(from: &Path, archive: File, part: &Path, files: &Path) -> Result<()> {
    let foreign = |name: &Path| {
        anyhow::anyhow!("{}: {} does not belong into a backup of a queue", from.display(), name.display())
    };
    let mut last = PathBuf::new();
    for entry in tar::Archive::new(archive).entries().with_context(|| damaged(from))? {
        let mut entry = entry.with_context(|| damaged(from))?;
        last = entry.path().with_context(|| damaged(from))?.into_owned();
        let plain = last.components().all(|c| matches!(c, Component::Normal(_)));
        if !entry.header().entry_type().is_file() || !plain {
            return Err(foreign(&last));
        }
        let to = match last.strip_prefix("files") {
            Ok(below) => files.join(below),
            Err(_) if last == Path::new("queue.db") => part.to_owned(),
            Err(_) if last == Path::new(END) => continue,
            Err(_) => return Err(foreign(&last)),
        };
        let parent = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let mut file = new_file(&to)?;
        let written = std::io::copy(&mut entry, &mut file);
        let written = written.with_context(|| format!("cannot write {}", to.display()))?;
        if written != entry.size() {
            bail!("{}", damaged(from));
        }
        file.flush().and_then(|()| file.sync_all())?;
    }
    match last == Path::new(END) && part.exists() {
        true => Ok(()),
        false => bail!("{}", damaged(from)),
    }
}

fn damaged(from: &Path) -> String {
    format!("{} is cut, damaged, or no backup of a queue; take another one", from.display())
}
