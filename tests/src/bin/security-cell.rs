//! Tries what an intruder in a child of `glexec` would try, inside the child's own cell, for the security tests.
//!
//! `security-cell WALLS DIR PORT ACT ARGUMENT` builds walls, acts, and says `done` or `refused ERRNO`. `WALLS` is `none`,
//! `reading` or `conversation` (the filters of system calls), or `view` (Landlock: `DIR` may be read, `PORT` connected to).
//! `security-cell without-landlock ERRNO PROGRAM` runs a program on a kernel that refuses Landlock in this way.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

use cell::{Calls, View};
use nix::errno::Errno;
use nix::libc::{self, c_int, c_long};
use seccompiler::{SeccompAction, SeccompFilter};
use std::ffi::CString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["without-landlock", errno, program] => without_landlock(number(errno), program),
        [walls, dir, port, act, argument] => {
            build(walls, dir, number(port).try_into().expect("a port"));
            match try_to(act, argument) {
                Ok(()) => println!("done"),
                Err(e) => println!("refused {e:?}"),
            }
        }
        _ => panic!("wrong usage: {words:?}"),
    }
}

fn number(text: &str) -> c_int {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn build(walls: &str, dir: &str, port: u16) {
    let built = match walls {
        "none" => Ok(()),
        "reading" => cell::filter(Calls::Reading),
        "conversation" => cell::filter(Calls::Conversation),
        "view" => {
            nix::sys::prctl::set_no_new_privs().expect("every kernel has it");
            cell::narrow(View { readable: &[PathBuf::from(dir)], ports: &[port] }).map(|_| ())
        }
        other => panic!("no walls {other}"),
    };
    built.expect("the walls can be built");
}

/// A system call whose arguments are numbers.
fn call(number: c_long, arguments: [c_long; 6]) -> Result<c_long, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: whoever calls this passes numbers, or addresses of what lives longer than the call.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

fn address<T>(of: &T) -> c_long {
    std::ptr::from_ref(of) as c_long
}

/// One act of an intruder. What it makes ends with this process.
fn try_to(act: &str, argument: &str) -> Result<(), Errno> {
    let path = CString::new(argument).expect("no zero in it");
    let open = |flags: c_int| {
        call(libc::SYS_openat, [libc::AT_FDCWD.into(), path.as_ptr() as c_long, flags.into(), 0o600, 0, 0])
    };
    let plain = |number: c_long, a: c_int, b: c_int| call(number, [a.into(), b.into(), 0, 0, 0, 0]);
    match act {
        "read" | "list" => open(libc::O_RDONLY),
        "write" => open(libc::O_WRONLY),
        "append" => open(libc::O_RDWR | libc::O_APPEND),
        "create" => open(libc::O_RDONLY | libc::O_CREAT),
        "truncate" => open(libc::O_RDONLY | libc::O_TRUNC),
        "remove" => call(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), path.as_ptr() as c_long, 0, 0, 0, 0]),
        "mode" => call(libc::SYS_fchmodat, [libc::AT_FDCWD.into(), path.as_ptr() as c_long, 0o600, 0, 0, 0]),
        "memory-file" => call(libc::SYS_memfd_create, [path.as_ptr() as c_long, 0, 0, 0, 0, 0]),
        "code" => {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            call(libc::SYS_mmap, [0, 4096, prot.into(), flags.into(), -1, 0])
        }
        "fork" => return fork(),
        "thread" => std::thread::Builder::new().spawn(|| 0).map(|t| t.join().unwrap_or(0)).map_err(errno),
        "signal" => plain(libc::SYS_kill, number(argument), libc::SIGCONT),
        "thread-signal" => {
            let pid = number(argument).into();
            call(libc::SYS_tgkill, [pid, pid, libc::SIGCONT.into(), 0, 0, 0])
        }
        "trace" => plain(libc::SYS_ptrace, libc::PTRACE_SEIZE.cast_signed(), number(argument)),
        "limit-of-another" => {
            let limit: libc::rlimit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
            call(
                libc::SYS_prlimit64,
                [number(argument).into(), libc::RLIMIT_NOFILE.into(), address(&limit), 0, 0, 0],
            )
        }
        "process-handle" => plain(libc::SYS_pidfd_open, number(argument), 0),
        "change-user" => call(libc::SYS_setresuid, [1, 1, 1, 0, 0, 0]),
        "namespace" => plain(libc::SYS_unshare, libc::CLONE_NEWUTS, 0),
        "mount" => {
            let flags = c_long::try_from(libc::MS_BIND).unwrap_or_default();
            call(libc::SYS_mount, [path.as_ptr() as c_long, path.as_ptr() as c_long, 0, flags, 0, 0])
        }
        "key" => call(libc::SYS_keyctl, [0, -3, 1, 0, 0, 0]),
        "spawn" => Command::new(argument).status().map(|_| 0).map_err(errno),
        "execute" => return Err(errno(Command::new(argument).exec())),
        _ => return network(act, argument),
    }
    .map(|_| ())
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(0))
}

