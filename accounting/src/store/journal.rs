//! Day files: the records as they stood in the spool, each sealed with a hash that covers all that came before it.
//!
//! `journal/2026-07-01.jsonl` holds the lines of each record, unchanged, and behind them one seal:
//!
//! ```text
//! {"seq":0,...,"crc32c":"89abcdef"}
//! {"seq":1,...,"crc32c":"01234567"}
//! {"record":"019f...","n":17,"prev":"<sha256 of seal 16>","sha256":"<sha256 of these lines and of prev>"}
//! ```
//!
//! The files are the truth: the index is made from them and can be made again. They are appended to, until they are so old that some
//! of what they hold may not be kept any longer. A day is the day on which a record was folded, so that the files follow each other as
//! the seals do.
//!
//! A reduced day, `2026-07-01.1.jsonl` (the number says how much is gone), takes the place of the whole one. Its seals are as they were, so
//! that the chain goes on and a head that was kept elsewhere is still in it, and have one hash more, `kept`, of what is left of
//! their record: `{"record":..,"n":17,"prev":..,"sha256":..,"kept":".."}`.

use super::StoreError;
use super::reduce::{Reduced, reduced};
use ring::digest;
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where the chain begins.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// How a seal begins; no event does.
const SEAL: &[u8] = b"{\"record\":\"";
/// Nanoseconds of a day.
pub const DAY_NS: u64 = 86_400 * 1_000_000_000;

/// The last seal of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first one.
    pub n: u64,
    /// Its hash, hex.
    pub sha256: String,
    /// Day of its file, days since the epoch.
    pub day: u32,
}

impl Default for Head {
    fn default() -> Self {
        Self { n: 0, sha256: NOTHING.to_owned(), day: 0 }
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The file: its day, days since the epoch, and in the upper eight bits how much of it is gone.
    pub day: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes of its events, without the seal.
    pub length: u64,
}

/// A record as it was found in a day file.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// Id of the record.
    pub id: &'a str,
    /// The seal.
    pub head: Head,
    /// Where it stands.
    pub place: Place,
    /// Its events.
    pub lines: &'a [u8],
}

/// The first line that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {what}", file.display())]
pub struct Broken {
    /// The day file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

#[derive(Deserialize)]
struct Seal {
    record: String,
    n: u64,
    prev: String,
    sha256: String,
    /// Of what is left of a reduced record.
    kept: Option<String>,
}

/// Bits of a file's number that say its day.
const DAY_BITS: u32 = 24;

/// The day of a file.
pub fn day(file: u32) -> u32 {
    file & ((1 << DAY_BITS) - 1)
}

/// How much of a file is gone, 0 for nothing.
pub fn level(file: u32) -> u32 {
    file >> DAY_BITS
}

/// The directory of the day files.
#[derive(Debug, Clone)]
pub struct Journal(PathBuf);

impl Journal {
    /// Names the directory; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The files, in the order of their days; of a day the one of which most is gone: the others are left over.
    ///
    /// # Errors
    /// What reading the directory says.
    pub fn days(&self) -> Result<Vec<u32>, StoreError> {
        let mut files = self.files()?;
        files.sort_unstable_by_key(|file| (day(*file), std::cmp::Reverse(level(*file))));
        files.dedup_by_key(|file| day(*file));
        Ok(files)
    }

    /// Files in whose place a reduced one has come, and that one.
    ///
    /// # Errors
    /// As for [`Journal::days`].
    pub fn left_over(&self) -> Result<Vec<(u32, u32)>, StoreError> {
        let newest = self.days()?;
        let replaced =
            |file: &u32| Some((*file, *newest.iter().find(|new| day(**new) == day(*file) && *new != file)?));
        Ok(self.files()?.iter().filter_map(replaced).collect())
    }

