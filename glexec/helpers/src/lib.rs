//! The programs that stand beside `glexec` and that its clients call, with the input and output of the scripts of
//! gLExec 0.9 whose names they are installed under. They run with the privilege of whoever calls them, never more.
//!
//! | program | installed as | what it does | here |
//! |---|---|---|---|
//! | `glexec-wrapenv` | `glexec_wrapenv.pl` | prints the environment as one blob, for `GLEXEC_ENV` | [`blob`], [`exclusion`] |
//! | `glexec-unwrapenv` | `glexec_unwrapenv.pl` | sets the environment from `GLEXEC_ENV`, runs a command | [`blob`], [`exclusion`] |
//! | `mkgltempdir` | `mkgltempdir` | makes and removes a directory of the payload's account | [`tempdir`], [`gateway`] |
//! | `glexec_wrap.sh` | `glexec_wrap.sh` | the first two around one call of `glexec` | |
//!
//! What the old scripts did wrong is right here: names are excluded when they are equal, not when they are part of an
//! excluded one; a command that cannot be started ends with 126 or 127; arguments keep their blanks.

pub mod blob;
pub mod exclusion;
pub mod gateway;
pub mod tempdir;

use std::io::Write;

/// Says on standard error, in one line, why `program` cannot go on.
pub fn complain(program: &str, why: &str) {
    let line = why.replace(char::is_control, "?");
    let _ = writeln!(std::io::stderr(), "{program}: {line}");
}

/// Prints an answer and its line break on standard output; a reader that went away is no error.
pub fn answer(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
