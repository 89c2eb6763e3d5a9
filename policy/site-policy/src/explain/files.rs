//! Reading the files of the site: what `glexec` reads as root, we may not be able to.

use super::Stop;
use crate::audit::{Distrust, Kind, audit};
use crate::cli::ExplainArgs;
use crate::{accounts, child};
use policy::file::POLICY_FILE;
use policy::glexec_conf::GLEXEC_CONF;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// How the files are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct SiteFiles {
    /// Whether owners and modes count, as they do for `glexec`.
    audited: bool,
}

impl SiteFiles {
    /// A configuration at another place is a draft, and owners and modes of drafts say nothing.
    pub(super) fn of(args: &ExplainArgs) -> Self {
        let installed =
            args.policy == Path::new(POLICY_FILE) && args.places.glexec_conf == Path::new(GLEXEC_CONF);
        Self { audited: installed }
    }

    /// The text of `glexec.conf`, which the account `glexec` may own too.
    pub(super) fn conf(self, step: &'static str, path: &Path) -> Result<String, Stop> {
        let user = accounts::by_name(child::CHILD_ACCOUNT).map_err(Stop::CannotTell)?;
        self.trusted(step, path, Kind::File, user.map(|u| u.uid.as_raw()))?;
        text(step, path)
    }

    /// A text file of root.
    pub(super) fn text(self, step: &'static str, path: &Path) -> Result<String, Stop> {
        self.trusted(step, path, Kind::File, None)?;
        text(step, path)
    }

    /// A file of root with any content.
    pub(super) fn bytes(self, step: &'static str, path: &Path) -> Result<Vec<u8>, Stop> {
        self.trusted(step, path, Kind::File, None)?;
        bytes(step, path)
    }

    /// A directory that others read by its name.
    pub(super) fn directory(self, step: &'static str, path: &Path) -> Result<(), Stop> {
        self.trusted(step, path, Kind::Directory, None)
    }

    fn trusted(self, step: &'static str, path: &Path, kind: Kind, also: Option<u32>) -> Result<(), Stop> {
        if !self.audited {
            return Ok(());
        }
        audit(path, kind, also).map_err(|distrust| match distrust {
            Distrust::Missing => Stop::site(step, format!("{}: does not exist", path.display())),
            Distrust::Hidden(what) => Stop::CannotTell(what),
            Distrust::Component { at, what, remedy } => {
                Stop::site(step, format!("{}: {what}; {remedy}", at.display()))
            }
        })
    }
}

fn text(step: &'static str, path: &Path) -> Result<String, Stop> {
    String::from_utf8(bytes(step, path)?)
        .map_err(|_| Stop::site(step, format!("{}: not UTF-8 text", path.display())))
}

fn bytes(step: &'static str, path: &Path) -> Result<Vec<u8>, Stop> {
    fs::read(path).map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => {
            Stop::CannotTell(format!("{}: {e}; glexec reads it as root, so run this as root", path.display()))
        }
        _ => Stop::site(step, format!("{}: {e}", path.display())),
    })
}
