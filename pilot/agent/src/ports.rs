//! Callback ports: blocks of the site's range, each held by one payload on the node at a time.
//!
//! All agents of a node, under whichever account, share one directory. `LOW-HIGH.lock` is locked with flock(2) while a
//! payload has the block, so a killed agent frees it at once. `LOW-HIGH.UID` is that account's mark: `held` or `free`,
//! written when the block changes hands. The newest mark tells since when the block rests; a newest mark that says
//! `held` without a lock belongs to an agent that was killed, so the rest begins when somebody finds it.
//!
//! Strangers can write in that directory. So everything in it is opened without following links and without waiting, must be
//! a regular file, and a mark must belong to the account in its name. A mark dated in the future comes from a clock that was
//! set back, or from somebody who wants to keep the block: the rest begins when it is first seen.

use super::opener::Opener;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, socket,
};
use policy::ports::PortRange;
use policy::ports::variables::Variable;
use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Where agents meet unless told otherwise.
pub const PORT_DIR: &str = "/run/pilotage/ports";

/// Where this pilot's payloads get their ports.
#[derive(Debug)]
pub struct PortSource {
    /// The node's blocks.
    pub pool: PortPool,
    /// Ports for a payload that asks for none.
    pub default: u16,
    /// How long a payload may wait for ports before it goes back.
    pub patience: Duration,
    /// What a payload with ports finds in its environment.
    pub variables: Vec<&'static Variable>,
    /// Who opens the site's border for leases.
    pub opener: Option<Arc<Opener>>,
}

/// The node's share of the site's port range.
#[derive(Debug)]
pub struct PortPool {
    dir: PathBuf,
    range: PortRange,
    block: u16,
    quarantine: Duration,
    /// Marks dated in the future, and when they were first seen.
    ahead: Mutex<HashMap<PathBuf, (SystemTime, Instant)>>,
}

/// Adjacent blocks held for one payload; dropping it begins their rest.
#[derive(Debug)]
pub struct PortLease {
    range: PortRange,
    _blocks: Vec<Held>,
}

/// No ports to give.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPorts {
    /// All blocks are held or resting; it will pass.
    #[error(
        "port range full: no {wanted} adjacent ports of {range} are free; enlarge [ports] range or lower per_payload in policy.toml"
    )]
    Full {
        /// Ports asked for.
        wanted: u16,
        /// The node's range.
        range: String,
    },
    /// More than the node has.
    #[error("the payload wants {wanted} ports, but this node has {range}; ask for fewer with --ports")]
    TooMany {
        /// Ports asked for.
        wanted: u16,
        /// The node's range.
        range: String,
    },
}

impl PortPool {
    /// Prepares the directory. `block` is the number of ports a payload gets unless it asks for more.
    pub fn open(dir: &Path, range: PortRange, block: u16, quarantine: Duration) -> Result<Self> {
        let remedy = || {
            format!(
                "port directory {}: cannot use it; make it with mode 1777 or name another with --port-dir",
                dir.display()
            )
        };
        if !dir.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir).with_context(remedy)?;
            std::fs::set_permissions(dir, Permissions::from_mode(0o1777)).with_context(remedy)?;
        }
        tempfile::tempfile_in(dir).with_context(remedy)?;
        Ok(Self { dir: dir.to_owned(), range, block: block.max(1), quarantine, ahead: Mutex::default() })
    }

    /// Takes enough adjacent blocks for `wanted` ports; 0 asks for one block.
    pub fn lease(&self, wanted: u16) -> Result<PortLease, NoPorts> {
        let needed = usize::from(wanted.max(1).div_ceil(self.block));
        let range = self.range.to_string();
        if needed > self.range.blocks(self.block).count() {
            return Err(NoPorts::TooMany { wanted, range });
        }
        let mut run: Vec<Held> = Vec::new();
        for block in self.range.blocks(self.block) {
            match self.hold(block) {
                Some(held) => run.push(held),
                None => run.clear(),
            }
            if run.len() == needed {
                return self.take(run).ok_or(NoPorts::Full { wanted, range });
            }
        }
        Err(NoPorts::Full { wanted: wanted.max(self.block), range })
    }

    fn take(&self, mut blocks: Vec<Held>) -> Option<PortLease> {
        let range = PortRange::new(blocks.first()?.block.low(), blocks.last()?.block.high())?;
        for held in &mut blocks {
            held.taken = true;
            // Without its mark a block is safe too: the lock holds, only the rest after a kill would be missing.
            mark(&held.mark, "held").ok();
        }
        Some(PortLease { range, _blocks: blocks })
    }

    /// Locks a block that has rested and whose ports can all be bound.
    fn hold(&self, block: PortRange) -> Option<Held> {
        let file = open_lock(&self.dir.join(format!("{block}.lock"))).ok()?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        let uid = nix::unistd::geteuid();
        let held = Held { block, mark: self.dir.join(format!("{block}.{uid}")), taken: false, _lock: lock };
        match self.newest_mark(block) {
            None => (),
            Some(Mark { held: true, .. }) => {
                mark(&held.mark, "free").ok();
                return None;
            }
            Some(Mark { age, .. }) if age < self.quarantine => return None,
            Some(_) => (),
        }
        held.is_bindable().then_some(held)
    }
}