/// A new process, which ends at once.
fn fork() -> Result<(), Errno> {
    // SAFETY: this program has one thread.
    match unsafe { nix::unistd::fork() }? {
        // SAFETY: leaves without running what the parent has prepared for its own end.
        nix::unistd::ForkResult::Child => unsafe { libc::_exit(0) },
        nix::unistd::ForkResult::Parent { child } => nix::sys::wait::waitpid(child, None).map(|_| ()),
    }
}

fn network(act: &str, argument: &str) -> Result<(), Errno> {
    let socket = |family: c_int, kind: c_int, protocol: c_int| {
        call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0, 0])
    };
    let tcp = || socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    let of = |port: &str| libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: u16::try_from(number(port)).unwrap_or_default().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    match act {
        "internet" => tcp(),
        "local-socket" => socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        "local-pair" => {
            let mut pair: [c_int; 2] = [0; 2];
            let ends = std::ptr::from_mut(&mut pair) as c_long;
            call(libc::SYS_socketpair, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, ends, 0, 0])
        }
        "raw-socket" => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        "packet-socket" => socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0),
        "audit-socket" => socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        "take-a-port" => call(libc::SYS_bind, [tcp()?, address(&of("0")), 16, 0, 0, 0]),
        "take-a-port-6" => {
            // SAFETY: all zeros is the address of any interface and any port.
            let mut any: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            any.sin6_family = libc::AF_INET6 as u16;
            call(libc::SYS_bind, [socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?, address(&any), 28, 0, 0, 0])
        }
        "listen" => call(libc::SYS_listen, [tcp()?, 1, 0, 0, 0, 0]),
        "connect" => call(libc::SYS_connect, [tcp()?, address(&of(argument)), 16, 0, 0, 0]),
        "connect-with-data" => {
            let flags = libc::MSG_FASTOPEN.into();
            call(libc::SYS_sendto, [tcp()?, address(b"x"), 1, flags, address(&of(argument)), 16])
        }
        "packet-filter" => {
            let filter = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
            let program = libc::sock_fprog { len: 1, filter: std::ptr::from_ref(&filter).cast_mut() };
            let (level, name) = (libc::SOL_SOCKET.into(), libc::SO_ATTACH_FILTER.into());
            call(
                libc::SYS_setsockopt,
                [tcp()?, level, name, address(&program), size_of_val(&program) as c_long, 0],
            )
        }
        "abstract" => {
            let name = SocketAddr::from_abstract_name(argument).expect("a good name");
            return UnixStream::connect_addr(&name).map(|_| ()).map_err(errno);
        }
        other => panic!("no act {other}"),
    }
    .map(|_| ())
}

/// Becomes the program, for which Landlock's system calls fail.
fn without_landlock(errno: c_int, program: &str) {
    let calls =
        [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let refused = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().expect("the filter's author knows this machine");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a good filter");
    let filter: seccompiler::BpfProgram = filter.try_into().expect("a good filter");
    seccompiler::apply_filter(&filter).expect("the kernel takes it");
    panic!("cannot start {program}: {}", Command::new(program).exec());
}
