//! A player for the tests of gLExec's contract: does what a shell cannot, as payload or as caller.
//!
//! - `fds FILE`: writes the open descriptors and what they are, one a line, and where standard ones point to
//! - `pass-fd FILE`: on the UNIX socket that is its standard input, sends four bytes, receives a descriptor, copies what
//!   it reads there to standard output, and sends a descriptor of FILE back
//! - `job-wrapper IN PROGRAM ARGUMENT...`: says hello on its standard input, a UNIX socket; receives an environment and a
//!   descriptor for errors there; executes a program with them and with the file IN as its input
//! - `call NAME=VALUE... -- PROGRAM ARGUMENT...`: executes a program with exactly these variables, repetitions included
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::ffi::CString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let done = match words.iter().skip(1).map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["fds", file] => fds(file),
        ["pass-fd", file] => pass_fd(file),
        ["job-wrapper", input, rest @ ..] => job_wrapper(input, rest),
        ["call", rest @ ..] => call(rest),
        _ => Err("usage: contract-payload fds FILE | pass-fd FILE | call NAME=VALUE... -- PROGRAM...".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("contract-payload: {error}");
            ExitCode::from(99)
        }
    }
}

fn fds(file: &str) -> Done {
    let mut lines = Vec::new();
    for number in 0..1024 {
        if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}")) {
            lines.push(format!("{number} {}\n", target.display()));
        }
    }
    // Looked at before it is opened, so that it is not among them.
    Ok(std::fs::write(file, lines.concat())?)
}

const STDIN: RawFd = 0;

/// The handshake of HTCondor's job wrapper.
fn hello() -> Done {
    let hello = 0xdead_beef_u32.to_be_bytes();
    sendmsg::<()>(STDIN, &[IoSlice::new(&hello)], &[], MsgFlags::empty(), None)?;
    Ok(())
}

/// Receives a message with one descriptor.
fn receive() -> Result<(Vec<u8>, OwnedFd), Box<dyn std::error::Error>> {
    let mut bytes = vec![0; 4096];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(STDIN, &mut slices, Some(&mut space), MsgFlags::empty())?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            received = numbers.first().copied();
        }
    }
    let length = message.bytes;
    let number = received.ok_or("no descriptor came")?;
    bytes.truncate(length);
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok((bytes, unsafe { OwnedFd::from_raw_fd(number) }))
}

fn pass_fd(file: &str) -> Done {
    hello()?;
    let (_, descriptor) = receive()?;
    let mut text = Vec::new();
    File::from(descriptor).read_to_end(&mut text)?;
    std::io::stdout().write_all(&text)?;
    let own = File::open(file)?;
    let rights = [own.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(STDIN, &[IoSlice::new(&[1])], &rights, MsgFlags::empty(), None)?;
    Ok(())
}

fn job_wrapper(input: &str, words: &[&str]) -> Done {
    hello()?;
    let (environment, errors) = receive()?;
    let (program, arguments) = words.split_first().ok_or("no program")?;
    let text = String::from_utf8(environment)?;
    let variables = text.split('\0').filter_map(|v| v.split_once('='));
    let mut job = std::process::Command::new(program);
    job.args(arguments).env_clear().envs(variables).stdin(File::open(input)?).stderr(errors);
    Err(job.exec().into())
}

fn call(words: &[&str]) -> Done {
    let end = words.iter().position(|w| *w == "--").ok_or("no --")?;
    let text = |list: &[&str]| list.iter().map(|w| CString::new(*w)).collect::<Result<Vec<_>, _>>();
    let (environment, argv) = (text(&words[..end])?, text(&words[end + 1..])?);
    nix::unistd::execve(argv.first().ok_or("no program")?, &argv, &environment)?;
    Ok(())
}
