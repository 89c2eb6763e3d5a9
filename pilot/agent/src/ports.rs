//! Callback ports: blocks of the site's range, each held by one payload on the node at a time.
//!
//! All agents of a node, under whichever account, share one directory. `LOW-HIGH.lock` is locked with flock(2) while a
//! payload has the block, so a killed agent frees it at once. `LOW-HIGH.UID` is that account's mark: `held` or `free`,
//! written when the block changes hands. The newest mark tells since when the block rests; a newest mark that says
//! `held` without a lock belongs to an agent that was killed, so the rest begins when somebody finds it.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, socket,
};
use policy::ports::PortRange;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where agents meet unless told otherwise.
pub const PORT_DIR: &str = "/run/pilotage/ports";

/// The node's share of the site's port range.
#[derive(Debug)]
pub struct PortPool {
    dir: PathBuf,
    range: PortRange,
    block: u16,
    quarantine: Duration,
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
        Ok(Self { dir: dir.to_owned(), range, block: block.max(1), quarantine })
    }

    /// Sets a block aside before a payload is asked for, so that none comes that could get no ports.
    pub fn reserve(&self) -> Option<Reservation> {
        self.range.blocks(self.block).find_map(|block| self.hold(block)).map(Reservation)
    }

    /// Turns a reservation into the payload's lease; only wishes for more than a block look for another place.
    pub fn confirm(&self, reserved: Option<Reservation>, wanted: u16) -> Result<PortLease, NoPorts> {
        let fits = |held: &Held| wanted <= self.block && held.is_bindable();
        let kept = reserved.map(|r| r.0).filter(fits);
        kept.and_then(|held| self.take(vec![held])).map_or_else(|| self.lease(wanted), Ok)
    }

    /// Takes enough adjacent blocks for `wanted` ports; 0 asks for one block.
    fn lease(&self, wanted: u16) -> Result<PortLease, NoPorts> {
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
        match newest_mark(&self.dir, block) {
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

/// A block set aside; dropping it frees it without a rest.
#[derive(Debug)]
pub struct Reservation(Held);

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
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => (),
        opened => return opened,
    }
    match OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o644)
        .custom_flags(flags)
        .open(path)
    {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().read(true).custom_flags(flags).open(path)
        }
        made => made,
    }
}

fn mark(path: &Path, word: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).or_else(|_| options.create_new(true).open(path))?;
    file.write_all(word.as_bytes())?;
    // An unchanged word would leave an old time.
    file.set_modified(SystemTime::now())
}

struct Mark {
    held: bool,
    age: Duration,
}

/// The mark written last for a block, by whichever account.
fn newest_mark(dir: &Path, block: PortRange) -> Option<Mark> {
    let prefix = format!("{block}.");
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let marks = entries.filter(|e| {
        let name = e.file_name();
        name.to_str().and_then(|n| n.strip_prefix(&prefix)).is_some_and(|uid| uid.parse::<u32>().is_ok())
    });
    let dated = marks.filter_map(|e| {
        let meta = e.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((meta.modified().ok()?, e.path()))
    });
    let (when, path) = dated.max()?;
    let held = std::fs::read(path).is_ok_and(|word| word == b"held");
    // A time in the future comes from a clock that was set back; the rest then begins at zero.
    Some(Mark { held, age: SystemTime::now().duration_since(when).unwrap_or_default() })
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
        assert!(one.reserve().is_none());
        assert!(matches!(two.lease(0), Err(NoPorts::Full { .. })));
        drop(a);
        assert!(two.reserve().is_some());
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
        assert!(pool.reserve().is_none());
        std::thread::sleep(Duration::from_millis(350));
        assert!(pool.reserve().is_some() && pool.reserve().is_some());
        assert!(pool.lease(0).is_ok());
    }

    #[test]
    fn a_reservation_becomes_the_lease_or_makes_room_for_a_wider_one() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23700-23729", Duration::ZERO);
        let reserved = pool.reserve();
        let other = pool.reserve().unwrap();
        assert_eq!(pool.confirm(reserved, 0).unwrap().range().low(), 23700);
        drop(pool.confirm(Some(other), 25).unwrap());
        let (reserved, _other) = (pool.reserve(), pool.reserve());
        assert!(matches!(pool.confirm(reserved, 30), Err(NoPorts::Full { .. })));
    }

    #[test]
    fn a_reserved_block_that_somebody_uses_meanwhile_is_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23800-23819", Duration::ZERO);
        let reserved = pool.reserve();
        let _taken = TcpListener::bind(("127.0.0.1", 23805)).unwrap();
        assert_eq!(pool.confirm(reserved, 0).unwrap().range().low(), 23810);
    }

    #[test]
    fn ports_of_a_killed_agent_rest_from_when_they_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path(), "23300-23309", Duration::from_millis(300));
        // What an agent of another account leaves behind after kill -9: its mark, no lock.
        let other = dir.path().join("23300-23309.64999");
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
}
