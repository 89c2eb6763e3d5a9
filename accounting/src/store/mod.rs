//! The site's store: hash-chained day files that are the truth, and an index of them that answers questions fast.
//!
//! | looking for | see |
//! |---|---|
//! | day files and their seals | [`journal`] |
//! | what the index holds, and how it is asked | [`index`] |
//! | from the spool into the store | [`fold`] |
//! | what is kept for how long | [`reduce`] |
//!
//! One writer at a time, held by a lock; readers need none. A record is first sealed and synced in a day file, then
//! indexed, and only then removed from the spool: a crash anywhere loses nothing, and the next writer catches up.

pub mod fold;
pub mod index;
pub mod journal;
pub mod reduce;
mod replace;
mod row;

pub use index::Cursor;
pub(crate) use row::cpus;

use crate::filter::Filter;
use crate::sum::{Groups, Key};
use index::Index;
use journal::{Broken, Head, Journal, Place, Sealed, Writer};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use record::{Damaged, Record};
use reduce::{Reduced, Retention, reduced};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the store gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// A day file is not as it was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A record in a day file is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The index cannot be used; it can be made again.
    #[error("index.sqlite: {fault}; {mend}", fault = .0, mend = mend(.0))]
    Index(#[from] rusqlite::Error),
    /// Somebody else writes.
    #[error("{}: another writer is at work; wait for it", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// Others could replace files of the store under whoever uses it.
    #[error("{}: {why}; give it to the account that runs this, with mode 0700, or name another store", dir.display())]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Index and day files contradict each other.
    #[error("the index knows {index} records, the day files end at {journal}: records were cut off")]
    CutOff {
        /// Last seal that the index knows.
        index: u64,
        /// Last seal that stands in the day files.
        journal: u64,
    },
}

/// What helps against a fault of the index.
fn mend(fault: &rusqlite::Error) -> &'static str {
    match fault.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => {
            "make space on the store's disk and run it again; nothing is lost"
        }
        _ => "remove index.sqlite and run accounting fold: it is made again from the day files",
    }
}

impl StoreError {
    fn file(path: &Path, why: io::Error) -> Self {
        Self::File { path: path.to_owned(), why }
    }
}

/// A store that can be asked.
pub struct Store {
    journal: Journal,
    index: Index,
}

/// A store that can grow.
pub struct StoreWriter {
    store: Store,
    writer: Writer,
    _lock: Flock<File>,
}

/// What a walk through all day files found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Records that are sealed and as they were written.
    pub records: u64,
    /// The last seal: keep it elsewhere, and a later walk proves that nothing before it was changed.
    pub head: Head,
    /// Bytes behind it that have no seal yet.
    pub unsealed: u64,
    /// Whether the seal that was kept elsewhere is still in the chain.
    pub has_kept: bool,
}

impl Store {
    /// Opens the store in a directory for reading; `None` when there is none.
    ///
    /// # Errors
    /// What opening the index says.
    pub fn open(dir: &Path) -> Result<Option<Self>, StoreError> {
        let index = dir.join("index.sqlite");
        if !index.exists() {
            return Ok(None);
        }
        must_be_ours(dir)?;
        Ok(Some(Self { journal: Journal::new(dir.join("journal")), index: Index::open(&index)? }))
    }

