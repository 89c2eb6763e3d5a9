//! Opening files that root trusts.
//!
//! A path is walked from `/`, one `openat` a component. Each directory must belong to root and be writable by
//! nobody else; a link is followed only when root owns it, from a directory that passed. What is opened at the end is
//! checked by its descriptor and never opened again. So nobody but root can have chosen what is read.

use crate::failure::Failure;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

/// More links than this in one path are a loop (`path_resolution(7)` allows 40).
const MAX_LINKS: usize = 40;
/// Site files are small; what is larger is a mistake.
const MAX_SITE_FILE: u64 = 64 * 1024 * 1024;

/// Who may own the last component, besides root, and what it must be.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    also_owner: Option<u32>,
    kind: SFlag,
}

impl Rule {
    /// A regular file of root.
    pub(crate) const FILE: Rule = Rule { also_owner: None, kind: SFlag::S_IFREG };
    /// A directory of root.
    pub(crate) const DIRECTORY: Rule = Rule { also_owner: None, kind: SFlag::S_IFDIR };

    /// Also accepts this owner.
    pub(crate) fn or_owner(self, uid: Option<u32>) -> Rule {
        Rule { also_owner: uid, ..self }
    }
}

/// Opens the path for reading; a failure is the site's (202) and names the component.
pub(crate) fn open(path: &Path, rule: Rule) -> Result<File, Failure> {
    walk(path, rule).map(File::from).map_err(|why| Failure::site(format!("{}: {why}", path.display())))
}

/// Reads a whole text file that passes [`open`].
pub(crate) fn read(path: &Path, rule: Rule) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::site(format!("{}: {why}", path.display()));
    let file = open(path, rule)?;
    let size = file.metadata().map_or(0, |meta| meta.len().min(MAX_SITE_FILE));
    // One byte more than expected, so that the end is seen with the first read.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_SITE_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX_SITE_FILE {
        return Err(failed("larger than 64 MiB".into()));
    }
    Ok(bytes)
}

/// As [`read`], for UTF-8 text.
pub(crate) fn read_text(path: &Path, rule: Rule) -> Result<String, Failure> {
    String::from_utf8(read(path, rule)?)
        .map_err(|_| Failure::site(format!("{}: not UTF-8 text", path.display())))
}

/// Whether the path exists at all; other errors are for [`open`] to report.
pub(crate) fn exists(path: &Path) -> bool {
    !matches!(std::fs::symlink_metadata(path), Err(e) if e.kind() == std::io::ErrorKind::NotFound)
}

fn walk(path: &Path, rule: Rule) -> Result<OwnedFd, String> {
    let mut rest = components(path)?;
    let mut links = 0;
    let mut directory = open_root()?;
    while let Some(name) = rest.pop_front() {
        let at = |why: &dyn std::fmt::Display| format!("{}: {why}", name.to_string_lossy());
        let last = rest.is_empty();
        let (fd, stat) = step(&directory, &name, last).map_err(|e| at(&e.desc()))?;
        if kind(&stat) != SFlag::S_IFLNK {
            check(&stat, if last { rule } else { Rule::DIRECTORY }).map_err(|why| at(&why))?;
            directory = fd;
            continue;
        }
        links += 1;
        if links > MAX_LINKS || stat.st_uid != 0 {
            return Err(at(&"is a link that root does not own, or one of a loop"));
        }
        let target = readlinkat(&fd, "").map_err(|e| at(&e.desc()))?;
        if Path::new(&target).is_absolute() {
            directory = open_root()?;
        }
        components_of_link(Path::new(&target), &mut rest)?;
    }
    Ok(directory)
}

/// Opens what has this name in the directory: the last one for reading, others as a place to go on from, links to look at.
fn step(directory: &OwnedFd, name: &OsStr, last: bool) -> nix::Result<(OwnedFd, FileStat)> {
    let open = |flags| {
        openat(directory, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())
    };
    // Without O_DIRECTORY, O_PATH would stop before what autofs mounts there, such as a repository of CVMFS.
    let wanted = if last { OFlag::O_RDONLY | OFlag::O_NONBLOCK } else { OFlag::O_PATH | OFlag::O_DIRECTORY };
    let fd = match open(wanted) {
        Err(Errno::ELOOP | Errno::ENOTDIR) => open(OFlag::O_PATH),
        opened => opened,
    }?;
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}

fn open_root() -> Result<OwnedFd, String> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open("/", flags, Mode::empty()).map_err(|e| format!("/: {e}"))?;
    let stat = fstat(&root).map_err(|e| format!("/: {e}"))?;
    check(&stat, Rule::DIRECTORY).map_err(|why| format!("/: {why}"))?;
    Ok(root)
}

fn components(path: &Path) -> Result<VecDeque<OsString>, String> {
    if !path.is_absolute() {
        return Err("the path must be absolute".into());
    }
    let mut names = VecDeque::new();
    components_of_link(path, &mut names)?;
    if names.is_empty() { Err("names no file".into()) } else { Ok(names) }
}

/// Puts the components of a link's target before what is left to walk.
fn components_of_link(target: &Path, rest: &mut VecDeque<OsString>) -> Result<(), String> {
    for component in target.components().rev() {
        match component {
            Component::Normal(name) => rest.push_front(name.to_owned()),
            Component::ParentDir => rest.push_front("..".into()),
            Component::RootDir | Component::CurDir => {}
            Component::Prefix(_) => return Err("not a path of this system".into()),
        }
    }
    Ok(())
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn check(stat: &FileStat, rule: Rule) -> Result<(), String> {
    if kind(stat) != rule.kind {
        let wanted = if rule.kind == SFlag::S_IFDIR { "directory" } else { "regular file" };
        return Err(format!("is not a {wanted}"));
    }
    if stat.st_uid != 0 && Some(stat.st_uid) != rule.also_owner {
        return Err(format!("belongs to uid {}, not to root", stat.st_uid));
    }
    if stat.st_mode & 0o022 != 0 {
        let mode = stat.st_mode & 0o7777;
        return Err(format!("mode {mode:04o} lets others write; chmod go-w"));
    }
    Ok(())
}
