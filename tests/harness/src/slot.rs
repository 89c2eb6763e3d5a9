//! Uids, ports and cgroup names are shared by the whole kernel, so each machine gets a share of its own.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// How many machines can live at the same time on one host.
pub(crate) const SLOTS: u32 = 64;
const FIRST_UID: u32 = 200_000;
const FIRST_PORT: u16 = 20_000;
/// Uids, gids and ports of each slot.
pub(crate) const BLOCK: u32 = 100;

/// A share of uids, gids and ports that no other machine on this host has while this value lives.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u32,
    /// An abstract socket: no file to leave behind, and the kernel frees the name however the process ends.
    _lock: UnixListener,
}

impl Slot {
    /// Takes a free share.
    pub(crate) fn take() -> Self {
        // Neighbouring processes start at different ends, so that they rarely try each other's names.
        let start = std::process::id() % SLOTS;
        let free = (0..SLOTS).find_map(|n| Self::take_this((start + n) % SLOTS));
        free.unwrap_or_else(|| panic!("all {SLOTS} machine slots are taken: too many tests run at once"))
    }

    /// Takes this share, unless somebody has it.
    pub(crate) fn take_this(number: u32) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("pilotage-test-slot-{number}"));
        let name = name.expect("the name is short and has no NUL");
        let lock = UnixListener::bind_addr(&name).ok()?;
        Some(Self { number, _lock: lock })
    }

    /// First uid and gid of the share.
    pub(crate) fn first_uid(&self) -> u32 {
        FIRST_UID + self.number * BLOCK
    }

    /// Whether the uid belongs to the share.
    pub(crate) fn has_uid(&self, uid: u32) -> bool {
        (self.first_uid()..self.first_uid() + BLOCK).contains(&uid)
    }

    /// First and last port of the share; it lies below the range of ephemeral ports.
    pub(crate) fn ports(&self) -> (u16, u16) {
        let block = u16::try_from(BLOCK).expect("100 fits");
        let number = u16::try_from(self.number).expect("64 slots fit");
        let low = FIRST_PORT + number * block;
        (low, low + block - 1)
    }

    /// Name of the cgroup that everything started in this machine lives in.
    pub(crate) fn cgroup(&self) -> String {
        format!("{}{}", crate::cgroup::PREFIX, self.number)
    }
}

/// The slot that this uid belongs to.
pub(crate) fn of_uid(uid: u32) -> Option<u32> {
    let number = uid.checked_sub(FIRST_UID)? / BLOCK;
    (number < SLOTS).then_some(number)
}
