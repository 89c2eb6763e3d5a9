//! The certification suites of gLite, EMI and the client experiments, row by row: a letter for the suite, the number of
//! its test, then what it looks at. `docs/glexec-compat.md` has the whole table and the side that we took.
//!
//! - `a` regression suite that runs as root, `b` to `e` exit codes of 0.6 to 0.9, `f` wrapping of the environment
//! - `o` Open Science Grid, `g` glideinWMS, `n` CMS, `r` DIRAC, `s` stress

mod clients;
mod codes;
mod regression;

use harness::Ran;

const ID: [&str; 2] = ["/usr/bin/id", "-u"];

/// A refusal says why and runs nothing.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    ran.refused(code, words);
    assert_eq!(ran.text(), "", "a refused call prints nothing on standard output");
}
