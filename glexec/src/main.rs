//! `glexec`: runs a grid user's payload under that user's local account.

fn main() -> std::process::ExitCode {
    glexec::main()
}
