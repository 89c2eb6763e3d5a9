//! Finding and calling `glexec` for a program that stands beside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// How to call `glexec`.
#[derive(Debug, Clone)]
pub struct Gateway(PathBuf);

/// A call that did not do what it should.
#[derive(Debug)]
pub struct Refused {
    /// Exit code to end with: that of glexec when it refused (201 to 204), so that the caller can tell whether trying
    /// again makes sense; else 1.
    pub code: u8,
    /// One line.
    pub reason: String,
}

impl Gateway {
    /// Looks for `glexec` beside the running program, then where the environment says: `OSG_GLEXEC_LOCATION` is the
    /// program, `GLEXEC_LOCATION` and `GLITE_LOCATION` are prefixes of `sbin/glexec`.
    ///
    /// # Errors
    /// One line that says where it was looked for.
    pub fn find() -> Result<Self, String> {
        let own = std::env::current_exe().ok();
        let places = places(own.as_deref(), |name| std::env::var_os(name));
        let found = places.iter().find(|place| place.is_file()).cloned();
        found.map(Self).ok_or_else(|| {
            let looked: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
            format!("glexec is not in {}; set GLEXEC_LOCATION to its prefix", looked.join(", "))
        })
    }

    /// Runs a command as the payload's account, silently, and without leaving a copy of the proxy anywhere.
    ///
    /// # Errors
    /// What glexec or the command said on standard error.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, command: &[S]) -> Result<(), Refused> {
        let call = Command::new(&self.0)
            .args(command)
            .env("GLEXEC_TARGET_PROXY", "/dev/null")
            .stdin(Stdio::null())
            .output();
        match call {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(refusal(&output)),
            Err(error) => Err(Refused { code: 1, reason: format!("{}: {error}", self.0.display()) }),
        }
    }
}

fn places(own: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let given = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let beside = own.and_then(Path::parent).map(|dir| dir.join("glexec"));
    let below = |name: &str| given(name).map(|prefix| prefix.join("sbin/glexec"));
    let all = [beside, given("OSG_GLEXEC_LOCATION"), below("GLEXEC_LOCATION"), below("GLITE_LOCATION")];
    all.into_iter().flatten().collect()
}

fn refusal(output: &Output) -> Refused {
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>();
    Refused {
        code: code.filter(|code| (201..=204).contains(code)).unwrap_or(1),
        reason: if said.is_empty() {
            format!("glexec ended with {}", output.status)
        } else {
            said.join("; ")
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_comes_first_then_what_the_environment_names() {
        let variable = |name: &str| match name {
            "OSG_GLEXEC_LOCATION" => Some("/osg/glexec".into()),
            "GLEXEC_LOCATION" => Some("".into()),
            _ => Some("/opt/glite".into()),
        };
        let found = places(Some(Path::new("/usr/sbin/mkgltempdir")), variable);
        assert_eq!(found, ["/usr/sbin/glexec", "/osg/glexec", "/opt/glite/sbin/glexec"].map(PathBuf::from));
    }
}
