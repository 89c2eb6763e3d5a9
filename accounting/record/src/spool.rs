//! The spool: `open/<id>.jsonl` while a session runs, `closed/<id>.jsonl` once it is final.
//!
//! What a method returned `Ok` for is on the disk: files are synced before directories, directories before
//! the answer. There is one writer per record; a sweep takes over with [`Spool::reopen`] when that writer is gone,
//! and the session's lock decides who may.
//!
//! A file `reserve` holds space back for final events: on a full disk no session can be opened, but those that
//! run can be closed.

use crate::event::{Denied, Event, Opened};
use crate::line;
use crate::place;
use crate::read::{self, Damaged, Record};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Size of the reserve in bytes: room for the final events of some hundred sessions.
const RESERVE: usize = 256 * 1024;
/// Names of files that say which boot is known begin so.
const MARK: &str = "swept-";
/// What else stands in a spool; the last is what a file system of its own brings along.
const OURS: [&str; 4] = ["open", "closed", "reserve", "lost+found"];

/// A spool directory, such as `/var/spool/pilotage/records`.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

/// A record that can still grow.
#[derive(Debug)]
#[must_use = "a record that is dropped stays open until the sweep finds it"]
pub struct OpenRecord {
    file: File,
    spool: Spool,
    id: String,
    next_seq: u64,
    length: u64,
    finished: bool,
}

impl Spool {
    /// Names the directory; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the spool is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Creates the record of a session with its first event; file and directory are synced.
    ///
    /// # Errors
    /// `AlreadyExists` when the id was used before, `InvalidInput` when it cannot name a file, or what the
    /// file system says. On an error no payload must run.
    pub fn open(&self, opened: &Opened) -> io::Result<OpenRecord> {
        self.prepare()?;
        let id = &opened.record_id;
        if self.closed_path(id)?.exists() {
            return Err(used_before(id));
        }
        let path = self.open_path(id)?;
        let mut record = OpenRecord {
            file: create(&path)?,
            spool: self.clone(),
            id: id.clone(),
            next_seq: 0,
            length: 0,
            finished: false,
        };
        let written =
            record.write(&Event::Open(Box::new(opened.clone()))).and_then(|()| sync_dir(&self.open_dir()));
        if let Err(error) = written {
            // A file without its first event would be a session that never was.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(record)
    }

    /// Writes the record of a refused call to `closed/`; file and directory are synced.
    ///
    /// It gets its name once it is whole: what stands in `closed/` is never half of a record, and a call that is killed
    /// before leaves nothing, since no session would lead anybody to it.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn deny(&self, denied: &Denied) -> io::Result<()> {
        self.prepare()?;
        let (path, closed) = (self.open_path(&denied.record_id)?, self.closed_path(&denied.record_id)?);
        if closed.exists() {
            return Err(used_before(&denied.record_id));
        }
        let bytes = encode(0, &Event::Denied(Box::new(denied.clone())))?;
        match place::nameless(&self.closed_dir()).map_err(|e| named(&self.closed_dir(), e))? {
            Some(mut file) => {
                file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(|e| named(&closed, e))?;
                place::give_name(&file, &closed).map_err(|e| named(&closed, e))?;
            }
            None => write_beside(&path, &closed, &bytes)?,
        }
        sync_dir(&self.closed_dir())
    }

    /// Takes over a record whose writer is gone; a torn last line is cut off.
    ///
    /// A file without any complete event is removed: its writer died before the session began.
    ///
    /// # Errors
    /// `NotFound` when it is not open (any more) or never was, `InvalidData` when it is damaged.
    pub fn reopen(&self, id: &str) -> io::Result<OpenRecord> {
        let path = self.open_path(id)?;
        let refuse = |damaged: Damaged| io::Error::new(damaged.error_kind(), damaged.to_string());
        let mut file = place::open_to_append(&path).map_err(|e| named(&path, e))?;
        let found = read::from(&path, &file).map_err(refuse)?;
        if found.lines.is_empty() {
            fs::remove_file(&path).map_err(|e| named(&path, e))?;
            return Err(io::Error::new(ErrorKind::NotFound, format!("record {id} was never opened")));
        }
        let mut length = found.intact_bytes;
        file.set_len(length)?;
        if !found.ends_with_newline {
            file.write_all(b"\n")?;
            length += 1;
        }
        Ok(OpenRecord {
            file,
            spool: self.clone(),
            id: id.to_owned(),
            next_seq: found.lines.last().map_or(0, |l| l.seq + 1),
            length,
            finished: found.lines.iter().filter_map(|l| l.event.as_ref()).any(Event::is_final),
        })
    }

