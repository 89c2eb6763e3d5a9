//! Sessions: one identity switch, from the record's opening to its closing.
//!
//! A session is a directory `/run/glexec/sessions/<id>` of root with a file `state` (`key=value` lines, written
//! once and complete) and a file `lock` that its supervisor holds. Whoever can take the lock knows that the supervisor is gone.

use crate::failure::Failure;
use crate::run::child_processes;
use crate::session::cgroup::{Leaf, membership};
use crate::sys::process;
use identity::VerifiedIdentity;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;
use policy::ports::PortRange;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long others may look for unfinished sessions while one is to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// Root's directory for everything that ends with the boot.
pub(crate) const RUN_DIR: &str = "/run/glexec";

/// What a session's state file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionState {
    /// Equal to the record's id.
    pub(crate) id: String,
    /// Uid that called.
    pub(crate) caller_uid: u32,
    /// Uid of the payload.
    pub(crate) uid: u32,
    /// Primary gid of the payload.
    pub(crate) gid: u32,
    /// Process that supervises.
    pub(crate) supervisor: i32,
    /// When that process was born, in ticks since boot: its id alone may be somebody else's by now.
    pub(crate) born: Option<u64>,
    /// The cgroup leaf, when there is one.
    pub(crate) leaf: Option<Leaf>,
    /// The spool that holds the open record.
    pub(crate) spool: PathBuf,
    /// Made for the payload, to be removed at the end; not named before it was made, or it may be another's.
    pub(crate) work_dir: Option<PathBuf>,
    /// The payload's copy of the proxy with a name of this session's own, to be removed at the end.
    pub(crate) proxy: Option<PathBuf>,
    /// Whose the payload is: a fingerprint of subject and FQANs, by which a later call finds copies to renew.
    pub(crate) identity: String,
    /// Number of the payload's process namespace, when it has one.
    pub(crate) pid_namespace: Option<u64>,
    /// Ports that are the payload's alone.
    pub(crate) ports: Option<PortRange>,
}

/// A session that this process owns.
#[derive(Debug)]
pub(crate) struct StoredSession {
    dir: PathBuf,
    state: SessionState,
    _lock: Flock<File>,
}

/// A session found on this host.
pub(crate) struct Found {
    /// Its state.
    pub(crate) state: SessionState,
    /// Its lock, when nobody held it: the supervisor is gone and the finder must close the session.
    pub(crate) orphaned: Option<Flock<File>>,
}

/// A fresh id: UUIDv7 (RFC 9562), so that ids sort by time.
pub(crate) fn new_id() -> Result<String, Failure> {
    let mut random = [0; 10];
    process::random(&mut random).map_err(|e| Failure::site(format!("getrandom: {e}")))?;
    let id = uuid::Builder::from_unix_timestamp_millis(process::unix_ns() / 1_000_000, &random).into_uuid();
    Ok(id.to_string())
}

/// Tells one identity from another: the same person with another role is another one.
pub(crate) fn fingerprint(identity: &VerifiedIdentity) -> String {
    let mut hash = hmac_sha256::Hash::new();
    hash.update(identity.subject.to_string());
    for fqan in identity.fqans() {
        hash.update([0]);
        hash.update(fqan.to_string());
    }
    record::text::hex(&hash.finalize())
}

fn sessions_dir() -> PathBuf {
    Path::new(RUN_DIR).join("sessions")
}

impl StoredSession {
    /// Creates the session and takes its lock.
    pub(crate) fn create(state: SessionState) -> Result<Self, Failure> {
        let dir = sessions_dir().join(&state.id);
        Self::build(state, &dir).map_err(|e| {
            remove_dir(&dir);
            Failure::site(format!("{}: {e}", dir.display()))
        })
    }

    fn build(state: SessionState, dir: &Path) -> io::Result<Self> {
        DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR)?;
        let _making = making_soon()?;
        DirBuilder::new().mode(0o700).recursive(true).create(sessions_dir())?;
        DirBuilder::new().mode(0o700).create(dir)?;
        let lock = create_file(&dir.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| io::Error::from(e))?;
        write_state(dir, &state)?;
        Ok(Self { dir: dir.to_owned(), state, _lock: lock })
    }

    /// As it is on record.
    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }

    /// Says how it turned out. Failing to do so leaves a name of something that is not there, or a directory of the payload's.
    pub(crate) fn correct(&mut self, state: SessionState) {
        if state != self.state {
            let _ = write_state(&self.dir, &state);
            self.state = state;
        }
    }

    /// Removes the directory; the lock goes with it.
    pub(crate) fn remove(self) {
        remove_dir(&self.dir);
    }
}

