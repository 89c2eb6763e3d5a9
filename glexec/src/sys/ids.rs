//! User ids, group ids and capabilities: taking them off, and proving that they are gone.

use crate::failure::Failure;
use crate::sys::process;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{
    Gid, Uid, geteuid, getresgid, getresuid, setegid, seteuid, setgroups, setresgid, setresuid,
};

/// While this lives, files are opened with the caller's rights. The supplementary groups are the caller's all along.
pub(crate) struct AsCaller {
    switched: bool,
}

impl AsCaller {
    /// Lends the effective ids to the caller.
    pub(crate) fn enter(caller: Uid) -> Result<Self, Failure> {
        let switched = geteuid().is_root() && !caller.is_root();
        if switched {
            let lent = setegid(nix::unistd::getgid()).and_then(|()| seteuid(caller));
            lent.map_err(|e| Failure::site(format!("cannot take the caller's rights: {e}")))?;
        }
        Ok(Self { switched })
    }
}

impl Drop for AsCaller {
    fn drop(&mut self) {
        let root = || seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0)));
        // Going on with half an identity would be worse than ending here.
        if self.switched && root().is_err() {
            std::process::abort();
        }
    }
}

/// While this lives, the caller cannot signal this process: kill(2) compares with the real and the saved uid. What comes
/// from the caller's terminal asks for no uid, so it has to wait.
pub(crate) struct OutOfReach {
    left: Option<(Uid, SigSet)>,
}

impl OutOfReach {
    /// Takes the real uid to root and holds signals back; without privilege nothing changes.
    pub(crate) fn enter() -> Self {
        let caller = nix::unistd::getuid();
        if !geteuid().is_root() || caller.is_root() || be_root().is_err() {
            return Self { left: None };
        }
        let mask =
            SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap_or_else(|_| SigSet::empty());
        Self { left: Some((caller, mask)) }
    }
}

impl OutOfReach {
    /// Stays out of reach: from here on this process is root's alone.
    pub(crate) fn keep(mut self) {
        self.left = None;
    }
}

impl Drop for OutOfReach {
    fn drop(&mut self) {
        let Some((caller, mask)) = self.left else { return };
        let root = Uid::from_raw(0);
        // Who is whose caller must never be in doubt.
        if setresuid(caller, root, root).is_err() {
            std::process::abort();
        }
        let _ = mask.thread_set_mask();
    }
}

/// Becomes root entirely, so that a signal is root's and nobody else's.
pub(crate) fn be_root() -> Result<(), Errno> {
    let root = Uid::from_raw(0);
    setresuid(root, root, root)
}

/// Becomes root entirely and leaves all groups, so that nobody finds this process by one of them.
pub(crate) fn be_root_alone() -> Result<(), Errno> {
    let root = Gid::from_raw(0);
    setgroups(&[])?;
    setresgid(root, root, root)?;
    be_root()
}

/// Files that root makes from here on belong to group root, not to the caller's. Without privilege nothing changes.
pub(crate) fn leave_caller_group() {
    let _ = setegid(Gid::from_raw(0));
}

/// Becomes the account for good: groups, gids, uids, capabilities; then proves that there is no way back.
pub(crate) fn become_for_good(uid: u32, gid: u32, groups: &[u32]) -> Result<(), String> {
    if uid == 0 || gid == 0 || groups.contains(&0) {
        return Err("refusing to become root".into());
    }
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let step = |what: &str, result: Result<(), Errno>| result.map_err(|e| format!("{what}: {e}"));
    caps::clear(None, caps::CapSet::Inheritable).map_err(|e| format!("inheritable capabilities: {e}"))?;
    step("setgroups", setgroups(&groups))?;
    step("setresgid", setresgid(gid, gid, gid))?;
    step("setresuid", setresuid(uid, uid, uid))?;
    prove_gone(uid, gid)
}

