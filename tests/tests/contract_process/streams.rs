//! The standard streams belong to the payload, and only to the payload.

use end_to_end::contract::{
    GLEXEC, call, install_tool, kill_as, lives, set_conf, sh, site, wait_gone, written,
};
use harness::{Machine, needs};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::fs;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

const PLAYER: &str = env!("CARGO_BIN_EXE_contract-payload");

#[test]
#[needs(root)]
fn closed_standard_descriptors_become_dev_null() {
    let m = site();
    let player = install_tool(&m, PLAYER);
    for (closed, expected) in [("<&- >&- 2>&-", &[0, 1, 2][..]), (">&-", &[1]), ("<&- 2>&-", &[0, 2])] {
        let file = format!("/home/alice/fds{}", expected.len());
        let run = m.command("/bin/sh").as_user("pilot");
        let run = run.env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let script = format!("exec {GLEXEC} \"$@\" {closed}");
        run.args(["-c", &script, "sh", &player, "fds", &file]).output().exits(0);
        let text = fs::read_to_string(&file).unwrap();
        for number in expected {
            assert!(text.contains(&format!("{number} /dev/null\n")), "{closed}: {text}");
        }
    }
    // They can be used like any other: input is at its end, output is taken.
    let script = "cat && echo out && echo err >&2 && echo done >/home/alice/done";
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let closing = format!("exec {GLEXEC} /bin/sh -c \"$1\" <&- >&- 2>&-");
    run.args(["-c", &closing, "sh", script]).output().exits(0);
    assert_eq!(written("/home/alice/done"), "done");
}

/// HTCondor's procd closes everything below 255 first; whatever else a caller has open is none of the payload's business.
#[test]
#[needs(root)]
fn the_payload_gets_the_standard_descriptors_alone() {
    let m = site();
    let player = install_tool(&m, PLAYER);
    m.write("/home/pilot/secret", "pilot", 0o600, "secret\n");
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let script = format!("exec 3</home/pilot/secret 9>/tmp/nine; exec {GLEXEC} \"$@\"");
    run.args(["-c", &script, "sh", &player, "fds", "/home/alice/fds"]).output().ok();
    let text = fs::read_to_string("/home/alice/fds").unwrap();
    let numbers: Vec<_> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{text}");
}

#[test]
#[needs(root)]
fn a_socket_as_standard_input_passes_descriptors_both_ways() {
    let m = site();
    let player = install_tool(&m, PLAYER);
    m.write("/home/pilot/secret", "pilot", 0o600, "only the pilot can open this\n");
    m.write("/home/alice/answer", "alice", 0o600, "only Alice can open this\n");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut run = call(&m, &m.proxy("Alice", "pilot")).args([&player, "pass-fd", "/home/alice/answer"]);
    run.raw().stdin(OwnedFd::from(theirs)).stdout(Stdio::piped());
    let mut child = run.start();
    drop(run);
    let mut hello = [0; 4];
    (&ours).read_exact(&mut hello).unwrap();
    assert_eq!(u32::from_be_bytes(hello), 0xdead_beef);
    let secret = File::open("/home/pilot/secret").unwrap();
    let rights = [secret.as_raw_fd()];
    let socket = ours.as_raw_fd();
    sendmsg::<()>(
        socket,
        &[IoSlice::new(&[1])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    let mut answer = String::new();
    receive(socket).read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "only Alice can open this\n");
    let mut copied = String::new();
    child.stdout.take().unwrap().read_to_string(&mut copied).unwrap();
    assert_eq!(copied, "only the pilot can open this\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn receive(socket: RawFd) -> File {
    let mut byte = [0; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    let numbers = message.cmsgs().unwrap().find_map(|c| match c {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    let number = numbers.and_then(|n| n.first().copied()).expect("a descriptor came");
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    File::from(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Starts a payload that closes its streams and goes on, and waits for the end of its output as BLAH does.
fn output_ends_before_the_payload(m: &Machine) {
    let mut run = sh(m, "echo $$ >/home/alice/pid; echo first; exec >&- 2>&- <&-; sleep 1000");
    run.raw().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.start();
    drop(run);
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("first\n", ""));
    let mut input = child.stdin.take().unwrap();
    end_to_end::contract::eventually("nobody reads standard input", Duration::from_secs(60), || {
        input.write_all(b"x").is_err().then_some(())
    });
    let pid: i32 = written("/home/alice/pid").parse().unwrap();
    assert!(child.try_wait().unwrap().is_none() && lives(pid), "the payload goes on");
    assert!(kill_as(m, "alice", "KILL", pid));
    child.wait().unwrap();
    wait_gone(pid);
}

#[test]
#[needs(root)]
fn the_waiter_keeps_nothing_of_the_caller_open() {
    output_ends_before_the_payload(&site());
}

#[test]
#[needs(root)]
fn without_linger_nobody_keeps_anything_of_the_caller_open() {
    let m = site();
    set_conf(&m, "linger", "no");
    output_ends_before_the_payload(&m);
}

#[test]
#[needs(root)]
fn a_background_process_that_may_live_on_does_not_hold_the_caller() {
    let m = Machine::builder()
        .pilot("pilot")
        .account("alice")
        .policy_add("[payload]\nkill_leftovers = false\n")
        .build();
    m.map("Alice", "alice");
    let script = "(exec >&- 2>&- <&-; sleep 1000) & echo $! >/home/alice/pid; echo done";
    let ran = sh(&m, script).limit(Duration::from_secs(10)).output();
    assert_eq!(ran.ok(), "done");
    let pid: i32 = written("/home/alice/pid").parse().unwrap();
    assert!(lives(pid), "the site lets it live");
    assert!(kill_as(&m, "alice", "KILL", pid));
    wait_gone(pid);
}

#[test]
#[needs(root)]
fn success_is_silent_and_streams_are_binary() {
    let m = site();
    let bytes: Vec<u8> = (0..=255u8).rev().cycle().take(3 << 20).collect();
    let ran = sh(&m, "cat").input(bytes.clone()).output();
    assert_eq!((ran.code(), ran.errors()), (Some(0), String::new()));
    assert!(ran.stdout == bytes, "standard input arrives unchanged on standard output");
    // Input that the payload does not read stays for whoever comes next.
    let script = format!("{{ {GLEXEC} /bin/true; cat; }}");
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    assert_eq!(run.args(["-c", &script]).input("for the next\n").output().ok(), "for the next");
}
