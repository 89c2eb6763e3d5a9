//! Who may have which block of the host's ports: root's side of it.
//!
//! Callers agree on blocks by locks (flock(2)) on files of `/run/glexec/blocks`, which nobody but root may open: strangers can
//! hold none of them. `glexec --port-blocks` hands descriptors for reading to those who may call, so that a caller can hold a block
//! without a process of root's, loses it when it ends, and writes nothing. What a block rests from, root writes itself: `held` when
//! a session with its ports begins, `free` and who called when that is over, be it by a sweep of lost sessions.

use crate::admit::config::Config;
use crate::admit::process_init::{Mode, Start};
use crate::failure::Failure;
use crate::session::recording;
use crate::session::store::{self, RUN_DIR};
use crate::sys::{fds, ids};
use nix::errno::Errno;
use policy::ports::PortRange;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

/// Most descriptors in one message (`SCM_MAX_FD`, unix(7)).
const MOST: usize = 253;
const HELD: &str = "held";

fn dir() -> PathBuf {
    PathBuf::from(RUN_DIR).join("blocks")
}

/// Hands out the blocks of this host that begin at `from` or above, as many as go into one message: their names, and a descriptor
/// for each, over the socket that is the caller's standard input.
pub(crate) fn hand_out(from: u16, start: &Start, config: &Config) -> Result<u8, Failure> {
    if start.mode != Mode::Switching {
        return Err(Failure::site("port blocks are root's to hand out: glexec is not setuid here"));
    }
    let ports = &config.policy.ports;
    let share = ports.share_here(&recording::host());
    let share = share.ok_or_else(|| Failure::caller("this site leases no ports: [ports] range"))?;
    let wanted: Vec<PortRange> =
        share.blocks(ports.per_payload).filter(|block| block.low() >= from).take(MOST).collect();
    if wanted.is_empty() {
        return Err(Failure::caller(format!(
            "{share}, the ports of this host, has no block at or above {from}"
        )));
    }
    // Others wait for this lock: the caller must not stop who holds it.
    let _unstoppable = ids::OutOfReach::enter();
    let failed = |e: io::Error| Failure::site(format!("{}: {e}", dir().display()));
    let alone = store::leasing().map_err(failed)?;
    let living: Vec<PortRange> =
        store::listed().map_err(failed)?.into_iter().filter_map(|found| found.state.ports).collect();
    DirBuilder::new().mode(0o755).recursive(true).create(dir()).map_err(failed)?;
    let mut files = Vec::new();
    for block in &wanted {
        files.push(open(*block, &living).map_err(failed)?);
    }
    drop(alone);
    let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let handles: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    fds::send(names.join(" ").as_bytes(), &handles).map(|()| 0).map_err(|e| match e {
        Errno::ENOTSOCK => {
            Failure::caller("--port-blocks answers on a local socket: give one as standard input")
        }
        e => Failure::caller(format!("--port-blocks: standard input: {e}")),
    })
}

/// A block's file, for reading. One that is new has never been used; one that says `held` for no living session was left by an
/// earlier boot.
fn open(block: PortRange, living: &[PortRange]) -> io::Result<File> {
    let path = dir().join(block.to_string());
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(&path) {
        Ok(new) => new.set_modified(SystemTime::UNIX_EPOCH)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let mut file = File::open(&path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != 0 || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("{block} is not a file of root's alone")));
    }
    let mut word = [0; HELD.len()];
    let held = file.read(&mut word)? == word.len() && word == *HELD.as_bytes();
    if held && !living.iter().any(|ports| ports.meets(block)) {
        write(&path, "free")?;
    }
    Ok(file)
}

/// The ports are a session's from now on.
pub(crate) fn begin(ports: PortRange) {
    note(ports, HELD);
}

/// They are over, and their rest begins.
pub(crate) fn end(ports: PortRange, caller_uid: u32) {
    note(ports, &format!("free {caller_uid}"));
}

/// Blocks that nobody has asked for have no file, and need none.
fn note(ports: PortRange, word: &str) {
    let entries = fs::read_dir(dir()).into_iter().flatten().flatten();
    for entry in entries {
        let block = entry.file_name().to_str().and_then(|name| PortRange::parse(name).ok());
        if block.is_some_and(|block| block.meets(ports)) {
            let _ = write(&entry.path(), word);
        }
    }
}

/// In place, since the locks are on this very file. Sets the time, too, which says since when.
fn write(path: &std::path::Path, word: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.set_len(0)?;
    file.write_all(word.as_bytes())?;
    file.set_modified(SystemTime::now())
}
