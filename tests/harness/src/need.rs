//! What a test needs from the host, asked before it starts.
//!
//! A test that cannot run here says why and is skipped; where everything must work (`PILOTAGE_MUST_WORK=1`, set by
//! continuous integration) it fails instead, so that nothing is skipped unnoticed.
//!
//! ```ignore
//! #[test]
//! #[needs(root, "grid-proxy-init")]
//! fn a_proxy_is_mapped() { ... }
//! ```
//!
//! [`needs`](crate::needs) asks the functions below that take no argument, and [`tool`]. A need that only the test itself
//! can find out about is asked for in its body, with [`that`].

use crate::view;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// Names a file that gets one line for each test that is skipped; `make test` sets it and counts the lines.
const SKIPPED: &str = "PILOTAGE_SKIPPED";

/// Root, with the right to make mount namespaces, on a kernel with overlayfs: what a [`crate::Machine`] is made of.
///
/// # Panics
/// When it is missing and `PILOTAGE_MUST_WORK=1`.
pub fn root() -> bool {
    if !nix::unistd::geteuid().is_root() {
        return missing("root is needed to switch accounts; run the tests as root");
    }
    static HINDRANCE: OnceLock<Option<String>> = OnceLock::new();
    HINDRANCE.get_or_init(view::hindrance).as_deref().is_none_or(missing)
}

/// A program in `PATH` or the system's own directories.
///
/// # Panics
/// When it is missing and `PILOTAGE_MUST_WORK=1`.
pub fn tool(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"]);
    let found = places.into_iter().any(|dir| Path::new(dir).join(name).is_file());
    found || missing(&format!("program {name} is not installed; `make packages` installs it"))
}

/// libfaketime: what a [`fault::Clock`](crate::fault::Clock) is made of.
///
/// # Panics
/// When it is missing and `PILOTAGE_MUST_WORK=1`.
pub fn faketime() -> bool {
    crate::fault::faketime_library().is_some()
        || missing("libfaketime is not installed; `make packages` installs it")
}

/// Anything else, which was tried: `why` says what is missing when it is not met.
///
/// # Panics
/// When it is missing and `PILOTAGE_MUST_WORK=1`.
pub fn that(met: bool, why: &str) -> bool {
    met || missing(why)
}

fn missing(why: &str) -> bool {
    assert!(std::env::var("PILOTAGE_MUST_WORK").as_deref() != Ok("1"), "{why}");
    eprintln!("skipped: {why}");
    if let Some(file) = std::env::var_os(SKIPPED) {
        let opened = OpenOptions::new().append(true).open(file);
        let noted = opened.and_then(|mut f| f.write_all(format!("{why}\n").as_bytes()));
        noted.expect("the list of skipped tests can be written");
    }
    false
}

#[cfg(test)]
mod tests {
    use super::SKIPPED;
    use crate::needs;
    use std::process::{Command, ExitStatus};

    const PROBE: &str = "PILOTAGE_NEEDS_PROBE";

    #[needs("cat", "no-such-program")]
    fn impossible() {
        panic!("it runs without what it needs");
    }

    #[needs("cat")]
    fn possible() {
        std::process::exit(7);
    }

    /// Runs this very test again, where it does nothing but call one of the functions above.
    fn again(function: &str, setting: (&str, &str)) -> ExitStatus {
        let mut program =
            Command::new(std::env::current_exe().expect("the kernel knows the running program"));
        program.args(["--exact", "need::tests::what_is_missing_is_counted_or_a_failure"]);
        program.env_remove("PILOTAGE_MUST_WORK").env_remove(SKIPPED).env(PROBE, function);
        program.env(setting.0, setting.1).output().expect("it can be run").status
    }

    #[test]
    fn what_is_missing_is_counted_or_a_failure() {
        match std::env::var(PROBE).as_deref() {
            Ok("impossible") => return impossible(),
            Ok(_) => return possible(),
            Err(_) => {}
        }
        let list = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = list.path().to_str().expect("a plain name");
        assert!(again("impossible", (SKIPPED, path)).success());
        let noted = std::fs::read_to_string(path).expect("the list");
        assert_eq!(noted.lines().count(), 1, "{noted}");
        assert!(noted.contains("no-such-program"), "{noted}");
        assert!(!again("impossible", ("PILOTAGE_MUST_WORK", "1")).success());
        assert_eq!(again("possible", (SKIPPED, path)).code(), Some(7));
    }
}