/// Whether the session is still there.
pub(crate) fn exists(id: &str) -> bool {
    sessions_dir().join(id).exists()
}

/// The session with this id, when it can be read.
pub(crate) fn by_id(id: &str) -> Option<Found> {
    find(&sessions_dir().join(id)).ok().flatten()
}

/// The state appears whole or not at all: a directory without one is a session in the making.
fn write_state(dir: &Path, state: &SessionState) -> io::Result<()> {
    let unfinished = dir.join("state.new");
    create_file(&unfinished)?.write_all(&state.to_text())?;
    fs::rename(&unfinished, dir.join("state"))
}

/// The most processes that any try to close the session has found. A try that takes too long is followed by another, which
/// finds fewer: those that the first one killed are leftovers all the same. The caller holds the session's lock.
pub(crate) fn most_leftovers(id: &str, found: usize) -> usize {
    let file = sessions_dir().join(id).join("leftovers");
    let before = fs::read_to_string(&file).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if found > before {
        // Where it cannot be written, as on a full disk, the number of the last try has to do.
        let _ = fs::write(&file, found.to_string());
    }
    found.max(before)
}

/// Removes the directory of a session that was found orphaned.
pub(crate) fn remove(id: &str) {
    remove_dir(&sessions_dir().join(id));
}

/// The state goes first: without it nobody takes the rest for a session. Needs no descriptor, so it works when none is left.
fn remove_dir(dir: &Path) {
    for name in ["state", "state.new", "leftovers", "lock"] {
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir(dir);
}

/// The lock of sessions in the making. A call that makes a session holds it shared. A call that gets it alone therefore
/// knows that no session is being made: a directory without a state file was left by a call that was killed.
fn making(lock: FlockArg) -> io::Result<Flock<File>> {
    lock_in_run_dir("making", lock)
}

/// Held by one process of this host at a time; an error when another has it.
pub(crate) fn alone(name: &str) -> io::Result<Flock<File>> {
    DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR)?;
    lock_in_run_dir(name, FlockArg::LockExclusiveNonblock)
}

fn lock_in_run_dir(name: &str, lock: FlockArg) -> io::Result<Flock<File>> {
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).open(Path::new(RUN_DIR).join(name))?;
    Flock::lock(file, lock).map_err(|(_, e)| e.into())
}

/// As [`making`], shared. Who holds it alone looks at some directories and lets go; should that take long, this call fails
/// rather than hangs.
fn making_soon() -> io::Result<Flock<File>> {
    soon(|| making(FlockArg::LockSharedNonblock))
}

/// Held while a session with ports is made: two of them must not get the same ones.
pub(crate) fn leasing() -> io::Result<Flock<File>> {
    soon(|| alone("ports"))
}

/// Held from the lease of a pool account until its session is on record. `site-policy pool` holds it alone while it ends
/// leases, so that none goes that is about to be used.
pub(crate) fn using_leases() -> io::Result<Flock<File>> {
    DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR)?;
    soon(|| lock_in_run_dir("leases", FlockArg::LockSharedNonblock))
}

/// Only processes of root that nobody can stop hold such a lock, and not for long.
fn soon(mut lock: impl FnMut() -> io::Result<Flock<File>>) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// All sessions of this host, or none when they cannot be read: for those who do no harm then.
pub(crate) fn all() -> Vec<Found> {
    listed().unwrap_or_default()
}

/// All sessions of this host; an error where one might be missing. What is no session, and never will be, is removed on the
/// way.
pub(crate) fn listed() -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(sessions_dir()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let has_state = |dir: &PathBuf| dir.join("state").exists();
    let (whole, unfinished): (Vec<_>, Vec<_>) =
        entries.flatten().map(|entry| entry.path()).partition(has_state);
    if !unfinished.is_empty()
        && let Ok(_alone) = making(FlockArg::LockExclusiveNonblock)
    {
        unfinished.iter().filter(|dir| !has_state(dir)).for_each(|dir| remove_dir(dir));
    }
    whole.iter().filter_map(|dir| find(dir).transpose()).collect()
}

/// `None` when it has gone meanwhile, or when its state is none.
fn find(dir: &Path) -> io::Result<Option<Found>> {
    let gone = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(e) };
    let state = match fs::read(dir.join("state")) {
        Ok(text) => SessionState::from_text(&text),
        Err(e) => return gone(e),
    };
    let Some(state) = state else { return Ok(None) };
    let lock = match OpenOptions::new().write(true).open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(e) => return gone(e),
    };
    let orphaned = Flock::lock(lock, FlockArg::LockExclusiveNonblock).ok();
    // Between reading and locking the supervisor may have ended properly.
    let ended = orphaned.is_some() && !dir.join("state").exists();
    Ok((!ended).then_some(Found { state, orphaned }))
}