    /// The records that a filter means, oldest first.
    ///
    /// # Errors
    /// What index and day files say.
    pub fn select(&self, filter: &Filter) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for (id, place) in self.index.candidates(filter)? {
            let record = self.record_at(&id, place)?;
            if filter.matches(&record) {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// At most `most` records that a filter means, oldest first, behind a place where an earlier page ended; and the place
    /// where this one ends, when there may be more. However much is stored, one page is in memory.
    ///
    /// # Errors
    /// What index and day files say.
    pub fn page(
        &self,
        filter: &Filter,
        after: Option<Cursor>,
        most: usize,
    ) -> Result<(Vec<Record>, Option<Cursor>), StoreError> {
        let (mut records, mut after) = (Vec::new(), after);
        loop {
            let found = self.index.page(filter, after, most)?;
            let is_last = found.len() < most;
            for (id, place, at) in found {
                let record = self.record_at(&id, place)?;
                after = Some(at);
                if filter.matches(&record) {
                    records.push(record);
                }
                if records.len() == most {
                    return Ok((records, after));
                }
            }
            if is_last {
                return Ok((records, None));
            }
        }
    }

    /// Goes through the sealed records behind `after`, in the order in which they were folded; returns the last seal.
    ///
    /// # Errors
    /// The first line that is not as it was written, and what `visit` says.
    pub fn walk_after<E: From<StoreError>>(
        &self,
        after: &Head,
        visit: impl FnMut(Sealed<'_>) -> Result<(), E>,
    ) -> Result<Head, E> {
        self.journal.walk(after, visit).map(|(head, _)| head)
    }

    /// The last seal that is indexed.
    ///
    /// # Errors
    /// What the index says.
    pub fn head(&self) -> Result<Head, StoreError> {
        Ok(self.index.head()?)
    }

    /// Ids that begin or end with a text.
    ///
    /// # Errors
    /// What the index says.
    pub fn ids(&self, part: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.index.ids(part)?)
    }

    /// Whether a record is here.
    ///
    /// # Errors
    /// What the index says.
    pub fn has(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.index.place(id)?.is_some())
    }

    /// One record, and the bytes of its events; `None` when it is not here.
    ///
    /// # Errors
    /// What index and day files say.
    pub fn record(&self, id: &str) -> Result<Option<(Record, Vec<u8>)>, StoreError> {
        let Some(place) = self.index.place(id)? else { return Ok(None) };
        let bytes = self.journal.read(place)?;
        let record = Record::from_bytes(&self.journal.path(place.day), id, &bytes)?;
        Ok(Some((record, bytes)))
    }

    fn record_bytes(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.index.place(id)?.map(|place| self.journal.read(place)).transpose()
    }

    fn record_at(&self, id: &str, place: Place) -> Result<Record, StoreError> {
        let (mut place, mut read) = (place, self.journal.read(place));
        if let Err(StoreError::File { why, .. }) = &read
            && why.kind() == io::ErrorKind::NotFound
            && let Some(now) = self.index.place(id)?
        {
            // A reduced file has come in its place meanwhile.
            (place, read) = (now, self.journal.read(now));
        }
        let bytes = read?;
        Ok(Record::from_bytes(&self.journal.path(place.day), id, &bytes)?)
    }

    /// Sums of the records that a filter means, by keys.
    ///
    /// # Errors
    /// What the index says.
    pub fn sums(&self, filter: &Filter, keys: &[Key]) -> Result<Groups, StoreError> {
        match self.index.sums(filter, keys)? {
            Some(sums) => Ok(sums),
            // What the index has no column for is read from the records themselves.
            None => {
                let mut sums = Groups::new();
                for (id, place) in self.index.candidates(&filter.around_ends())? {
                    crate::sum::add(&mut sums, filter, keys, &self.record_at(&id, place)?);
                }
                Ok(sums)
            }
        }
    }

    /// Checks every line of every day file, every seal, and that the index knows no more than them; looks for a seal that
    /// was kept elsewhere.
    ///
    /// # Errors
    /// The first line that is not as it was written, and what is missing.
    pub fn verify(&self, kept: Option<&str>) -> Result<Proof, StoreError> {
        let known = self.index.head()?;
        let (mut records, mut of_known, mut has_kept) = (0, None, kept.is_none());
        let (head, unsealed) = self.journal.walk::<StoreError>(&Head::default(), |sealed| {
            records += 1;
            has_kept |= kept == Some(sealed.head.sha256.as_str());
            if sealed.head.n == known.n {
                of_known = Some(sealed.head.sha256.clone());
            }
            Ok(())
        })?;
        if head.n < known.n {
            return Err(StoreError::CutOff { index: known.n, journal: head.n });
        }
        if known.n > 0 && of_known.as_ref() != Some(&known.sha256) {
            let file = self.journal.path(known.day);
            let what =
                format!("seal {} is not the one that the index knows: the chain was made anew", known.n);
            return Err(Broken { file, line: 1, what }.into());
        }
        Ok(Proof { records, head, unsealed, has_kept })
    }
}

impl StoreWriter {
    /// Opens or makes the store in a directory. What a writer before left half done is finished first.
    ///
    /// # Errors
    /// `Locked` when another one writes, `Broken` when a day file was changed, or what the file system says.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |why| StoreError::File { path, why }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        must_be_ours(dir)?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock =
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).map_err(failed(&path))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(StoreError::Locked { path }),
            Err((_, why)) => return Err(StoreError::File { path, why: why.into() }),
        };
        let journal = Journal::new(dir.join("journal"));
        let mut index = Index::create(&dir.join("index.sqlite"))?;
        for (old, new) in journal.left_over()? {
            finish(&journal, &mut index, old, new)?;
        }
        let (head, rest) = catch_up(&journal, &mut index)?;
        let writer = Writer::resume(&journal, head, rest)?;
        Ok(Self { store: Store { journal, index }, writer, _lock: lock })
    }

    /// The store, for questions.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes out of all day files what may not be kept any longer; those of today and of the last seal stay as they are.
    ///
    /// # Errors
    /// What index and file system say; what was reduced before stays so, and the rest is done the next time.
    pub fn reduce(&mut self, kept: &Retention, now_unix_ns: u64) -> Result<usize, StoreError> {
        let today = u32::try_from(now_unix_ns / journal::DAY_NS).unwrap_or(u32::MAX);
        let (journal, mut reduced) = (self.store.journal.clone(), 0);
        let last = self.writer.day();
        for file in journal.days()? {
            let day = journal::day(file);
            let Some(gone) = kept.after(today.saturating_sub(day)) else { continue };
            if gone as u32 <= journal::level(file) || day >= last {
                continue;
            }
            let records = journal.reduce(file, gone)?;
            replace(&journal, &mut self.store.index, file, records)?;
            reduced += 1;
        }
        Ok(reduced)
    }

    /// Adds final records with the bytes of their events, and says what became of each. Once it returns, they are on
    /// the disk.
    ///
    /// # Errors
    /// What index and file system say; then none is added.
    pub fn add(&mut self, records: &[(Record, Vec<u8>)], now_unix_ns: u64) -> Result<Vec<Added>, StoreError> {
        let (mut rows, mut added) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
        let mut new: HashMap<&str, &[u8]> = HashMap::new();
        for (record, bytes) in records {
            let known = match new.get(record.id.as_str()) {
                Some(known) => Some(known.to_vec()),
                None => self.store.record_bytes(&record.id)?,
            };
            added.push(match known {
                Some(known) if known == *bytes || is_reduced(&known, bytes) => Added::Duplicate,
                Some(_) => Added::Conflict,
                None => {
                    new.insert(&record.id, bytes);
                    let (head, place) = self.writer.append(&record.id, bytes, now_unix_ns)?;
                    rows.push((record, head, place));
                    Added::Created
                }
            });
        }
        self.writer.sync()?;
        self.store.index.add(&rows)?;
        Ok(added)
    }
}

