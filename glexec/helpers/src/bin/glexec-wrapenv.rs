//! `glexec_wrapenv.pl`: prints the environment as one blob, to be put into `GLEXEC_ENV`.

use glexec_helpers::exclusion::{self, Parsed};
use glexec_helpers::{answer, blob, complain};
use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;

const PROGRAM: &str = "glexec_wrapenv.pl";
const USAGE: &str = "\
Usage: glexec_wrapenv.pl [--exclude=NAME[,NAME]...]...
Prints the environment as one word for GLEXEC_ENV; glexec passes that on, and glexec_unwrapenv.pl unpacks it:
  export GLEXEC_ENV=`glexec_wrapenv.pl`; glexec /usr/sbin/glexec_unwrapenv.pl -- COMMAND [ARGUMENT]...
Never included: HOME LOGNAME USER X509_USER_PROXY _";
/// A blob of an earlier call would travel in the blob of this one, and grow with each.
const BLOB: &str = "GLEXEC_ENV";

fn main() -> ExitCode {
    let exclusion = match exclusion::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(exclusion, rest)) if rest.is_empty() => exclusion,
        Ok(Parsed::Help) => return said(USAGE),
        Ok(Parsed::Version) => return said(concat!("glexec_wrapenv.pl ", env!("CARGO_PKG_VERSION"))),
        Ok(Parsed::Run(..)) => return refused("takes no arguments; see --help"),
        Err(why) => return refused(&why),
    };
    let (out, kept): (Vec<_>, Vec<_>) =
        std::env::vars_os().filter(|(name, _)| name != BLOB).partition(|(name, _)| exclusion.has(name));
    for (name, _) in out {
        let _ = writeln!(std::io::stderr(), "Skipping {}", name.to_string_lossy());
    }
    let pairs = kept.iter().map(|(n, v)| (n.as_os_str(), v.as_os_str()));
    match blob::wrap(pairs) {
        Ok(blob) => print(&blob),
        Err(error) => refused(&error.to_string()),
    }
}

fn print(blob: &str) -> ExitCode {
    let needed = OsStr::new(BLOB).len() + 1 + blob.len() + 1;
    if needed > blob::LONGEST_VARIABLE {
        complain(
            PROGRAM,
            &format!(
                "{BLOB} would have {needed} bytes, more than one variable may; leave some out with --exclude"
            ),
        );
        return ExitCode::FAILURE;
    }
    match std::io::stdout().write_all(blob.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refused(&format!("standard output: {error}")),
    }
}

fn said(text: &str) -> ExitCode {
    answer(text);
    ExitCode::SUCCESS
}

fn refused(why: &str) -> ExitCode {
    complain(PROGRAM, why);
    ExitCode::from(255)
}