impl PortLease {
    /// The ports.
    pub fn range(&self) -> PortRange {
        self.range
    }
}

/// One locked block.
#[derive(Debug)]
struct Held {
    block: PortRange,
    mark: PathBuf,
    taken: bool,
    _lock: Flock<File>,
}

impl Held {
    fn is_bindable(&self) -> bool {
        (self.block.low()..=self.block.high()).all(bindable)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.taken {
            // The lock is released after this, so nobody sees a free block without its mark.
            mark(&self.mark, "free").ok();
        }
    }
}

/// Opens the lock file, which may belong to another account: reading is enough for flock(2).
fn open_lock(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(SAFELY);
    let opened = options.open(path).or_else(|e| match e.kind() {
        ErrorKind::NotFound => {
            let mut new = options.clone();
            match new.write(true).create_new(true).mode(0o644).open(path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => options.open(path),
                made => made,
            }
        }
        _ => Err(e),
    });
    regular(opened?)
}

/// Neither follows a link nor waits for the other end of a pipe.
const SAFELY: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;

fn regular(file: File) -> std::io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("is no regular file")) }
}

fn mark(path: &Path, word: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o644).custom_flags(SAFELY);
    let mut file = regular(options.open(path).or_else(|_| options.create_new(true).open(path))?)?;
    file.set_len(0)?;
    file.write_all(word.as_bytes())?;
    // An unchanged word would leave an old time.
    file.set_modified(SystemTime::now())
}

struct Mark {
    held: bool,
    age: Duration,
}

impl PortPool {
    /// The mark written last for a block, by whichever account.
    fn newest_mark(&self, block: PortRange) -> Option<Mark> {
        let prefix = format!("{block}.");
        let entries = std::fs::read_dir(&self.dir).ok()?.flatten();
        let marks = entries.filter_map(|e| {
            let name = e.file_name();
            let uid = name.to_str()?.strip_prefix(&prefix)?.parse::<u32>().ok()?;
            self.read_mark(e.path(), uid)
        });
        marks.min_by_key(|mark| mark.age)
    }

    /// A mark of this account; `None` for anything that pretends to be one.
    fn read_mark(&self, path: PathBuf, uid: u32) -> Option<Mark> {
        let file = OpenOptions::new().read(true).custom_flags(SAFELY).open(&path).and_then(regular).ok()?;
        let meta = file.metadata().ok()?;
        if meta.uid() != uid {
            return None;
        }
        let mut word = Vec::new();
        file.take(16).read_to_end(&mut word).ok()?;
        Some(Mark { held: word == b"held", age: self.age(path, meta.modified().ok()?) })
    }

    fn age(&self, path: PathBuf, written: SystemTime) -> Duration {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        match SystemTime::now().duration_since(written) {
            Ok(age) => {
                ahead.remove(&path);
                age
            }
            Err(_) => {
                let seen = ahead.entry(path).or_insert((written, Instant::now()));
                if seen.0 != written {
                    *seen = (written, Instant::now());
                }
                seen.1.elapsed()
            }
        }
    }
}

/// Whether nobody has the port, on IPv4 and IPv6, not even in TIME_WAIT: `SO_REUSEADDR` stays off.
fn bindable(port: u16) -> bool {
    let v4 = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    let v6 = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
    try_bind(AddressFamily::Inet, &v4) && try_bind(AddressFamily::Inet6, &v6)
}

