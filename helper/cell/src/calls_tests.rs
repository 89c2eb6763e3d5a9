use super::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

/// A filter binds the thread that applies it, so each question gets a thread of its own.
fn within<T: Send + 'static>(calls: Calls, ask: impl FnOnce() -> T + Send + 'static) -> T {
    let ask = move || {
        filter(calls).unwrap();
        ask()
    };
    std::thread::spawn(ask).join().unwrap()
}

/// Whether the act fails for want of permission in the cell, and for no such reason outside.
fn is_denied<T>(calls: Calls, act: impl Fn() -> std::io::Result<T> + Clone + Send + 'static) -> bool {
    let eperm = |result: std::io::Result<T>| result.is_err_and(|e| e.raw_os_error() == Some(libc::EPERM));
    assert!(!eperm(act.clone()()), "denied outside of the cell too");
    within(calls, move || eperm(act()))
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "x").unwrap();
    (dir, file)
}

#[test]
fn programs_files_and_listeners_are_out_of_reach() {
    let (_dir, file) = file();
    for calls in [Calls::Reading, Calls::Conversation] {
        let (new, old, gone) = (file.with_extension("new"), file.clone(), file.with_extension("gone"));
        assert!(is_denied(calls, || Command::new("/bin/true").status()));
        assert!(is_denied(calls, move || std::fs::File::create(&new)));
        assert!(is_denied(calls, move || std::fs::File::options().append(true).open(&old)));
        assert!(is_denied(calls, move || std::fs::remove_file(&gone)));
        assert!(is_denied(calls, UnixDatagram::unbound));
        assert!(is_denied(calls, || TcpListener::bind("127.0.0.1:0")));
        assert!(is_denied(calls, || TcpListener::bind("[::1]:0")));
        assert!(is_denied(calls, || UdpSocket::bind("127.0.0.1:0")));
        let read = file.clone();
        assert_eq!(within(calls, move || std::fs::read_to_string(read)).unwrap(), "x");
    }
}

#[test]
fn readers_have_no_network_and_no_thread() {
    assert!(is_denied(Calls::Reading, || TcpStream::connect("127.0.0.1:1")));
    assert!(is_denied(Calls::Reading, || std::thread::Builder::new().spawn(|| ()).map(|t| t.join())));
    // Its pipe is standard output; what else may be open is not written.
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = std::sync::Arc::new(writer);
    assert!(is_denied(Calls::Reading, move || writer.as_ref().write(b"x")));
    drop(reader);
}

#[test]
fn a_conversation_goes_on_in_the_cell_and_its_threads() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"answer").unwrap());
    let talk = move || {
        let addresses: Vec<_> = ("localhost", port).to_socket_addrs().unwrap().collect();
        assert!(!addresses.is_empty());
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let said = within(Calls::Conversation, move || std::thread::spawn(talk).join().unwrap());
    assert_eq!(said, "answer");
    answering.join().unwrap();
}

#[test]
fn only_short_addresses_can_be_bound() {
    // What `bind` is left for is too short for an address of IPv4 or IPv6.
    assert_eq!(size_of::<libc::sockaddr_nl>(), 12);
    assert!(size_of::<libc::sockaddr_in>() > 12 && size_of::<libc::sockaddr_in6>() > 12);
}

/// What a filter's front answers; `None` when it leaves that to the program behind.
fn ask(program: &[sock_filter], arch: u32, number: u32) -> Option<u32> {
    let (mut place, mut value) = (0, 0);
    while let Some(step) = program.get(place) {
        place += 1;
        let taken = match u32::from(step.code) {
            code if code == libc::BPF_RET | libc::BPF_K => return Some(step.k),
            code if code == libc::BPF_JMP | libc::BPF_JA => step.k as usize,
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                value = if step.k == 0 { number } else { arch };
                0
            }
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K && value == step.k => step.jt.into(),
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K && value >= step.k => step.jt.into(),
            _ => step.jf.into(),
        };
        place += taken;
    }
    None
}

#[test]
fn each_call_is_found_and_no_other() {
    let most: Vec<c_long> = (0..118).map(|n| n * 4 + 1).collect();
    for free in [&[][..], &[0], &[1, 3, 2], &HARMLESS, &most] {
        let asked: Vec<c_long> = [7, 500].into_iter().filter(|call| !free.contains(call)).collect();
        let program = front(free, &asked);
        for number in 0..600 {
            let expected = match c_long::from(number) {
                call if asked.contains(&call) => None,
                call if free.contains(&call) => Some(libc::SECCOMP_RET_ALLOW),
                _ => Some(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
            };
            assert_eq!(ask(&program, AUDIT_ARCH, number), expected, "{number} of {free:?}");
            assert_eq!(ask(&program, AUDIT_ARCH + 1, number), None, "another architecture");
        }
    }
}