/// Becomes the identity that a site's own program runs as: root, or less.
pub(crate) fn become_service(user: Option<(Uid, Gid)>, group: Option<Gid>) -> Result<(), String> {
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    let (uid, gid) = user.unwrap_or(root);
    let gid = group.unwrap_or(gid);
    if !uid.is_root() {
        return become_for_good(uid.as_raw(), gid.as_raw(), &[]);
    }
    let text = |e: Errno| e.to_string();
    setgroups(&[]).map_err(text)?;
    setresgid(gid, gid, gid).map_err(text)?;
    setresuid(uid, uid, uid).map_err(text)
}

fn prove_gone(uid: Uid, gid: Gid) -> Result<(), String> {
    let uids = getresuid().map_err(|e| format!("getresuid: {e}"))?;
    let gids = getresgid().map_err(|e| format!("getresgid: {e}"))?;
    if [uids.real, uids.effective, uids.saved] != [uid; 3]
        || [gids.real, gids.effective, gids.saved] != [gid; 3]
    {
        return Err("ids are not what was asked for".into());
    }
    let root = Uid::from_raw(0);
    if setresuid(root, root, root).is_ok() || seteuid(root).is_ok() {
        return Err("root came back".into());
    }
    prove_powerless()
}

fn prove_powerless() -> Result<(), String> {
    for set in [caps::CapSet::Permitted, caps::CapSet::Effective, caps::CapSet::Inheritable] {
        let left = caps::read(None, set).map_err(|e| format!("capabilities: {e}"))?;
        if !left.is_empty() {
            return Err(format!("capabilities are left in {set:?}"));
        }
    }
    Ok(())
}

/// Drops the bounding set: nothing that is executed later can regain a capability. By number until the kernel knows no
/// more, so that those younger than any library go as well.
pub(crate) fn drop_bounding_set() -> Result<(), String> {
    for capability in 0.. {
        match process::drop_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::EINVAL) => break,
            Err(e) => return Err(format!("bounding set: {e}")),
        }
    }
    Ok(())
}

/// Becomes root entirely, without any capability and without groups: nobody but root can signal or trace this process, and
/// it can do nothing to others.
pub(crate) fn be_powerless_root() -> Result<(), String> {
    be_root_alone().map_err(|e| format!("root without groups: {e}"))?;
    drop_bounding_set()?;
    drop_capabilities()
}

/// Takes the caller's ids, but for the saved uid: kill(2) compares the sender's ids with the receiver's real and saved ones,
/// and clients signal as the payload's account as well. Then proves that no capability is left, unless the caller is root.
pub(crate) fn be_front(caller: Uid, target: Uid) -> Result<(), String> {
    let text = |e: Errno| e.to_string();
    let gid = nix::unistd::getgid();
    setresgid(gid, gid, gid).map_err(text)?;
    setresuid(caller, caller, target).map_err(text)?;
    if caller.is_root() { drop_capabilities() } else { prove_powerless() }
}

/// Drops every capability of this process, for one that stays root to be out of reach.
pub(crate) fn drop_capabilities() -> Result<(), String> {
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable] {
        caps::clear(None, set).map_err(|e| format!("capabilities: {e}"))?;
    }
    Ok(())
}

/// While this lives, files are touched with the account's rights and nothing more (setfsuid(2)).
pub(crate) struct FilesAs;

impl FilesAs {
    /// Takes the account's rights on files; `None` when that fails.
    pub(crate) fn enter(uid: u32, gid: u32) -> Option<Self> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        nix::unistd::setfsgid(gid);
        nix::unistd::setfsuid(uid);
        let taken = Self;
        // The call tells the id before; asking for one that is none changes nothing.
        let nobody = Uid::from_raw(u32::MAX);
        (nix::unistd::setfsuid(nobody) == uid).then_some(taken)
    }
}

impl Drop for FilesAs {
    fn drop(&mut self) {
        nix::unistd::setfsuid(geteuid());
        nix::unistd::setfsgid(nix::unistd::getegid());
    }
}