/// Whether what is known is what is left of these bytes.
fn is_reduced(known: &[u8], bytes: &[u8]) -> bool {
    Reduced::ALL.iter().any(|gone| reduced(bytes, *gone).is_ok_and(|left| left == known))
}

/// Has the index name the records of a reduced file, and removes the file before.
fn replace(
    journal: &Journal,
    index: &mut Index,
    old: u32,
    records: Vec<(String, Head, Place)>,
) -> Result<(), StoreError> {
    let read = |(id, head, place): (String, Head, Place)| {
        let bytes = journal.read(place)?;
        Ok((Record::from_bytes(&journal.path(place.day), &id, &bytes)?, head, place))
    };
    let rows: Vec<_> = records.into_iter().map(read).collect::<Result<_, StoreError>>()?;
    index.replace(old, &rows)?;
    journal.remove(old)
}

/// A writer ended between the new file and the index: the same is done again from the new file.
fn finish(journal: &Journal, index: &mut Index, old: u32, new: u32) -> Result<(), StoreError> {
    let records = journal.records_of(new)?;
    replace(journal, index, old, records)
}

/// What became of a record that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Added {
    /// It is new.
    Created,
    /// It is here already, byte by byte.
    Duplicate,
    /// Another record has its id.
    Conflict,
}

/// Whoever may write to the directory could put a link where a file of the store is made next.
///
/// # Errors
/// `NotOurs` when that is somebody else.
pub fn must_be_ours(dir: &Path) -> Result<(), StoreError> {
    let meta = std::fs::metadata(dir).map_err(|why| StoreError::file(dir, why))?;
    let refuse = |why: String| Err(StoreError::NotOurs { dir: dir.to_owned(), why });
    let us = nix::unistd::geteuid().as_raw();
    match (meta.uid(), meta.mode()) {
        (owner, _) if owner != us => refuse(format!("it belongs to uid {owner}, and uid {us} runs this")),
        (_, mode) if mode & 0o022 != 0 => refuse("others may write to it".to_owned()),
        _ => Ok(()),
    }
}

/// Indexes what stands in the day files and not in the index: all of it, when the index was removed.
fn catch_up(journal: &Journal, index: &mut Index) -> Result<(Head, u64), StoreError> {
    const BATCH: usize = 1000;
    let known = index.head()?;
    let mut waiting: Vec<(Record, Head, Place)> = Vec::new();
    let end = journal.walk::<StoreError>(&known, |sealed| {
        let record = Record::from_bytes(&journal.path(sealed.place.day), sealed.id, sealed.lines)?;
        waiting.push((record, sealed.head, sealed.place));
        if waiting.len() == BATCH {
            index.add(&borrowed(&waiting))?;
            waiting.clear();
        }
        Ok(())
    })?;
    index.add(&borrowed(&waiting))?;
    if end.0.n < known.n {
        return Err(StoreError::CutOff { index: known.n, journal: end.0.n });
    }
    Ok(end)
}

fn borrowed(rows: &[(Record, Head, Place)]) -> Vec<(&Record, Head, Place)> {
    rows.iter().map(|(record, head, place)| (record, head.clone(), *place)).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
