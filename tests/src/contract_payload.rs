//! A player for the tests of gLExec's contract: does what a shell cannot, as payload or as caller.
//!
//! - `fds FILE`: writes the open descriptors and what they are, one a line, and where standard ones point to
//! - `pass-fd FILE`: on the UNIX socket that is its standard input, sends four bytes, receives a descriptor, copies what
//!   it reads there to standard output, and sends a descriptor of FILE back
//! - `call NAME=VALUE... -- PROGRAM ARGUMENT...`: executes a program with exactly these variables, repetitions included

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::ffi::CString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let done = match words.iter().skip(1).map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["fds", file] => fds(file),
        ["pass-fd", file] => pass_fd(file),
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

/// The handshake of HTCondor's job wrapper, and one descriptor in each direction.
fn pass_fd(file: &str) -> Done {
    const STDIN: RawFd = 0;
    let hello = 0xdead_beef_u32.to_be_bytes();
    sendmsg::<()>(STDIN, &[IoSlice::new(&hello)], &[], MsgFlags::empty(), None)?;
    let mut byte = [0; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(STDIN, &mut slices, Some(&mut space), MsgFlags::empty())?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            received = numbers.first().copied();
        }
    }
    let number = received.ok_or("no descriptor came")?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let mut text = Vec::new();
    File::from(descriptor).read_to_end(&mut text)?;
    std::io::stdout().write_all(&text)?;
    let own = File::open(file)?;
    let rights = [own.as_raw_fd()];
    sendmsg::<()>(
        STDIN,
        &[IoSlice::new(&[1])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

fn call(words: &[&str]) -> Done {
    let end = words.iter().position(|w| *w == "--").ok_or("no --")?;
    let text = |list: &[&str]| list.iter().map(|w| CString::new(*w)).collect::<Result<Vec<_>, _>>();
    let (environment, argv) = (text(&words[..end])?, text(&words[end + 1..])?);
    nix::unistd::execve(argv.first().ok_or("no program")?, &argv, &environment)?;
    Ok(())
}