    /// Corrects a closed record; the file is synced.
    ///
    /// # Errors
    /// `InvalidInput` for another event than `Amend`, `NotFound` when no closed record has this id, `InvalidData` when it is
    /// damaged, or what the file system says; the record then stands as before.
    pub fn amend(&self, id: &str, event: &Event) -> io::Result<()> {
        if !matches!(event, Event::Amend { .. }) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "only amend corrects a closed record"));
        }
        let path = self.closed_path(id)?;
        let mut file = place::open_to_append(&path).map_err(|e| named(&path, e))?;
        let found = read::from(&path, &file).and_then(|found| found.must_be_final(&path));
        let found = found.map_err(|d| io::Error::new(d.error_kind(), d.to_string()))?;
        let newline = if found.ends_with_newline { &b""[..] } else { b"\n" };
        let line = encode(found.lines.len() as u64, event)?;
        let written = file.write_all(&[newline, &line].concat()).and_then(|()| file.sync_data());
        if written.is_err() {
            let _ = file.set_len(found.intact_bytes);
        }
        written.map_err(|e| named(&path, e))
    }

    /// The bytes of a closed record and what they say, for who takes it over with [`Spool::remove_closed`].
    ///
    /// # Errors
    /// [`Damaged`] when the file is missing, unreadable or damaged.
    pub fn closed_bytes(&self, id: &str) -> Result<(Record, Vec<u8>), Damaged> {
        let unnamed = |e: io::Error| Damaged::file(&self.dir, e.kind(), e.to_string());
        let path = self.closed_path(id).map_err(unnamed)?;
        let bytes = read::bytes(&path)?;
        Record::from_bytes(&path, id, &bytes).map(|record| (record, bytes))
    }

    /// The bytes of a record that is still open; a line at its end that is being written may be cut.
    ///
    /// # Errors
    /// [`Damaged`] when the file is missing or unreadable.
    pub fn open_bytes(&self, id: &str) -> Result<Vec<u8>, Damaged> {
        let unnamed = |e: io::Error| Damaged::file(&self.dir, e.kind(), e.to_string());
        read::bytes(&self.open_path(id).map_err(unnamed)?)
    }

    /// Removes closed records that are kept elsewhere by now.
    ///
    /// # Errors
    /// What the file system says; those before the failing one are gone.
    pub fn remove_closed<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        for id in ids {
            let path = self.closed_path(id)?;
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(named(&path, e)),
                _ => {}
            }
        }
        sync_dir(&self.closed_dir())
    }

    /// The ids of all closed records, in order; none when there is no spool yet.
    ///
    /// # Errors
    /// What reading the directory says.
    pub fn closed_ids(&self) -> io::Result<Vec<String>> {
        ids(&self.closed_dir())
    }

    /// Whether [`Spool::close_lost_to_reboot`] has nothing more to do in this boot, or there is no spool.
    pub fn knows_boot(&self, boot_id: &str) -> bool {
        boot_mark(boot_id).is_ok_and(|mark| self.dir.join(mark).exists()) || !self.dir.exists()
    }

    /// Closes what runs no more because the host was rebooted: open records of another boot get a `lost` event that
    /// ends at their last checkpoint. Returns how many were closed. Two must not do this at the same time.
    ///
    /// Once all are closed the spool is marked, see [`Spool::knows_boot`]; not before, so that one who is ended in the
    /// middle, or may not write, leaves the rest to the next one.
    ///
    /// # Errors
    /// What the file system says. Records that are damaged stay as they are, and are no error.
    pub fn close_lost_to_reboot(&self, boot_id: &str) -> io::Result<usize> {
        let mark = boot_mark(boot_id)?;
        let (mut closed, mut failed) = (0, None);
        for id in self.open_ids()? {
            match self.close_if_of_another_boot(&id, boot_id) {
                Ok(done) => closed += usize::from(done),
                Err(e) if is_beyond_help(e.kind()) => {}
                Err(e) => failed = Some(e),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        match create(&self.dir.join(&mark)) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
                return Ok(closed);
            }
            Err(e) => return Err(e),
        }
        for entry in fs::read_dir(&self.dir).map_err(|e| named(&self.dir, e))?.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| n.starts_with(MARK) && n != mark) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(closed)
    }

    fn close_if_of_another_boot(&self, id: &str, boot_id: &str) -> io::Result<bool> {
        let record = self.record(id).map_err(|d| io::Error::new(d.error_kind(), d.to_string()))?;
        let boot = record.opened.as_ref().map(|o| &o.boot_id).or(record.denied.as_ref().map(|d| &d.boot_id));
        if boot.is_none_or(|boot| boot == boot_id) {
            return Ok(false);
        }
        let ran_for = record.usage.as_ref().map_or(0, |u| u.wall_ns);
        let end_unix_ns = record.start_unix_ns().saturating_add(ran_for);
        let (usage, cause) = (None, "reboot".to_owned());
        let event = Event::Lost { end_unix_ns, usage, cause, estimated: true, leftovers: 0 };
        self.reopen(id).and_then(|open| open.close(&event)).map(|()| true)
    }

    /// The ids of all open records, oldest first (UUIDv7 sorts by time); none when there is no spool yet.
    ///
    /// # Errors
    /// What reading the directory says.
    pub fn open_ids(&self) -> io::Result<Vec<String>> {
        ids(&self.open_dir())
    }

    /// The ids of all records, open and closed, in order; none when there is no spool yet.
    ///
    /// # Errors
    /// What reading the directories says.
    pub fn ids(&self) -> io::Result<Vec<String>> {
        // Open ones are listed first: a record that is closed meanwhile is then seen in both, never in none.
        let (open, closed) = (self.open_ids()?, ids(&self.closed_dir())?);
        let mut all: Vec<String> = open.into_iter().chain(closed).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// All records, open and closed, ordered by id; none when there is no spool yet. Files are read one by one.
    ///
    /// # Errors
    /// What reading the directories says; a damaged file is an item, not an error.
    pub fn records(&self) -> io::Result<impl Iterator<Item = Result<Record, Damaged>> + use<>> {
        let spool = self.clone();
        Ok(self.ids()?.into_iter().map(move |id| spool.record(&id)))
    }

    /// What stands in the spool and is neither a record nor anything else of ours, each named as damage.
    ///
    /// # Errors
    /// What reading the directories says.
    pub fn strangers(&self) -> io::Result<Vec<Damaged>> {
        let ours = |name: &str| OURS.contains(&name) || name.starts_with(MARK);
        let mut found = strangers_in(&self.dir, ours)?;
        for dir in [self.open_dir(), self.closed_dir()] {
            let is_record = |name: &str| name.strip_suffix(".jsonl").is_some_and(|id| file_name(id).is_ok());
            found.extend(strangers_in(&dir, is_record)?);
        }
        Ok(found)
    }

    /// One record by its id, wherever it stands.
    ///
    /// # Errors
    /// [`Damaged`] when the file is missing, unreadable or damaged.
    pub fn record(&self, id: &str) -> Result<Record, Damaged> {
        self.found(id).and_then(|(path, found)| Record::fold(&path, id, found))
    }

    /// The lines of one record, for those who want each event.
    ///
    /// # Errors
    /// As [`Spool::record`].
    pub fn lines(&self, id: &str) -> Result<Vec<line::Line>, Damaged> {
        self.found(id).map(|(_, found)| found.lines)
    }

    fn found(&self, id: &str) -> Result<(PathBuf, read::Found), Damaged> {
        let unnamed = |e: io::Error| Damaged::file(&self.dir, e.kind(), e.to_string());
        let open = self.open_path(id).map_err(unnamed)?;
        match read::file(&open) {
            // It may have been closed between the listing and now.
            Err(damaged) if damaged.error_kind() == ErrorKind::NotFound => {
                let closed = self.closed_path(id).map_err(unnamed)?;
                let found = read::file(&closed).and_then(|found| found.must_be_final(&closed))?;
                Ok((closed, found))
            }
            other => other.map(|found| (open, found)),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        for dir in [self.open_dir(), self.closed_dir()] {
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => sync_dir(&self.dir)?,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(named(&dir, e)),
            }
        }
        self.hold_reserve()
    }

    fn hold_reserve(&self) -> io::Result<()> {
        let path = self.reserve_path();
        if path.exists() {
            return Ok(());
        }
        let mut file = match create(&path) {
            // Another session was opened at the same time.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        };
        // Written, not merely sized: a hole reserves nothing.
        file.write_all(&vec![0; RESERVE]).and_then(|()| file.sync_all()).map_err(|e| {
            let _ = fs::remove_file(&path);
            named(&path, e)
        })
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    fn open_dir(&self) -> PathBuf {
        self.dir.join("open")
    }

    fn closed_dir(&self) -> PathBuf {
        self.dir.join("closed")
    }

    fn open_path(&self, id: &str) -> io::Result<PathBuf> {
        file_name(id).map(|name| self.open_dir().join(name))
    }

    fn closed_path(&self, id: &str) -> io::Result<PathBuf> {
        file_name(id).map(|name| self.closed_dir().join(name))
    }
}

impl OpenRecord {
    /// The record's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Appends an event that is not the last one, and syncs it.
    ///
    /// # Errors
    /// `InvalidInput` for a final event (see [`OpenRecord::close`]) or a record that has one; else what the file
    /// system says, and then the record stands as it was before the call.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        if event.is_final() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "a final event closes the record: use close",
            ));
        }
        self.write(event)
    }

    /// Appends the final event, syncs it, and moves the record to `closed/`; both directories are synced.
    ///
    /// A record that already has its final event (its writer died before the move) is only moved.
    ///
    /// # Errors
    /// `InvalidInput` for an event that is not `Close` or `Lost`, `AlreadyExists` when a closed record has this
    /// id, or what the file system says; the record then stays open for the sweep.
    pub fn close(mut self, event: &Event) -> io::Result<()> {
        if !matches!(event, Event::Close { .. } | Event::Lost { .. }) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "only close and lost end a record"));
        }
        let (from, to) = (self.spool.open_path(&self.id)?, self.spool.closed_path(&self.id)?);
        if to.exists() {
            return Err(used_before(&self.id));
        }
        if !self.finished {
            self.write(event)?;
        }
        fs::rename(&from, &to).map_err(|e| named(&from, e))?;
        sync_dir(&self.spool.closed_dir())?;
        sync_dir(&self.spool.open_dir())
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        if self.finished {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("record {} is final", self.id)));
        }
        let bytes = encode(self.next_seq, event)?;
        let mut written = self.write_line(&bytes);
        if event.is_final() && written.as_ref().is_err_and(|e| e.kind() == ErrorKind::StorageFull) {
            let _ = fs::remove_file(self.spool.reserve_path());
            written = self.write_line(&bytes);
        }
        written.map_err(|e| io::Error::new(e.kind(), format!("record {}: {e}", self.id)))?;
        self.next_seq += 1;
        self.length += bytes.len() as u64;
        self.finished = event.is_final();
        Ok(())
    }

    fn write_line(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Part of the line may stand: without this the next event would be glued to it.
            let _ = self.file.set_len(self.length);
        }
        written
    }
}