    fn files(&self) -> Result<Vec<u32>, StoreError> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::file(&self.0, e)),
        };
        let mut days = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| StoreError::file(&self.0, e))?.file_name();
            days.extend(name.to_str().and_then(|n| n.strip_suffix(".jsonl")).and_then(file_of));
        }
        Ok(days)
    }

    /// Where a file is.
    pub fn path(&self, file: u32) -> PathBuf {
        let date = record::time::rfc3339(u64::from(day(file)) * DAY_NS);
        let gone = match level(file) {
            0 => String::new(),
            level => format!(".{level}"),
        };
        self.0.join(format!("{}{gone}.jsonl", &date[..10]))
    }

    /// The events of one record.
    ///
    /// # Errors
    /// What reading says, and a place that is not there.
    pub fn read(&self, place: Place) -> Result<Vec<u8>, StoreError> {
        let path = self.path(place.day);
        let mut bytes = vec![0; usize::try_from(place.length).unwrap_or(0)];
        open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, place.offset))
            .map_err(|e| StoreError::file(&path, e))?;
        Ok(bytes)
    }

    /// Goes through the sealed records behind `after`, in order; returns the last seal, and how many bytes of the last
    /// file stand behind it: a writer is at work there, or was cut off.
    ///
    /// # Errors
    /// The first line that is not as it was written, and what `visit` says.
    pub fn walk<E: From<StoreError>>(
        &self,
        after: &Head,
        mut visit: impl FnMut(Sealed<'_>) -> Result<(), E>,
    ) -> Result<(Head, u64), E> {
        let (mut head, mut rest) = (after.clone(), 0);
        let days = self.days()?;
        for (index, number) in days.iter().copied().enumerate().filter(|(_, f)| day(*f) >= after.day) {
            let mut file = DayFile::open(self.path(number), number)?;
            while let Some(lines) = file.next_record()? {
                let seal = file.check(&head, after).map_err(StoreError::from)?;
                let Some((id, sealed)) = seal else { continue };
                // Of a record without lines nothing is kept but its seal.
                if lines > 0 {
                    visit(Sealed {
                        id: &id,
                        head: sealed.clone(),
                        place: file.place(lines),
                        lines: file.events(),
                    })?;
                }
                head = sealed;
            }
            rest = file.unsealed();
            if rest > 0 && index + 1 < days.len() {
                return Err(StoreError::from(file.broken("the last record of this day has no seal")).into());
            }
        }
        Ok((head, rest))
    }
}

impl Journal {
    /// Writes a file again without what is gone, beside the old one, and returns where its records stand now.
    ///
    /// # Errors
    /// The first line that is not as it was written, and what the file system says.
    pub fn reduce(&self, file: u32, gone: Reduced) -> Result<Vec<(String, Head, Place)>, StoreError> {
        let new = day(file) | ((gone as u32) << DAY_BITS);
        let (path, unfinished) = (self.path(new), self.0.join("reduced.tmp"));
        let failed = |e| StoreError::file(&unfinished, e);
        let mut from = DayFile::open(self.path(file), file)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut to = BufWriter::with_capacity(1 << 20, options.open(&unfinished).map_err(failed)?);
        let (mut records, mut offset) = (Vec::new(), 0);
        while from.next_record()?.is_some() {
            let (id, head) = from.seal()?;
            let lines = reduced(from.events(), gone).map_err(|why| from.broken(&why))?;
            let seal = format!("{},\"kept\":\"", from.seal_before_kept());
            let kept = sha256(&[&lines, seal.as_bytes()]);
            let seal = format!("{seal}{kept}\"}}\n");
            to.write_all(&lines).and_then(|()| to.write_all(seal.as_bytes())).map_err(failed)?;
            let length = lines.len() as u64;
            if length > 0 {
                records.push((id, head, Place { day: new, offset, length }));
            }
            offset += length + seal.len() as u64;
        }
        if from.unsealed() > 0 {
            return Err(from.broken("the last record of this day has no seal").into());
        }
        let file = to.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&unfinished, &path).map_err(failed)?;
        self.sync()?;
        Ok(records)
    }

    /// The records of one file.
    ///
    /// # Errors
    /// The first line that is not as it was written.
    pub fn records_of(&self, file: u32) -> Result<Vec<(String, Head, Place)>, StoreError> {
        let (mut from, mut records) = (DayFile::open(self.path(file), file)?, Vec::new());
        while let Some(lines) = from.next_record()? {
            let (id, head) = from.seal()?;
            if lines > 0 {
                records.push((id, head, from.place(lines)));
            }
        }
        Ok(records)
    }

    /// Removes a file that was replaced.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, file: u32) -> Result<(), StoreError> {
        let path = self.path(file);
        std::fs::remove_file(&path).map_err(|e| StoreError::file(&path, e))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.0).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::file(&self.0, e))
    }
}

