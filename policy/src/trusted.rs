//! Which paths root may trust: every directory from `/` on belongs to root and is written by nobody else, a symbolic link
//! is followed only when root owns it, and what the path ends at is of the wanted kind and belongs to root or to the one
//! other allowed owner. So nobody but root can have chosen what is found there.
//!
//! The rule is here; how a component is looked at is the business of a [`Tree`]. `glexec` opens each component from the
//! one before and keeps what it has checked; `site-policy` looks from outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// More links than this in one path are a loop (`path_resolution(7)` allows 40).
const MAX_LINKS: usize = 40;

/// What a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// Who may change a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub kind: Kind,
    /// Uid of its owner.
    pub owner: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What the last component must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    kind: Kind,
    also_owner: Option<u32>,
}

impl Rule {
    /// A regular file of root.
    pub const FILE: Rule = Rule { kind: Kind::File, also_owner: None };
    /// A directory of root.
    pub const DIRECTORY: Rule = Rule { kind: Kind::Directory, also_owner: None };

    /// Also accepts this owner.
    #[must_use]
    pub fn or_owner(self, uid: Option<u32>) -> Rule {
        Rule { also_owner: uid, ..self }
    }

    /// Whether what has this status keeps the rule; reason and remedy when it does not.
    pub fn check(self, at: &Path, status: Status) -> Result<(), Distrust> {
        let fault = |what: String, remedy: String| Err(Distrust::Fault { at: at.to_owned(), what, remedy });
        if status.kind != self.kind {
            let wanted = if self.kind == Kind::Directory { "directory" } else { "regular file" };
            return fault(format!("is not a {wanted}"), "name another path".into());
        }
        if status.owner != 0 && Some(status.owner) != self.also_owner {
            let what = format!("belongs to uid {}, not to root", status.owner);
            return fault(what, format!("chown root {}", at.display()));
        }
        if status.mode & 0o022 != 0 {
            let what = format!("mode {:04o} lets others write", status.mode & 0o7777);
            // Nobody wants a /tmp without its mode.
            let remedy = match status.mode & 0o1000 {
                0 => format!("chmod go-w {}", at.display()),
                _ => "keep it in a directory that only root can write".to_owned(),
            };
            return fault(what, remedy);
        }
        Ok(())
    }
}

/// Why root must not trust a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// This component does not exist.
    Missing(PathBuf),
    /// This process may not look at the component: what happened.
    Hidden(PathBuf, String),
    /// This component is in the way.
    Fault {
        /// Where the fault is.
        at: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
}

impl Distrust {
    /// The fault as it is told about `path`, whose walk it ended.
    pub fn about(&self, path: &Path) -> String {
        match self.at() == path {
            true => self.to_string(),
            false => format!("{}: {self}", path.display()),
        }
    }

    fn at(&self) -> &Path {
        match self {
            Self::Missing(at) | Self::Hidden(at, _) | Self::Fault { at, .. } => at,
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at().display();
        match self {
            Self::Missing(_) => write!(f, "{at}: No such file or directory"),
            Self::Hidden(_, what) => write!(f, "{at}: {what}"),
            Self::Fault { what, remedy, .. } => write!(f, "{at}: {what}; {remedy}"),
        }
    }
}

/// Why a component cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookError {
    /// There is none.
    Missing,
    /// The system's reason.
    Other(String),
}

/// A file system to walk through.
pub trait Tree {
    /// A component that was reached.
    type Place;

    /// The root directory.
    fn root(&self) -> Result<(Self::Place, Status), LookError>;

    /// What has this name in the directory; links are not followed. The last component is wanted for reading.
    fn step(&self, from: &Self::Place, name: &OsStr, last: bool) -> Result<(Self::Place, Status), LookError>;

    /// Where a link points.
    fn target(&self, link: &Self::Place) -> Result<PathBuf, LookError>;
}

/// Walks an absolute path and returns what it ends at.
///
/// # Errors
/// For the first component that breaks the rule.
pub fn walk<T: Tree>(tree: &T, path: &Path, rule: Rule) -> Result<T::Place, Distrust> {
    let fault = |at: &Path, what: &str, remedy: &str| Distrust::Fault {
        at: at.to_owned(),
        what: what.to_owned(),
        remedy: remedy.to_owned(),
    };
    if !path.is_absolute() {
        return Err(fault(path, "the path must be absolute", "begin it with /"));
    }
    let mut rest = VecDeque::new();
    put_before(path, &mut rest);
    if rest.is_empty() {
        return Err(fault(path, "names no file", "name another path"));
    }
    let start = || {
        let root = Path::new("/");
        let (place, status) = tree.root().map_err(|e| unseen(root, e))?;
        Rule::DIRECTORY.check(root, status).map(|()| (root.to_owned(), place))
    };
    let (mut here, mut place) = start()?;
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        let next = if name == ".." { here.parent().unwrap_or(&here).to_owned() } else { here.join(&name) };
        let last = rest.is_empty();
        let (reached, status) = tree.step(&place, &name, last).map_err(|e| unseen(&next, e))?;
        if status.kind == Kind::Link {
            links += 1;
            if links > MAX_LINKS || status.owner != 0 {
                let what = "is a link that root does not own, or one of a loop";
                return Err(fault(&next, what, "name the file itself"));
            }
            let target = tree.target(&reached).map_err(|e| unseen(&next, e))?;
            if target.is_absolute() {
                (here, place) = start()?;
            }
            put_before(&target, &mut rest);
            continue;
        }
        if last { rule } else { Rule::DIRECTORY }.check(&next, status)?;
        (here, place) = (next, reached);
    }
    Ok(place)
}

fn unseen(at: &Path, error: LookError) -> Distrust {
    match error {
        LookError::Missing => Distrust::Missing(at.to_owned()),
        LookError::Other(what) => Distrust::Hidden(at.to_owned(), what),
    }
}

/// Puts the components of a path before what is left to walk.
fn put_before(path: &Path, rest: &mut VecDeque<OsString>) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => rest.push_front(name.to_owned()),
            Component::ParentDir => rest.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}