fn try_bind(family: AddressFamily, address: &dyn SockaddrLike) -> bool {
    match socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        Ok(socket) => !matches!(bind(socket.as_raw_fd(), address), Err(Errno::EADDRINUSE | Errno::EACCES)),
        // A node without this protocol has no conflicts in it.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A range outside of what other tests and the kernel's ephemeral ports use.
    fn pool(dir: &Path, range: &str, quarantine: Duration) -> PortPool {
        PortPool::open(dir, PortRange::parse(range).unwrap(), 10, quarantine).unwrap()
    }

    #[test]
    fn two_agents_never_hold_the_same_ports_and_a_full_range_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (
            pool(dir.path(), "23000-23019", Duration::ZERO),
            pool(dir.path(), "23000-23019", Duration::ZERO),
        );
        let a = one.lease(0).unwrap();
        let b = two.lease(0).unwrap();
        assert_eq!((a.range().low(), b.range().low()), (23000, 23010));
        assert!(matches!(two.lease(0), Err(NoPorts::Full { .. })));
        drop(a);
        assert_eq!(two.lease(0).unwrap().range().low(), 23000);
    }

    #[test]
    fn a_wish_for_more_takes_adjacent_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23100-23139", Duration::ZERO);
        let first = pool.lease(0).unwrap();
        let wide = pool.lease(25).unwrap();
        assert_eq!(wide.range().to_string(), "23110-23139");
        drop(first);
        assert!(matches!(pool.lease(11), Err(NoPorts::Full { .. })));
        assert!(matches!(pool.lease(41), Err(NoPorts::TooMany { .. })));
    }

    #[test]
    fn used_ports_rest_and_looking_does_not_tire_them() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23200-23209", Duration::from_millis(300));
        drop(pool.lease(0).unwrap());
        assert!(matches!(pool.lease(0), Err(NoPorts::Full { .. })));
        std::thread::sleep(Duration::from_millis(350));
        let block = PortRange::parse("23200-23209").unwrap();
        assert!(pool.hold(block).is_some() && pool.hold(block).is_some());
        assert!(pool.lease(0).is_ok());
    }

    #[test]
    fn ports_of_a_killed_agent_rest_from_when_they_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23300-23309", Duration::from_millis(300));
        // What an agent of another account leaves behind after kill -9: its mark, no lock.
        let other = dir.path().join(format!("23300-23309.{}", nix::unistd::geteuid()));
        std::fs::write(&other, "held").unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        File::options().write(true).open(&other).unwrap().set_modified(hour_ago).unwrap();
        assert!(matches!(pool.lease(0), Err(NoPorts::Full { .. })));
        std::thread::sleep(Duration::from_millis(350));
        assert!(pool.lease(0).is_ok());
    }

    #[test]
    fn ports_that_somebody_listens_on_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23400-23429", Duration::ZERO);
        let _v4 = TcpListener::bind(("127.0.0.1", 23405)).unwrap();
        let _v6 = TcpListener::bind(("::1", 23415));
        let lease = pool.lease(0).unwrap();
        assert_eq!(lease.range().low(), if _v6.is_ok() { 23420 } else { 23410 });
    }

    #[test]
    fn the_lock_is_not_inherited() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23500-23509", Duration::ZERO);
        let lease = pool.lease(0).unwrap();
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        drop(lease);
        let again = pool.lease(0).map(drop);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(again, Ok(()));
    }

    #[test]
    fn a_link_in_the_place_of_a_lock_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23600-23609", Duration::ZERO);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("23600-23609.lock")).unwrap();
        assert!(pool.lease(0).is_err());
    }

    #[test]
    fn a_mark_from_the_future_costs_one_rest() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23700-23709", Duration::from_millis(300));
        drop(pool.lease(0).unwrap());
        let own = dir.path().join(format!("23700-23709.{}", nix::unistd::geteuid()));
        let in_days = SystemTime::now() + Duration::from_secs(5 * 86_400);
        File::options().write(true).open(own).unwrap().set_modified(in_days).unwrap();
        assert!(pool.lease(0).is_err());
        std::thread::sleep(Duration::from_millis(350));
        assert!(pool.lease(0).is_ok());
    }

    #[test]
    fn what_strangers_put_there_neither_hangs_a_pilot_nor_keeps_a_block() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23800-23819", Duration::from_secs(3600));
        let uid = nix::unistd::geteuid();
        let fifo = |name: String| {
            nix::unistd::mkfifo(&dir.path().join(name), nix::sys::stat::Mode::from_bits_truncate(0o666))
                .unwrap();
        };
        fifo("23800-23809.lock".to_owned());
        fifo(format!("23810-23819.{uid}"));
        // A mark in another account's name that we have written.
        std::fs::write(dir.path().join(format!("23810-23819.{}", uid.as_raw() + 1)), "free").unwrap();
        assert_eq!(pool.lease(0).unwrap().range().low(), 23810);
    }
}