impl SessionState {
    /// As it turned out: a leaf that was planned need not have been made.
    pub(crate) fn with_leaf(&self, leaf: Option<&Leaf>) -> Self {
        Self { leaf: leaf.cloned(), ..self.clone() }
    }

    /// Whether the process that the session names as its supervisor is not somebody else by now.
    pub(crate) fn is_still_named(&self) -> bool {
        self.born.is_none_or(|born| child_processes::born(Pid::from_raw(self.supervisor)) == Some(born))
    }

    /// Paths are bytes; none of them holds a line break.
    fn to_text(&self) -> Vec<u8> {
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        let head = format!(
            "version=1\nid={}\ncaller_uid={}\nuid={}\ngid={}\nsupervisor={}\nborn={}\npid_namespace={}\n",
            self.id,
            self.caller_uid,
            self.uid,
            self.gid,
            self.supervisor,
            number(self.born),
            number(self.pid_namespace)
        );
        let path = |key: &str, path: Option<&Path>| {
            let path = path.map(|path| path.as_os_str().as_bytes()).unwrap_or_default();
            [key.as_bytes(), b"=", path, b"\n"].concat()
        };
        [
            head.into_bytes(),
            Leaf::to_state(self.leaf.as_ref()),
            path("spool", Some(&self.spool)),
            path("work_dir", self.work_dir.as_deref()),
            path("proxy", self.proxy.as_deref()),
            format!("identity={}\n", self.identity).into_bytes(),
            self.ports.map(|ports| format!("ports={ports}\n").into_bytes()).unwrap_or_default(),
        ]
        .concat()
    }

    fn from_text(text: &[u8]) -> Option<Self> {
        let bytes = |key: &str| {
            membership::lines(text).find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
        };
        let value = |key: &str| std::str::from_utf8(bytes(key)?).ok();
        let path =
            |key: &str| bytes(key).filter(|p| !p.is_empty()).map(|p| PathBuf::from(OsStr::from_bytes(p)));
        if value("version")? != "1" {
            return None;
        }
        Some(Self {
            id: value("id")?.to_owned(),
            caller_uid: value("caller_uid")?.parse().ok()?,
            uid: value("uid")?.parse().ok()?,
            gid: value("gid")?.parse().ok()?,
            supervisor: value("supervisor")?.parse().ok()?,
            born: value("born").and_then(|n| n.parse().ok()),
            leaf: Leaf::from_state(text),
            spool: path("spool")?,
            work_dir: path("work_dir"),
            proxy: path("proxy"),
            identity: value("identity").unwrap_or_default().to_owned(),
            pid_namespace: value("pid_namespace").and_then(|n| n.parse().ok()),
            ports: value("ports").and_then(|text| PortRange::parse(text).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_the_round_trip() {
        let mut state = SessionState {
            id: "0190-x".into(),
            caller_uid: 1001,
            uid: 20_001,
            gid: 20_002,
            supervisor: 77,
            born: Some(8812),
            leaf: Leaf::from_state(b"cgroup=/sys/fs/cgroup/unified/glexec-x\ncgroup1=memory:/x/glexec-x\n"),
            spool: "/var/spool/pilotage/records".into(),
            work_dir: Some("/tmp/job-1".into()),
            proxy: Some("/tmp/x509up_glexec_1".into()),
            identity: "ab12".into(),
            pid_namespace: Some(4_026_532_000),
            ports: PortRange::new(40_000, 40_009),
        };
        assert_eq!(SessionState::from_text(&state.to_text()), Some(state.clone()));
        (state.leaf, state.work_dir, state.pid_namespace, state.ports) = (None, None, None, None);
        assert_eq!(SessionState::from_text(&state.to_text()), Some(state));
    }

    #[test]
    fn a_broken_state_is_no_session() {
        assert_eq!(SessionState::from_text(b""), None);
        assert_eq!(SessionState::from_text(b"version=2\nid=x\n"), None);
        assert_eq!(SessionState::from_text(b"version=1\nid=x\ncaller_uid=a\n"), None);
    }

    #[test]
    fn ids_are_version_7_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(a, b);
        assert_eq!((a.len(), a.as_bytes()[14]), (36, b'7'));
    }
}
