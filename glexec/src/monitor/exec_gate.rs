//! Stops executions of an installed `glexec`: the kernel asks us before each one (`FAN_OPEN_EXEC_PERM`, fanotify(7)), and we
//! deny it to payloads.

use crate::sys::executable::Executable;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One installed binary.
#[derive(Debug)]
struct Binary {
    path: PathBuf,
    /// What was there at the last inspection.
    seen: Option<Executable>,
}

/// What a file that a payload executes is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// An installed glexec, by whatever name.
    Glexec,
    /// Another program that root's setuid bit is on.
    SetuidRoot,
    /// As long as glexec: worth a comparison.
    Lookalike,
    /// Nothing of interest.
    Other,
}

/// The marks on all installed binaries. They are gone when this is dropped.
pub(super) struct ExecGate {
    /// `None` where the kernel has no permission events: then executions are only seen, not stopped.
    fanotify: Option<Fanotify>,
    binaries: Vec<Binary>,
    /// What was there before: still marked, and still run by supervisors of that time.
    past: Vec<Executable>,
}

impl ExecGate {
    /// Opens the gate for these paths; the second value says why executions cannot be stopped, when they cannot.
    pub(super) fn open(paths: &[PathBuf]) -> (Self, Option<Errno>) {
        // Without a bound on the queue, a payload cannot fill it, after which the kernel would allow everything.
        let flags = InitFlags::FAN_CLASS_CONTENT
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_UNLIMITED_QUEUE;
        let opened =
            Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE);
        let failed = opened.as_ref().err().copied();
        let binaries = paths.iter().map(|path| Binary { path: path.clone(), seen: None }).collect();
        (Self { fanotify: opened.ok(), binaries, past: Vec::new() }, failed)
    }

    /// For the event loop.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.fanotify.as_ref().map(AsFd::as_fd)
    }

    /// Marks what is new at the paths; one line for each change. Old files stay marked: links to them may live on.
    pub(super) fn refresh(&mut self) -> Vec<String> {
        let fanotify = self.fanotify.as_ref();
        for old in self.binaries.iter().filter_map(|binary| binary.seen) {
            if !self.past.contains(&old) {
                self.past.push(old);
            }
        }
        self.binaries.iter_mut().filter_map(|binary| binary.refresh(fanotify)).collect()
    }

    /// Answers who waits at the gate, one by one. `is_payload` must come to its answer without waiting for anything.
    pub(super) fn serve(&self, mut is_payload: impl FnMut(i32) -> bool) {
        let Some(fanotify) = &self.fanotify else { return };
        // An error is no reason to stop: the kernel denies events that it could not hand over.
        for event in fanotify.read_events().unwrap_or_default() {
            answer(fanotify, &event, &mut is_payload);
        }
    }

    /// What a file is to us.
    pub(super) fn kind_of(&self, file: &Executable) -> Program {
        classify(file, self.binaries.iter().filter_map(|binary| binary.seen.as_ref()).chain(&self.past))
    }

    /// The first path, for messages.
    pub(super) fn name(&self) -> &Path {
        self.binaries.first().map_or(Path::new("glexec"), |binary| &binary.path)
    }
}

fn answer(fanotify: &Fanotify, event: &FanotifyEvent, is_payload: &mut impl FnMut(i32) -> bool) {
    let Some(file) = event.fd() else { return };
    if event.check_version() && event.mask().contains(MaskFlags::FAN_OPEN_EXEC_PERM) {
        let answer = if is_payload(event.pid()) { Response::FAN_DENY } else { Response::FAN_ALLOW };
        let _ = fanotify.write_response(FanotifyResponse::new(file, answer));
    }
}

impl Binary {
    fn refresh(&mut self, fanotify: Option<&Fanotify>) -> Option<String> {
        let shown = super::message::path_text(&self.path);
        let (file, found) = match inspect(&self.path) {
            Ok(found) => found,
            Err(why) => {
                return self.seen.take().map(|_| format!("{shown} is gone: {why}; watched for its return"));
            }
        };
        let same = |old: Executable| (old.device, old.inode) == (found.device, found.inode);
        let known = self.seen.is_some_and(same);
        self.seen = Some(found);
        if known {
            return None;
        }
        match fanotify
            .map(|f| f.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN_EXEC_PERM, &file, None::<&Path>))
        {
            None | Some(Ok(())) => Some(format!("watching {shown} (inode {})", found.inode)),
            Some(Err(e)) => {
                self.seen = None;
                Some(format!("{shown} cannot be guarded: {e}; does its file system support fanotify?"))
            }
        }
    }
}

fn inspect(path: &Path) -> std::io::Result<(File, Executable)> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let found = Executable {
        device: (libc::major(meta.dev()), libc::minor(meta.dev())),
        inode: meta.ino(),
        size: meta.len(),
        setuid_root: meta.uid() == 0 && meta.mode() & 0o4000 != 0,
    };
    Ok((file, found))
}

fn classify<'a>(file: &Executable, binaries: impl Iterator<Item = &'a Executable> + Clone) -> Program {
    if binaries.clone().any(|b| (b.device, b.inode) == (file.device, file.inode)) {
        Program::Glexec
    } else if file.setuid_root {
        Program::SetuidRoot
    } else if binaries.clone().any(|b| b.size == file.size) {
        Program::Lookalike
    } else {
        Program::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_what_they_are_not_by_their_names() {
        let ours = Executable { device: (8, 1), inode: 7, size: 1000, setuid_root: true };
        let kind = |file| classify(&file, [ours].iter());
        assert_eq!(kind(ours), Program::Glexec);
        assert_eq!(kind(Executable { device: (8, 2), ..ours }), Program::SetuidRoot);
        assert_eq!(kind(Executable { inode: 8, setuid_root: false, ..ours }), Program::Lookalike);
        assert_eq!(kind(Executable { inode: 8, size: 1, setuid_root: false, ..ours }), Program::Other);
        assert_eq!(classify(&ours, [].iter()), Program::SetuidRoot);
    }

    #[test]
    fn a_binary_is_reported_when_it_changes_and_only_then() {
        let path = std::env::temp_dir().join(format!("gate-{}", std::process::id()));
        std::fs::write(&path, "one").unwrap();
        let mut binary = Binary { path: path.clone(), seen: None };
        assert!(binary.refresh(None).unwrap().starts_with("watching"));
        assert_eq!(binary.refresh(None), None);
        std::fs::write(path.with_extension("new"), "other").unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
        assert!(binary.refresh(None).unwrap().starts_with("watching"));
        std::fs::remove_file(&path).unwrap();
        assert!(binary.refresh(None).unwrap().contains("is gone"));
        assert_eq!(binary.refresh(None), None);
    }
}
