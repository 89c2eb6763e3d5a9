//! A payload that tries what it must not be able to do, for the security tests. It prints what came of it.
//!
//! - `fexec PROGRAM ARGUMENT...`: executes a program by a descriptor that knows no path
//! - `ptrace PID`: attaches to a process
//! - `reaper ARGUMENT...`: runs a program whose parent has ended, under a reaper of its own

use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use std::ffi::CString;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["fexec", command @ ..] => fexec(command),
        ["ptrace", pid] => println!("ptrace {}", told(ptrace(number(pid)))),
        ["reaper", command @ ..] => reaper(command),
        _ => panic!("see the source for the ways to call this"),
    }
}

fn number(text: &str) -> i32 {
    text.parse().expect("a number")
}

/// How an attempt ended.
fn told<T>(result: Result<T, Errno>) -> String {
    result.map_or_else(|errno| format!("{errno:?}"), |_| "DONE".to_owned())
}

fn strings(command: &[&str]) -> Vec<CString> {
    command.iter().map(|w| CString::new(*w).expect("arguments have no NUL")).collect()
}

fn fexec(command: &[&str]) {
    let flags = nix::fcntl::OFlag::O_PATH;
    let file = nix::fcntl::open(command[0], flags, nix::sys::stat::Mode::empty()).expect("it can be named");
    let environment: Vec<_> = std::env::vars().map(|(n, v)| format!("{n}={v}")).collect();
    let environment = strings(&environment.iter().map(String::as_str).collect::<Vec<_>>());
    let error = nix::unistd::fexecve(file, &strings(command), &environment);
    println!("fexec {}", told(error));
}

fn ptrace(pid: i32) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: attaching reads and writes no memory of this process.
    Errno::result(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) }).map(drop)
}

fn fork() -> ForkResult {
    // SAFETY: this program has one thread.
    unsafe { nix::unistd::fork() }.expect("a process can be made")
}

fn reaper(command: &[&str]) {
    nix::sys::prctl::set_child_subreaper(true).expect("anybody may reap");
    if let ForkResult::Child = fork() {
        if let ForkResult::Child = fork() {
            // Runs once the parent is gone, as a child of the reaper.
            std::thread::sleep(std::time::Duration::from_millis(50));
            let _ = nix::unistd::execv(&strings(command)[0], &strings(command));
        }
        std::process::exit(0);
    }
    while waitpid(Pid::from_raw(-1), None).is_ok() {}
}
