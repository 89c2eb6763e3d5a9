//! The queue's files beside the store: blobs, logs and outputs.
//!
//! ```text
//! DIR/blobs/ab/abcd…   content by its SHA-256
//! DIR/logs/ATTEMPT.stdout, DIR/logs/ATTEMPT.stderr
//! DIR/outputs/ATTEMPT.tar
//! DIR/tmp/             uploads under way; emptied at the start
//! ```

use crate::retention::Bytes;
use futures_util::{Stream, StreamExt};
use openssl::sha::Sha256;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

/// The last line of a log that reached its limit.
const MARKER: &[u8] = b"\n[pilot queue: the log reached its size limit, the rest was dropped]\n";

/// Which of a payload's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Channel {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The directories, and the limit of a log in bytes.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    log_limit: u64,
    /// Two chunks of one log must not be appended at once; which of these an attempt takes follows from its id.
    appending: [Mutex<()>; 16],
}

/// Room on the disk, for an ordinary account, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Used and free.
    pub total: u64,
    /// Free.
    pub free: u64,
}

impl Room {
    /// Whether more than so many percent are used.
    pub fn is_above(&self, percent: u8) -> bool {
        let used = u128::from(self.total.saturating_sub(self.free));
        used * 100 > u128::from(self.total) * u128::from(percent)
    }
}

/// An upload that is complete but not yet kept.
#[derive(Debug)]
pub struct Received {
    file: NamedTempFile,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// Small logs, with their offsets, and a small output, as they came with a result.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Small {
    /// The rest of standard output.
    pub stdout: Option<(u64, Vec<u8>)>,
    /// The rest of standard error.
    pub stderr: Option<(u64, Vec<u8>)>,
    /// Tar of the output files.
    pub output: Option<Vec<u8>>,
}

/// What to do with a chunk of a log.
#[derive(Debug, PartialEq, Eq)]
enum Append {
    /// Write so many bytes of it, and the marker if it was cut.
    Write(usize, bool),
    /// The limit was reached before: pretend.
    Drop,
    /// It does not fit on; the log goes on here.
    Wrong(u64),
}

fn decide(length: u64, limit: u64, offset: u64, chunk: usize) -> Append {
    if length > limit {
        return if offset >= limit { Append::Drop } else { Append::Wrong(limit) };
    }
    if offset != length {
        return Append::Wrong(length);
    }
    let room = usize::try_from(limit - length).unwrap_or(usize::MAX);
    if chunk > room { Append::Write(room, true) } else { Append::Write(chunk, false) }
}