fn strangers_in(dir: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<Vec<Damaged>> {
    let mut found = Vec::new();
    for name in names(dir)? {
        if !name.to_str().is_some_and(&is_ours) {
            let what = "does not belong in the spool; move it away".to_owned();
            found.push(Damaged::file(&dir.join(name), ErrorKind::InvalidData, what));
        }
    }
    Ok(found)
}

/// The name of the file that says that a boot is known.
fn boot_mark(boot_id: &str) -> io::Result<String> {
    Ok(format!("{MARK}{}", file_name(boot_id)?.trim_end_matches(".jsonl")))
}

/// What is wrong with a record today will be so tomorrow: damaged, without its first event, closed under the same id, gone.
fn is_beyond_help(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    matches!(kind, InvalidData | UnexpectedEof | AlreadyExists | NotFound)
}

fn encode(seq: u64, event: &Event) -> io::Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(line::encode(seq, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), event)?)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path).map_err(|e| named(path, e))
}

/// Where files cannot be nameless: written under a name in `open/`, then moved. Killed in between, it stays there until the
/// next boot closes what is open.
fn write_beside(open: &Path, closed: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(open)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let moved = written.and_then(|()| fs::rename(open, closed));
    moved.map_err(|e| {
        let _ = fs::remove_file(open);
        named(open, e)
    })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    place::open_dir(dir).and_then(|d| d.sync_all()).map_err(|e| named(dir, e))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn used_before(id: &str) -> io::Error {
    io::Error::new(ErrorKind::AlreadyExists, format!("record {id} is closed already"))
}

/// Ids become file names, so only what a UUID or ULID is made of is let through.
fn file_name(id: &str) -> io::Result<String> {
    let good = (1..=64).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if !good {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "a record id has 1 to 64 letters, digits and hyphens",
        ));
    }
    Ok(format!("{id}.jsonl"))
}

fn ids(dir: &Path) -> io::Result<Vec<String>> {
    let id = |name: OsString| {
        let id = name.to_str()?.strip_suffix(".jsonl")?;
        file_name(id).ok().map(|_| id.to_owned())
    };
    let mut ids: Vec<String> = names(dir)?.into_iter().filter_map(id).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// All names in a directory; none when it is not there.
fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(named(dir, e)),
    };
    entries.map(|entry| entry.map(|e| e.file_name()).map_err(|e| named(dir, e))).collect()
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