/// One day file on its way through.
struct DayFile {
    path: PathBuf,
    number: u32,
    reader: BufReader<File>,
    /// Bytes of the record at hand, with its seal.
    bytes: Vec<u8>,
    /// Where its seal begins.
    events: usize,
    /// Where it begins in the file.
    offset: u64,
    line: usize,
    seq: u64,
}

impl DayFile {
    fn open(path: PathBuf, number: u32) -> Result<Self, StoreError> {
        let file = open(&path).map_err(|e| StoreError::file(&path, e))?;
        let reader = BufReader::with_capacity(1 << 20, file);
        Ok(Self { path, number, reader, bytes: Vec::new(), events: 0, offset: 0, line: 0, seq: 0 })
    }

    /// Reads up to the next seal; `None` at the end.
    fn next_record(&mut self) -> Result<Option<usize>, StoreError> {
        self.offset += self.bytes.len() as u64;
        self.bytes.clear();
        self.seq = 0;
        loop {
            let from = self.bytes.len();
            let read = self.reader.read_until(b'\n', &mut self.bytes);
            if read.map_err(|e| StoreError::file(&self.path, e))? == 0 {
                return Ok(None);
            }
            let line = &self.bytes[from..];
            let Some(line) = line.strip_suffix(b"\n") else { return Ok(None) };
            self.line += 1;
            if line.starts_with(SEAL) {
                self.events = from;
                return Ok(Some(from));
            }
            match record::line::decode(line) {
                Ok(event) if event.seq == self.seq => self.seq += 1,
                Ok(event) => {
                    return Err(self.broken(&format!("seq is {}, not {}", event.seq, self.seq)).into());
                }
                Err(fault) => return Err(self.broken(&format!("the line {fault}")).into()),
            }
        }
    }

    /// The seal, checked; `None` for one that comes before those that are wanted.
    fn check(&self, head: &Head, after: &Head) -> Result<Option<(String, Head)>, Broken> {
        let (seal, text) = self.read_seal()?;
        let (key, wanted): (&[u8], &str) = match &seal.kept {
            Some(kept) => (b",\"kept\":\"", kept),
            None => (b",\"sha256\":\"", &seal.sha256),
        };
        // A whole file has whole records.
        if seal.kept.is_some() != (level(self.number) > 0) {
            return Err(self.broken("the seal is not of this kind of file"));
        }
        let at = text.windows(key.len()).rposition(|w| w == key).unwrap_or(0);
        let covered = if seal.kept.is_some() { at + key.len() } else { at };
        let sum = sha256(&[self.events(), &text[..covered]]);
        if sum != wanted {
            return Err(self.broken("the record does not match its seal: it was changed"));
        }
        if seal.n <= after.n {
            return Ok(None);
        }
        if seal.n != head.n + 1 || seal.prev != head.sha256 {
            let what = format!(
                "seal {} does not follow seal {}: records before this line are missing or inserted",
                seal.n, head.n
            );
            return Err(self.broken(&what));
        }
        Ok(Some((seal.record, Head { n: seal.n, sha256: seal.sha256, day: day(self.number) })))
    }

    fn read_seal(&self) -> Result<(Seal, &[u8]), Broken> {
        let text = self.bytes[self.events..].strip_suffix(b"\n").unwrap_or_default();
        let seal =
            serde_json::from_slice(text).map_err(|e| self.broken(&format!("the seal is none: {e}")))?;
        Ok((seal, text))
    }

    /// Id and seal of the record at hand, checked by itself and not against the one before.
    fn seal(&self) -> Result<(String, Head), Broken> {
        let (seal, _) = self.read_seal()?;
        let before = Head { n: seal.n.saturating_sub(1), sha256: seal.prev.clone(), day: day(self.number) };
        let sealed = self.check(&before, &Head::default())?;
        sealed.ok_or_else(|| self.broken("the seal has no number"))
    }