/// Why bytes cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// More than is allowed.
    #[error("the {0} is larger than {1} bytes")]
    TooLarge(&'static str, u64),
    /// The sender stopped in the middle.
    #[error("the {0} broke off: {1}")]
    BrokenOff(&'static str, String),
    /// A chunk of a log does not follow on; it goes on here.
    #[error("the log goes on at offset {0}")]
    WrongOffset(u64),
    /// The disk is too full to take more.
    #[error("no room for more: {0}")]
    Full(String),
    /// The system refuses.
    #[error("{0}: {1}")]
    Failed(&'static str, #[source] std::io::Error),
}

/// Bytes of all files below a directory. What vanishes meanwhile, or cannot be read, takes nothing.
fn below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => below(&entry.path()),
        _ => entry.metadata().map_or(0, |found| found.len()),
    };
    entries.flatten().map(bytes).sum()
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> FileError {
    move |e| FileError::Failed(what, e)
}

impl Files {
    /// Makes the directories (mode 0700) and empties `tmp`.
    pub fn open(dir: &Path, log_limit: u64) -> anyhow::Result<Self> {
        use anyhow::Context;
        for name in ["blobs", "logs", "outputs", "tmp"] {
            let path = dir.join(name);
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.with_context(|| format!("directory {}", path.display()))?;
        }
        for stale in std::fs::read_dir(dir.join("tmp"))? {
            std::fs::remove_file(stale?.path())?;
        }
        Ok(Self { dir: dir.to_owned(), log_limit, appending: Default::default() })
    }

    /// Writes a small file and removes it again, so that one knows whether writing works.
    pub fn probe(&self) -> Result<(), FileError> {
        let error = failed("writing a file");
        let mut file = NamedTempFile::new_in(self.dir.join("tmp")).map_err(&error)?;
        file.write_all(&[0; 4096]).and_then(|()| file.as_file().sync_all()).map_err(&error)
    }

    /// How much room the disk has.
    pub fn room(&self) -> Result<Room, FileError> {
        let found = nix::sys::statvfs::statvfs(&self.dir);
        let found = found.map_err(|e| FileError::Failed("asking for free space", e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        let used = found.blocks().saturating_sub(found.blocks_free());
        Ok(Room {
            total: bytes(used.saturating_add(found.blocks_available())),
            free: bytes(found.blocks_available()),
        })
    }

    /// Fails when the disk is fuller than `high_water` percent.
    pub fn check_room(&self, high_water: u8) -> Result<(), FileError> {
        let room = self.room()?;
        match room.is_above(high_water) {
            true => Err(FileError::Full(format!("{} of {} bytes are free", room.free, room.total))),
            false => Ok(()),
        }
    }

    /// What all files of each kind take.
    pub fn taken(&self) -> Bytes {
        let of = |name: &str| below(&self.dir.join(name));
        Bytes { inputs: of("blobs"), logs: of("logs"), outputs: of("outputs") }
    }

    /// What the files of one payload take: its attempts', and its inputs, whose bytes the store knows.
    pub fn of(&self, attempts: &[Uuid], inputs: u64) -> Bytes {
        let length = |path: PathBuf| std::fs::symlink_metadata(path).map_or(0, |found| found.len());
        let mut bytes = Bytes { inputs, ..Bytes::default() };
        for id in attempts {
            bytes.logs += length(self.log(*id, Channel::Stdout)) + length(self.log(*id, Channel::Stderr));
            bytes.outputs += length(self.output(*id));
        }
        bytes
    }

    /// Removes logs and outputs of attempts, and blobs; what is gone already is fine.
    pub fn remove(&self, attempts: &[Uuid], blobs: &[String]) -> Result<(), FileError> {
        let of = attempts
            .iter()
            .flat_map(|a| [self.log(*a, Channel::Stdout), self.log(*a, Channel::Stderr), self.output(*a)]);
        for path in of.chain(blobs.iter().map(|hash| self.blob(hash))) {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FileError::Failed("removing what is over", e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Path of a blob; the name has been checked to be 64 hex digits.
    pub fn blob(&self, sha256: &str) -> PathBuf {
        self.dir.join("blobs").join(&sha256[..2]).join(sha256)
    }

    /// Path of an attempt's output.
    pub fn output(&self, attempt: Uuid) -> PathBuf {
        self.dir.join("outputs").join(format!("{attempt}.tar"))
    }

    fn log(&self, attempt: Uuid, channel: Channel) -> PathBuf {
        self.dir.join("logs").join(format!("{attempt}.{}", channel.word()))
    }

    /// Writes a body of at most `limit` bytes into a temporary file, computing its hash on the way. When this returns, the
    /// bytes are on disk, as many as were counted.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        body: impl Stream<Item = Result<bytes::Bytes, E>> + Send,
        limit: u64,
        what: &'static str,
    ) -> Result<Received, FileError> {
        use tokio::io::AsyncWriteExt;
        let error = failed("writing an upload");
        let temporary =
            NamedTempFile::new_in(self.dir.join("tmp")).map_err(failed("making a temporary file"))?;
        let (file, path) = temporary.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let (mut size, mut hash) = (0u64, Sha256::new());
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| FileError::BrokenOff(what, e.to_string()))?;
            size += chunk.len() as u64;
            if size > limit {
                return Err(FileError::TooLarge(what, limit));
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(&error)?;
        }
        // A write is only begun when it returns; its error shows when it is flushed, and nowhere else.
        file.flush().await.map_err(&error)?;
        file.sync_all().await.map_err(&error)?;
        let length = file.metadata().await.map_err(&error)?.len();
        if length != size {
            let text = format!("{length} bytes are on disk, {size} were sent");
            return Err(error(std::io::Error::other(text)));
        }
        let file = NamedTempFile::from_parts(file.into_std().await, path);
        Ok(Received { file, size, sha256: hex::encode(hash.finish()) })
    }

    /// Stores what came with a result: logs first. The end of a log that is there already was stored by the same result before.
    ///
    /// # Errors
    /// As for [`Files::append`] and [`Files::keep`].
    pub fn keep_attached(&self, attempt: Uuid, small: &Small) -> Result<(), FileError> {
        for (channel, rest) in [(Channel::Stdout, &small.stdout), (Channel::Stderr, &small.stderr)] {
            let Some((offset, bytes)) = rest else { continue };
            match self.append(attempt, channel, *offset, bytes) {
                Err(FileError::WrongOffset(at)) if at == offset.saturating_add(bytes.len() as u64) => {}
                other => other?,
            }
        }
        let Some(bytes) = &small.output else { return Ok(()) };
        let error = failed("writing an output");
        let mut file = NamedTempFile::new_in(self.dir.join("tmp")).map_err(&error)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(&error)?;
        let received = Received { file, size: bytes.len() as u64, sha256: String::new() };
        self.keep(received, &self.output(attempt))
    }

    /// Gives an upload its name; whatever had it before is replaced in one step.
    pub fn keep(&self, received: Received, name: &Path) -> Result<(), FileError> {
        let parent = name.parent().unwrap_or(&self.dir);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(failed("making a directory"))?;
        received.file.persist(name).map_err(|e| FileError::Failed("keeping an upload", e.error))?;
        // The rename is durable only once its directory is.
        let sync = |dir: &Path| std::fs::File::open(dir).and_then(|d| d.sync_all());
        sync(parent).and_then(|()| sync(&self.dir.join("blobs"))).map_err(failed("keeping an upload"))
    }

    /// Appends a chunk; 409 with the right offset when it does not follow on.
    pub fn append(
        &self,
        attempt: Uuid,
        channel: Channel,
        offset: u64,
        chunk: &[u8],
    ) -> Result<(), FileError> {
        let stripe = usize::from(attempt.as_bytes()[15]) % self.appending.len();
        let _one_at_a_time = self.appending[stripe].lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.log(attempt, channel);
        let error = failed("appending to a log");
        let open = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let mut file = open.map_err(&error)?;
        let length = file.metadata().map_err(&error)?.len();
        match decide(length, self.log_limit, offset, chunk.len()) {
            Append::Wrong(right) => Err(FileError::WrongOffset(right)),
            Append::Drop => Ok(()),
            Append::Write(n, cut) => {
                let marker: &[u8] = if cut { MARKER } else { b"" };
                let written = file
                    .write_all(&chunk[..n])
                    .and_then(|()| file.write_all(marker))
                    .and_then(|()| file.sync_data());
                // Half a chunk would move the offset at which its sender tries again.
                written.map_err(|e| match file.set_len(length) {
                    Ok(()) => error(e),
                    Err(worse) => error(worse),
                })
            }
        }
    }

    /// Up to `most` bytes of a log from `offset` on, and whether they reach its present end. No log yet is an empty one.
    pub fn read_log(
        &self,
        attempt: Uuid,
        channel: Channel,
        offset: u64,
        most: u64,
    ) -> Result<(Vec<u8>, bool), FileError> {
        let error = failed("reading a log");
        let mut file = match std::fs::File::open(self.log(attempt, channel)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), true)),
            other => other.map_err(&error)?,
        };
        let length = file.metadata().map_err(&error)?.len();
        file.seek(SeekFrom::Start(offset)).map_err(&error)?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(&error)?;
        let end = offset.saturating_add(bytes.len() as u64) >= length;
        Ok((bytes, end))
    }

    /// A file as a stream; `None` when there is none.
    pub async fn stream(&self, path: &Path) -> Result<Option<ReaderStream<tokio::fs::File>>, FileError> {
        match tokio::fs::File::open(path).await {
            Ok(file) => Ok(Some(ReaderStream::with_capacity(file, 64 << 10))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(FileError::Failed("opening a file", e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_in_percent() {
        let room = |free| Room { total: 1000, free };
        assert!(!room(50).is_above(95) && room(49).is_above(95));
        assert!(!Room { total: 0, free: 0 }.is_above(0));
    }

    #[test]
    fn chunks_follow_on_or_learn_where() {
        assert_eq!(decide(0, 10, 0, 4), Append::Write(4, false));
        assert_eq!(decide(4, 10, 4, 6), Append::Write(6, false));
        assert_eq!(decide(4, 10, 0, 4), Append::Wrong(4));
        assert_eq!(decide(4, 10, 9, 1), Append::Wrong(4));
        assert_eq!(decide(10, 10, 10, 1), Append::Write(0, true));
        assert_eq!(decide(8, 10, 8, 5), Append::Write(2, true));
        assert_eq!(decide(70, 10, 13, 5), Append::Drop);
        assert_eq!(decide(70, 10, 3, 5), Append::Wrong(10));
    }

    #[test]
    fn what_came_with_a_result_may_come_again_and_a_gap_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path(), 100).unwrap();
        let id = Uuid::now_v7();
        files.append(id, Channel::Stdout, 0, b"first, ").unwrap();
        let small = |offset| Small {
            stdout: Some((offset, b"last".to_vec())),
            output: Some(b"tar".to_vec()),
            ..Small::default()
        };
        for _ in 0..2 {
            files.keep_attached(id, &small(7)).unwrap();
            assert_eq!(files.read_log(id, Channel::Stdout, 0, 100).unwrap().0, b"first, last");
            assert_eq!(std::fs::read(files.output(id)).unwrap(), b"tar");
        }
        assert!(matches!(files.keep_attached(id, &small(20)), Err(FileError::WrongOffset(11))));
    }

    #[test]
    fn a_full_log_ends_with_one_marker() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path(), 8).unwrap();
        let id = Uuid::now_v7();
        files.append(id, Channel::Stdout, 0, b"12345").unwrap();
        files.append(id, Channel::Stdout, 5, b"67890").unwrap();
        files.append(id, Channel::Stdout, 10, b"more").unwrap();
        let (text, end) = files.read_log(id, Channel::Stdout, 0, 1000).unwrap();
        assert_eq!(text, [b"12345678", MARKER].concat());
        assert!(end);
        assert_eq!(files.read_log(id, Channel::Stderr, 0, 1000).unwrap(), (vec![], true));
    }
}
