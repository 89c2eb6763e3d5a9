//! Callback ports: blocks of the site's range, each held by one payload on the node at a time.
//!
//! | where the pilots of a node agree | module |
//! |---|---|
//! | by files of root's that `glexec` hands out, so that no stranger can hold a block | [`root_blocks`] |
//! | in a directory that any account may write, where there is no switch | [`directory`] |

mod directory;
mod root_blocks;

use super::opener::Opener;
use anyhow::Result;
use directory::Directory;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, socket,
};
use policy::ports::PortRange;
use policy::ports::variables::Variable;
use root_blocks::RootBlocks;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
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
    place: Place,
    range: PortRange,
    block: u16,
}

/// Where the pilots of a node agree on blocks.
#[derive(Debug)]
enum Place {
    /// Any account may write there.
    Directory(Directory),
    /// Files that root hands out to those who may call `glexec`.
    Root(Arc<RootBlocks>),
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
    /// Agents agree in this directory. `block` is the number of ports a payload gets unless it asks for more.
    pub fn in_directory(dir: &Path, range: PortRange, block: u16, quarantine: Duration) -> Result<Self> {
        let place = Place::Directory(Directory::open(dir, quarantine)?);
        Ok(Self { place, range, block: block.max(1) })
    }

    /// Agents agree by files of root's, which this program hands out.
    pub fn of_root(glexec: &Path, range: PortRange, block: u16, quarantine: Duration) -> Result<Self> {
        let place = Place::Root(RootBlocks::ask(glexec, range, quarantine)?);
        Ok(Self { place, range, block: block.max(1) })
    }

    /// Takes enough adjacent blocks for `wanted` ports; 0 asks for one block.
    pub fn lease(&self, wanted: u16) -> Result<PortLease, NoPorts> {
        let needed = usize::from(wanted.max(1).div_ceil(self.block));
        let range = self.range.to_string();
        if needed > self.range.blocks(self.block).count() {
            return Err(NoPorts::TooMany { wanted, range });
        }
        loop {
            match self.adjacent(needed) {
                Some(lease) => return Ok(lease),
                None if self.has_more() => {}
                None => return Err(NoPorts::Full { wanted: wanted.max(self.block), range }),
            }
        }
    }

    /// Root hands blocks out as they are needed.
    fn has_more(&self) -> bool {
        let Place::Root(root) = &self.place else { return false };
        root.ask_for_more().unwrap_or_else(|e| {
            tracing::warn!("no more blocks of ports: {e:#}");
            false
        })
    }

    fn adjacent(&self, needed: usize) -> Option<PortLease> {
        let blocks = match &self.place {
            Place::Root(root) => root.blocks(),
            Place::Directory(_) => self.range.blocks(self.block).collect(),
        };
        let mut run: Vec<Held> = Vec::new();
        for block in blocks {
            match self.hold(block) {
                Some(held) => run.push(held),
                None => run.clear(),
            }
            if run.len() == needed {
                return PortLease::of(run);
            }
        }
        None
    }

    /// Locks a block that has rested and whose ports can all be bound.
    fn hold(&self, block: PortRange) -> Option<Held> {
        let held = match &self.place {
            Place::Root(root) => Held::Root(root.hold(block)?),
            Place::Directory(directory) => Held::Directory(directory.hold(block)?),
        };
        (block.low()..=block.high()).all(bindable).then_some(held)
    }
}

/// One locked block.
#[derive(Debug)]
enum Held {
    Directory(directory::Held),
    /// What it is used for is noted by root.
    Root(root_blocks::Held),
}

impl Held {
    fn range(&self) -> PortRange {
        match self {
            Self::Directory(held) => held.range(),
            Self::Root(held) => held.range(),
        }
    }
}

impl PortLease {
    fn of(mut blocks: Vec<Held>) -> Option<Self> {
        let range = PortRange::new(blocks.first()?.range().low(), blocks.last()?.range().high())?;
        for held in &mut blocks {
            if let Held::Directory(held) = held {
                held.take();
            }
        }
        Some(Self { range, _blocks: blocks })
    }

    /// The ports.
    pub fn range(&self) -> PortRange {
        self.range
    }
}

/// Tells how old a time is. One in the future comes from a clock that was set back, or from somebody who wants to keep a block:
/// its age counts from when it is first seen.
#[derive(Debug, Default)]
struct Clock {
    ahead: Mutex<HashMap<PathBuf, (SystemTime, Instant)>>,
}

impl Clock {
    fn age(&self, path: &Path, written: SystemTime) -> Duration {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        match SystemTime::now().duration_since(written) {
            Ok(age) => {
                ahead.remove(path);
                age
            }
            Err(_) => {
                let seen = ahead.entry(path.to_owned()).or_insert((written, Instant::now()));
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
    use std::fs::File;
    use std::net::TcpListener;

    /// A range outside of what other tests and the kernel's ephemeral ports use.
    fn pool(dir: &Path, range: &str, quarantine: Duration) -> PortPool {
        PortPool::in_directory(dir, PortRange::parse(range).unwrap(), 10, quarantine).unwrap()
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
