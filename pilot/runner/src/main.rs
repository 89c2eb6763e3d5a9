//! The program `pilot-runner`; everything is done in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(pilot_runner::run(std::env::args_os().nth(1).as_deref()))
}