    /// The seal up to where the hash of what is left begins.
    fn seal_before_kept(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes[self.events..]);
        let text = text.trim_end();
        let end = text.find(",\"kept\":").unwrap_or(text.len().saturating_sub(1));
        text[..end].to_owned()
    }

    fn events(&self) -> &[u8] {
        &self.bytes[..self.events]
    }

    fn place(&self, length: usize) -> Place {
        Place { day: self.number, offset: self.offset, length: length as u64 }
    }

    fn unsealed(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn broken(&self, what: &str) -> Broken {
        Broken { file: self.path.clone(), line: self.line.max(1), what: what.to_owned() }
    }
}

/// Appends sealed records; nothing is on the disk before [`Writer::sync`].
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    head: Head,
    file: Option<(u32, File, u64)>,
    waiting: Vec<u8>,
}

impl Writer {
    /// Goes on behind a head; what stands in its file behind `rest` unsealed bytes is cut off.
    ///
    /// # Errors
    /// What the file system says.
    pub fn resume(journal: &Journal, head: Head, rest: u64) -> Result<Self, StoreError> {
        let failed = |e| StoreError::file(&journal.0, e);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&journal.0).map_err(failed)?;
        if rest > 0
            && let Some(last) = journal.days()?.last()
        {
            let path = journal.path(*last);
            let cut = || {
                let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
                file.set_len(file.metadata()?.len().saturating_sub(rest))?;
                file.sync_all()
            };
            cut().map_err(|e| StoreError::file(&path, e))?;
        }
        Ok(Self { journal: journal.clone(), head, file: None, waiting: Vec::new() })
    }

    /// Day of the last seal.
    pub fn day(&self) -> u32 {
        self.head.day
    }

    /// Adds the events of a record; `now_unix_ns` says to which day.
    ///
    /// # Errors
    /// What the file system says when a new day begins.
    pub fn append(&mut self, id: &str, events: &[u8], now_unix_ns: u64) -> Result<(Head, Place), StoreError> {
        let today = u32::try_from(now_unix_ns / DAY_NS).unwrap_or(u32::MAX) & ((1 << DAY_BITS) - 1);
        let day = today.max(self.head.day);
        if self.file.as_ref().is_none_or(|(open, ..)| *open != day) {
            self.sync()?;
            self.file = Some(self.begin(day)?);
        }
        let offset = self.file.as_ref().map_or(0, |(.., length)| *length) + self.waiting.len() as u64;
        self.waiting.extend_from_slice(events);
        let n = self.head.n + 1;
        let seal = format!("{{\"record\":\"{id}\",\"n\":{n},\"prev\":\"{}\"", self.head.sha256);
        let sum = sha256(&[events, seal.as_bytes()]);
        self.waiting.extend_from_slice(format!("{seal},\"sha256\":\"{sum}\"}}\n").as_bytes());
        self.head = Head { n, sha256: sum, day };
        Ok((self.head.clone(), Place { day, offset, length: events.len() as u64 }))
    }

    fn begin(&self, day: u32) -> Result<(u32, File, u64), StoreError> {
        let path = self.journal.path(day);
        let begin = || {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            let mut file = options.open(&path)?;
            let length = file.seek(SeekFrom::End(0))?;
            File::open(&self.journal.0)?.sync_all()?;
            Ok((day, file, length))
        };
        begin().map_err(|e| StoreError::file(&path, e))
    }

    /// Writes what waits and syncs it. On an error the file is as it was before.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let Some((day, file, length)) = &mut self.file else { return Ok(()) };
        if self.waiting.is_empty() {
            return Ok(());
        }
        let written = file.write_all(&self.waiting).and_then(|()| file.sync_data());
        if let Err(e) = written {
            let _ = file.set_len(*length);
            return Err(StoreError::file(&self.journal.path(*day), e));
        }
        *length += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "is no regular file")),
    }
}

/// The number of a file by its name without `.jsonl`.
fn file_of(name: &str) -> Option<u32> {
    let (date, level) = match name.split_once('.') {
        Some((date, level)) => (date, level.parse::<u32>().ok().filter(|level| (1..=3).contains(level))?),
        None => (name, 0),
    };
    Some(day_of(date)? | (level << DAY_BITS))
}

fn day_of(date: &str) -> Option<u32> {
    let date: jiff::civil::Date = date.parse().ok()?;
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    u32::try_from(midnight / 86_400).ok()
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        hex
    })
}
