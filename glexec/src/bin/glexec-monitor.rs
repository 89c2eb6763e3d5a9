//! `glexec-monitor`: keeps payloads away from `glexec`, and closes sessions that were lost.

fn main() -> std::process::ExitCode {
    glexec::monitor::main()
}
