//! Finds `pilot-runner` and starts it in a way that outlives an upgrade of the pilot.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where packages put it.
pub const INSTALLED: &str = "/usr/libexec/pilotage/pilot-runner";
const NAME: &str = "pilot-runner";

/// The runner's program.
#[derive(Debug)]
pub struct Runner {
    path: PathBuf,
    /// The file that was there at the start, even when another one has its name by now.
    file: File,
    /// Whether it is `pilot` itself, which can do the same, at the price of a large program for each payload.
    is_pilot: bool,
}

impl Runner {
    /// Looks beside the running program (as cargo builds them), below the same prefix, and where packages put it.
    ///
    /// # Errors
    /// When there is none, or not one of this build.
    pub fn find(named: Option<&Path>) -> Result<Self> {
        let exe = std::env::current_exe().context("cannot find the pilot program itself")?;
        let places = candidates(named, &exe);
        let found = places.iter().find(|path| path.is_file()).or(named.map(|_| &places[0])).cloned();
        let is_pilot = found.is_none();
        let path = found.unwrap_or(exe);
        let opened = File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(&path);
        let file = opened.with_context(|| format!("--runner: cannot open {}", path.display()))?;
        let runner = Self { path, file, is_pilot };
        if is_pilot {
            tracing::warn!(looked_for = ?places, "pilot-runner is not installed: each payload starts the whole of pilot instead");
        } else {
            runner.check()?;
        }
        Ok(runner)
    }

    /// What makes the program a runner.
    pub fn arguments(&self) -> &'static [&'static str] {
        if self.is_pilot { &["runner"] } else { &[] }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            path: INSTALLED.into(),
            file: File::open("/dev/null").expect("every Linux has it"),
            is_pilot: false,
        }
    }

    /// Starts it once, so that a runner that cannot run costs no payload.
    fn check(&self) -> Result<()> {
        let name = self.path.display();
        let answer = Command::new(&self.path).arg("--version").env_clear().output();
        let answer = answer.with_context(|| format!("cannot start {name}; its mode is 0711"))?;
        let said = String::from_utf8_lossy(&answer.stdout);
        if !said.trim_end().ends_with(&format!("(wire {})", pilot_wire::VERSION)) {
            bail!("{name} is not of this build (it says {:?}); install both from one build", said.trim());
        }
        Ok(())
    }

    /// For `glexec`, which starts what has this name now. A package replaces it by renaming, so there always is one.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For the pilot itself: the very file that was found at the start.
    #[must_use]
    pub fn handle(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

fn candidates(named: Option<&Path>, exe: &Path) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let dir = exe.parent().unwrap_or(Path::new("/"));
    let prefix = dir.parent().unwrap_or(Path::new("/"));
    let mut places = vec![dir.join(NAME), prefix.join("libexec/pilotage").join(NAME), INSTALLED.into()];
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_the_program_and_below_its_prefix() {
        let of = |exe: &str| {
            candidates(None, Path::new(exe)).into_iter().map(|p| p.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("/usr/bin/pilot"), ["/usr/bin/pilot-runner", INSTALLED]);
        assert_eq!(of("/opt/grid/bin/pilot")[1], "/opt/grid/libexec/pilotage/pilot-runner");
        assert_eq!(candidates(Some(Path::new("/x")), Path::new("/usr/bin/pilot")), [Path::new("/x")]);
    }

    #[test]
    fn a_program_that_is_no_runner_is_refused_before_a_payload_meets_it() {
        let error = Runner::find(Some(Path::new("/bin/echo"))).unwrap_err();
        assert!(format!("{error:#}").contains("not of this build"), "{error:#}");
        let error = Runner::find(Some(Path::new("/nowhere/runner"))).unwrap_err();
        assert!(format!("{error:#}").contains("--runner"), "{error:#}");
    }
}
