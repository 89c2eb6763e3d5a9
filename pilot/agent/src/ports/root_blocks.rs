//! Blocks that root hands out: `glexec --port-blocks`.
//!
//! Each block is a file of root's that nobody but root may open. `glexec` gives its callers descriptors for reading, so that a pilot
//! holds a block by flock(2) as long as it lives, and a stranger holds none. What stands in the file is root's: `held` while a
//! session has the ports, else `free` and who had them; its time says since when.

use super::Clock;
use crate::launch::starting;
use anyhow::{Context, Result, bail, ensure};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use policy::ports::PortRange;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most descriptors in one message (`SCM_MAX_FD`, unix(7)).
const MOST: usize = 253;

/// What `glexec` has handed out to this pilot.
#[derive(Debug)]
pub struct RootBlocks {
    glexec: PathBuf,
    range: PortRange,
    quarantine: Duration,
    known: Mutex<Vec<Block>>,
    clock: Clock,
}

#[derive(Debug)]
struct Block {
    range: PortRange,
    file: File,
    /// One of this pilot's payloads has it: a second lock on the same descriptor would be granted.
    ours: bool,
}

/// One locked block.
#[derive(Debug)]
pub struct Held {
    home: Arc<RootBlocks>,
    range: PortRange,
}

impl RootBlocks {
    /// Asks for the first blocks of the range.
    pub fn ask(glexec: &Path, range: PortRange, quarantine: Duration) -> Result<Arc<Self>> {
        let blocks = Self {
            glexec: glexec.to_owned(),
            range,
            quarantine,
            known: Mutex::default(),
            clock: Clock::default(),
        };
        ensure!(blocks.ask_for_more()?, "it has no block of {range}");
        Ok(Arc::new(blocks))
    }

    fn known(&self) -> MutexGuard<'_, Vec<Block>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the blocks behind those that are known; `false` when there are none.
    pub fn ask_for_more(&self) -> Result<bool> {
        let mut known = self.known();
        let from = known.last().map_or(Some(self.range.low()), |last| last.range.high().checked_add(1));
        let Some(from) = from.filter(|from| self.range.contains(*from)) else { return Ok(false) };
        let new = fetch(&self.glexec, from)?.into_iter().filter(|(range, _)| self.range.covers(*range));
        let before = known.len();
        known.extend(new.map(|(range, file)| Block { range, file, ours: false }));
        Ok(known.len() > before)
    }

    /// The blocks that are known, in their order.
    pub fn blocks(&self) -> Vec<PortRange> {
        self.known().iter().map(|block| block.range).collect()
    }

    /// Locks a block that is no session's and has rested.
    pub fn hold(self: &Arc<Self>, range: PortRange) -> Option<Held> {
        let mut known = self.known();
        let block = known.iter_mut().find(|block| block.range == range && !block.ours)?;
        block.file.try_lock().ok()?;
        if !self.has_rested(block).unwrap_or(false) {
            block.file.unlock().ok();
            return None;
        }
        block.ours = true;
        Some(Held { home: Arc::clone(self), range })
    }

    fn has_rested(&self, block: &Block) -> std::io::Result<bool> {
        let mut word = [0; 4];
        let read = block.file.read_at(&mut word, 0)?;
        let age = self.clock.age(Path::new(&block.range.to_string()), block.file.metadata()?.modified()?);
        Ok(word[..read] != *b"held" && age >= self.quarantine)
    }
}

impl Held {
    /// Its ports.
    pub fn range(&self) -> PortRange {
        self.range
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(block) = self.home.known().iter_mut().find(|block| block.range == self.range) {
            block.ours = false;
            block.file.unlock().ok();
        }
    }
}

/// Blocks from this port on, and a descriptor for each, in one message on the program's standard input.
fn fetch(glexec: &Path, from: u16) -> Result<Vec<(PortRange, File)>> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(glexec);
    command.args(["--port-blocks", &from.to_string()]).env_clear().current_dir("/");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let ended = {
        let _alone = starting();
        command.output().with_context(|| format!("cannot start {}", glexec.display()))?
    };
    if !ended.status.success() {
        let why = String::from_utf8_lossy(&ended.stderr);
        bail!("{} says {}: {}", glexec.display(), ended.status, identity::one_line(why.trim()));
    }
    let mut text = vec![0; 8192];
    let mut space = cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(ours.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let length = message.bytes;
    let handed = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
    let files =
        handed.unwrap_or_default().into_iter().map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    let files: Vec<File> = files.collect();
    let names = String::from_utf8_lossy(&text[..length]).into_owned();
    let ranges: Option<Vec<PortRange>> = names.split(' ').map(|name| PortRange::parse(name).ok()).collect();
    let ranges = ranges.filter(|ranges| ranges.len() == files.len());
    let ranges = ranges.context(
        "glexec hands out blocks that cannot be told apart; the limit of open files (ulimit -n) may be small",
    )?;
    Ok(ranges.into_iter().zip(files).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    /// As root would hand them out to one pilot: for reading, each pilot by descriptors of its own.
    fn handed(dir: &Path, quarantine: Duration) -> Arc<RootBlocks> {
        let range = PortRange::parse("23900-23919").unwrap();
        let blocks = range.blocks(10).map(|range| {
            let path = dir.join(range.to_string());
            if !path.exists() {
                File::create(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            }
            Block { range, file: File::open(path).unwrap(), ours: false }
        });
        Arc::new(RootBlocks {
            glexec: "/nowhere".into(),
            range,
            quarantine,
            known: Mutex::new(blocks.collect()),
            clock: Clock::default(),
        })
    }

    #[test]
    fn a_block_is_one_payload_s_among_pilots_and_within_one() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (handed(dir.path(), Duration::ZERO), handed(dir.path(), Duration::ZERO));
        let [a, b] = one.blocks()[..] else { panic!("two blocks") };
        let held = one.hold(a).unwrap();
        assert!(one.hold(a).is_none() && two.hold(a).is_none());
        assert!(two.hold(b).is_some());
        drop(held);
        assert!(two.hold(a).is_some() && one.hold(a).is_some());
    }

    #[test]
    fn what_a_session_has_or_had_until_just_now_is_nobody_s() {
        let dir = tempfile::tempdir().unwrap();
        let blocks = handed(dir.path(), Duration::from_secs(3600));
        let [a, b] = blocks.blocks()[..] else { panic!("two blocks") };
        std::fs::write(dir.path().join(a.to_string()), "held").unwrap();
        std::fs::write(dir.path().join(b.to_string()), "free 1000").unwrap();
        assert!(blocks.hold(a).is_none() && blocks.hold(b).is_none());
        let rested = File::options().write(true).open(dir.path().join(b.to_string())).unwrap();
        rested.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
        assert!(blocks.hold(b).is_some());
    }

    #[test]
    fn who_hands_out_nothing_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let range = PortRange::parse("23900-23919").unwrap();
        for (program, why) in
            [("/bin/false", "exit status: 1"), ("/nowhere/glexec", "cannot start"), ("/bin/true", "")]
        {
            let error = RootBlocks::ask(Path::new(program), range, Duration::ZERO).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
        assert!(dir.path().exists());
    }
}
