//! A payload that tries what it must not be able to do, for the security tests. It prints what came of it.
//!
//! - `fexec PROGRAM ARGUMENT...`: executes a program by a descriptor that knows no path
//! - `ptrace PID`: attaches to a process
//! - `reaper ARGUMENT...`: runs a program whose parent has ended, under a reaper of its own
//! - `victim FILE PORT`: makes one of everything that others must not touch, names it all in FILE, and waits
//! - `attack FILE PID...`: tries everything on what a victim made, and on processes
//! - `with-key PROGRAM ARGUMENT...`: puts a key into its session keyring, names it in `GLEXEC_KEY`, and executes
//! - `keys`: tries to get at that key
//! - `push`: pushes a character into the terminal
//! - `pty PROGRAM ARGUMENT...`: runs a program at the head of a terminal session; `loose-pty` with a terminal that is
//!   nobody's
//! - `late PROGRAM ARGUMENT...`: executes a program whose waits may each last an hour longer
//! - `no-argv PROGRAM`: executes with not even `argv[0]`, and odd strings in the environment
//! - `stop-at-lock FILE UID PROGRAM ARGUMENT...`: as root, runs a program as an account; once it has locked a file, the
//!   account and a terminal try to stop it; FILE tells how that went; ends what is left when its standard input ends
//! - `kill-at N UID PROGRAM ARGUMENT...`: as root, runs a program as an account and kills it at its Nth system call
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

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
        ["victim", file, port] => victim(file, number(port)),
        ["attack", file, pids @ ..] => attack(file, pids),
        ["with-key", command @ ..] => with_key(command),
        ["keys"] => keys(),
        ["push"] => push(),
        ["pty", command @ ..] => pty(command, true),
        ["loose-pty", command @ ..] => pty(command, false),
        ["late", command @ ..] => late(command),
        ["no-argv", program] => no_argv(program),
        ["kill-at", n, uid, command @ ..] => kill_at(number(n), number(uid), command),
        ["stop-at-lock", file, uid, command @ ..] => stop_at_lock(file, number(uid), command),
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

fn made(result: i32) -> i32 {
    Errno::result(result).expect("it can be made")
}

/// Makes shared memory, a message queue, a listening port and a secret in memory; all private.
fn victim(file: &str, port: i32) {
    let secret = b"the victim's secret".to_vec();
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe {
        nix::sys::signal::signal(nix::sys::signal::Signal::SIGUSR1, nix::sys::signal::SigHandler::SigIgn)
    }
    .expect("it can be ignored");
    // SAFETY: plain numbers.
    let memory = made(unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o600 | libc::IPC_CREAT) });
    // SAFETY: plain numbers.
    let queue = made(unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600 | libc::IPC_CREAT) });
    // SAFETY: plain numbers.
    let semaphore = made(unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600 | libc::IPC_CREAT) });
    let name = format!("/victim-{}", std::process::id());
    let flags = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_RDWR;
    let private = nix::sys::stat::Mode::from_bits_truncate(0o600);
    let shared = nix::fcntl::open(format!("/dev/shm{name}").as_str(), flags, private).expect("shm_open");
    // SAFETY: the name ends with NUL; a null attribute asks for the defaults.
    let posix =
        unsafe { libc::mq_open(c_string(&name).as_ptr(), flags.bits(), 0o600, std::ptr::null::<u8>()) };
    let listening = bind(port).expect("the port is free");
    let pid = std::process::id();
    let text = format!(
        "{pid} {memory} {queue} {semaphore} {name} {port} {:p} {}\n",
        secret.as_ptr(),
        i32::from(posix >= 0)
    );
    std::fs::write(format!("{file}.new"), text).expect("the file can be written");
    std::fs::rename(format!("{file}.new"), file).expect("and named");
    std::thread::sleep(std::time::Duration::from_secs(300));
    drop((secret, shared, listening));
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

/// Listens as one does who wants to share the port, or to take it over.
fn bind(port: i32) -> Result<std::os::fd::OwnedFd, Errno> {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
    let socket = nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    let port = u16::try_from(port).map_err(|_| Errno::EINVAL)?;
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrIn::new(127, 0, 0, 1, port))?;
    nix::sys::socket::listen(&socket, Backlog::new(1)?)?;
    Ok(socket)
}

fn attack(file: &str, pids: &[&str]) {
    let text = std::fs::read_to_string(file).expect("the victim's names are public");
    let words: Vec<&str> = text.split_whitespace().collect();
    things(&words);
    for pid in pids.iter().copied().chain([words[0]]) {
        process(pid, number(pid), words[6]);
    }
}

fn tried(what: &str, result: i64) {
    println!("{what} {}", told(Errno::result(result)));
}

/// What the victim made, by number or by name.
fn things(words: &[&str]) {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel chooses the address, and nothing is done with the memory.
    tried("shmat", unsafe { libc::shmat(number(words[1]), null, 0) } as i64);
    // SAFETY: removing takes a null pointer.
    tried(
        "shmctl",
        i64::from(unsafe { libc::shmctl(number(words[1]), libc::IPC_RMID, std::ptr::null_mut()) }),
    );
    // SAFETY: removing takes a null pointer.
    tried(
        "msgctl",
        i64::from(unsafe { libc::msgctl(number(words[2]), libc::IPC_RMID, std::ptr::null_mut()) }),
    );
    let mut message = [0_u8; 64];
    // SAFETY: the buffer is longer than the eight bytes of type and the sixteen that are asked for.
    let got = unsafe { libc::msgrcv(number(words[2]), message.as_mut_ptr().cast(), 16, 0, libc::IPC_NOWAIT) };
    tried("msgrcv", got as i64);
    // SAFETY: removing reads no further argument.
    tried("semctl", i64::from(unsafe { libc::semctl(number(words[3]), 0, libc::IPC_RMID) }));
    let shared = std::fs::File::open(format!("/dev/shm{}", words[4]));
    println!("shm_open {}", told_io(shared.map(drop)));
    println!("shm_unlink {}", told_io(std::fs::remove_file(format!("/dev/shm{}", words[4]))));
    if words[7] == "1" {
        let name = c_string(words[4]);
        // SAFETY: the name ends with NUL.
        tried("mq_open", i64::from(unsafe { libc::mq_open(name.as_ptr(), libc::O_RDWR) }));
        // SAFETY: the name ends with NUL.
        tried("mq_unlink", i64::from(unsafe { libc::mq_unlink(name.as_ptr()) }));
    }
    println!("bind {}", told(bind(number(words[5]))));
}

fn told_io(result: std::io::Result<()>) -> String {
    told(result.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0))))
}

fn process(pid: &str, number: i32, address: &str) {
    let at = usize::from_str_radix(address.trim_start_matches("0x"), 16).expect("an address");
    println!(
        "{pid} kill {}",
        told(nix::sys::signal::kill(Pid::from_raw(number), nix::sys::signal::Signal::SIGUSR1))
    );
    println!("{pid} ptrace {}", told(ptrace(number)));
    let mut buffer = [0; 16];
    let remote = nix::sys::uio::RemoteIoVec { base: at, len: 16 };
    let mut local = [std::io::IoSliceMut::new(&mut buffer)];
    let read = nix::sys::uio::process_vm_readv(Pid::from_raw(number), &mut local, &[remote]);
    println!("{pid} process_vm_readv {}", told(read));
    for file in ["mem", "environ", "maps", "auxv", "io", "syscall", "fd", "cwd", "root", "exe", "map_files"] {
        let path = format!("/proc/{pid}/{file}");
        let opened = match file {
            "fd" | "map_files" => std::fs::read_dir(&path).map(drop),
            "cwd" | "root" | "exe" => std::fs::read_link(&path).map(drop),
            // Some of them open for everybody and refuse to be read.
            _ => std::fs::read(&path).map(drop),
        };
        println!("{pid} {file} {}", told_io(opened));
    }
    let writing = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/oom_score_adj"));
    println!("{pid} oom_score_adj {}", told_io(writing.map(drop)));
    // SAFETY: pidfd_open takes numbers only.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
    // SAFETY: pidfd_getfd takes numbers only.
    tried(&format!("{pid} pidfd_getfd"), unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) });
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the new limit outlives the call, and a null old one is allowed.
    let limited = unsafe { libc::prlimit(number, libc::RLIMIT_CPU, &none, std::ptr::null_mut()) };
    tried(&format!("{pid} prlimit"), i64::from(limited));
    // SAFETY: plain numbers.
    tried(
        &format!("{pid} setpriority"),
        i64::from(unsafe { libc::setpriority(libc::PRIO_PROCESS, number as u32, 19) }),
    );
}

const READ_KEY: i32 = 11;
const SESSION_KEYRING: i32 = -3;

fn keyctl(operation: i32, a: i64, b: *const libc::c_char, c: *const libc::c_char) -> i64 {
    // SAFETY: pointers are null or to strings that end with NUL and outlive the call.
    unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, c, 0) }
}

fn with_key(command: &[&str]) {
    const JOIN_SESSION_KEYRING: i32 = 1;
    keyctl(JOIN_SESSION_KEYRING, 0, std::ptr::null(), std::ptr::null());
    let secret = c"secret";
    // SAFETY: three strings that end with NUL and outlive the call; the length is the secret's.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            c"pilot-secret".as_ptr(),
            secret.as_ptr(),
            6,
            SESSION_KEYRING,
        )
    };
    assert!(keyctl(READ_KEY, key, std::ptr::null(), std::ptr::null()) == 6, "its owner can read it");
    // SAFETY: there is one thread.
    unsafe { std::env::set_var("GLEXEC_KEY", key.to_string()) };
    let _ = nix::unistd::execv(&strings(command)[0], &strings(command));
}

fn keys() {
    const SEARCH: i32 = 10;
    let key = std::env::var("GLEXEC_KEY").expect("with-key has set it");
    tried("read", keyctl(READ_KEY, i64::from(number(&key)), std::ptr::null(), std::ptr::null()));
    tried("search", keyctl(SEARCH, i64::from(SESSION_KEYRING), c"user".as_ptr(), c"pilot-secret".as_ptr()));
}

/// In every way there is; the first success counts, else the plain way's error.
fn push() {
    let byte = b'x';
    let type_it = |request: u64| {
        // SAFETY: TIOCSTI reads one byte, which outlives the call; the kernel looks at 32 bits of the request.
        Errno::result(unsafe { libc::syscall(libc::SYS_ioctl, 0, request, &byte) })
    };
    let plain = type_it(libc::TIOCSTI);
    let wide = type_it(libc::TIOCSTI | 1 << 32);
    // A terminal that no session has can be taken by a new one.
    let taken = match fork() {
        ForkResult::Parent { child } => {
            waitpid(child, None) == Ok(nix::sys::wait::WaitStatus::Exited(child, 0))
        }
        ForkResult::Child => {
            let _ = nix::unistd::setsid();
            // SAFETY: plain numbers.
            unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
            std::process::exit(i32::from(type_it(libc::TIOCSTI).is_err()));
        }
    };
    println!("push {}", if wide.is_ok() || taken { "DONE".into() } else { told(plain) });
}

/// Runs a program as the leader of a session with a terminal, and prints what it says there.
fn pty(command: &[&str], controlling: bool) {
    use std::io::Read;
    let master = nix::pty::posix_openpt(nix::fcntl::OFlag::O_RDWR).expect("a terminal can be made");
    nix::pty::grantpt(&master).and_then(|()| nix::pty::unlockpt(&master)).expect("and used");
    // SAFETY: this program has one thread.
    let name = unsafe { nix::pty::ptsname(&master) }.expect("it has a name");
    if let ForkResult::Child = fork() {
        let _ = nix::unistd::setsid();
        // A session's first terminal becomes the one that controls it.
        let flags = if controlling { 0 } else { libc::O_NOCTTY };
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true).write(true), flags);
        let terminal = options.open(&name).expect("it is there");
        for fd in 0..3 {
            // SAFETY: 0, 1 and 2 are owned by nobody in Rust's sense.
            unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&terminal), fd) };
        }
        let _ = nix::unistd::execv(&strings(command)[0], &strings(command));
        std::process::exit(99);
    }
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    let mut master = std::fs::File::from(std::os::fd::OwnedFd::from(master));
    // A terminal that nobody has open any more reads as an error.
    while let Ok(n @ 1..) = master.read(&mut chunk) {
        said.extend_from_slice(&chunk[..n]);
    }
    print!("{}", String::from_utf8_lossy(&said));
}

fn late(command: &[&str]) {
    nix::sys::prctl::set_timerslack(3_600_000_000_000).expect("anybody may");
    let _ = nix::unistd::execv(&strings(command)[0], &strings(command));
}

fn no_argv(program: &str) {
    let (program, odd) = (c_string(program), [c_string("NOEQUALS"), c_string("=x"), c_string("")]);
    let environment: Vec<_> = odd.iter().map(|c| c.as_ptr()).chain([std::ptr::null()]).collect();
    let argv = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both lists end with null, and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
}

/// A program that is about to run as an account, and stops at each system call for us.
fn traced(uid: i32, command: &[&str]) -> Pid {
    use nix::sys::ptrace;
    match fork() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // Asked for as root: the setuid bit counts only under a tracer that could have it anyway.
            ptrace::traceme().expect("the parent wants to");
            // A group that is nobody's would not be stopped by a terminal.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("a child may");
            let id = uid.unsigned_abs();
            nix::unistd::setgroups(&[]).expect("root may");
            nix::unistd::setgid(id.into()).expect("root may");
            nix::unistd::setuid(id.into()).expect("root may");
            let _ = nix::unistd::execv(&strings(command)[0], &strings(command));
            std::process::exit(99);
        }
    }
}

/// Sends a signal with the rights of an account.
fn kill_as(uid: i32, pid: Pid, signal: nix::sys::signal::Signal) -> bool {
    let ForkResult::Parent { child } = fork() else {
        let _ = nix::unistd::setuid(uid.unsigned_abs().into());
        std::process::exit(i32::from(nix::sys::signal::kill(pid, signal).is_err()));
    };
    matches!(waitpid(child, None), Ok(nix::sys::wait::WaitStatus::Exited(_, 0)))
}

fn stop_at_lock(file: &str, uid: i32, command: &[&str]) {
    use nix::sys::ptrace;
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::WaitStatus;
    let child = traced(uid, command);
    let locks = |_| {
        let call = std::fs::read_to_string(format!("/proc/{child}/syscall")).unwrap_or_default();
        call.split(' ').next() == Some(libc::SYS_flock.to_string().as_str())
    };
    let mut stops = 0;
    while stops < 2 && matches!(waitpid(child, None), Ok(WaitStatus::Stopped(..))) {
        // At the entry of the call and at its end.
        stops += i32::from(locks(()));
        let _ = if stops < 2 { ptrace::syscall(child, None) } else { Ok(()) };
    }
    let stopped = stops == 2 && kill_as(uid, child, Signal::SIGSTOP);
    // Ctrl-Z: the kernel asks nobody whether he may.
    let _ = kill(child, Signal::SIGTSTP);
    let _ = ptrace::detach(child, None);
    std::fs::write(file, format!("locks {stops}, stopped {stopped}\n")).expect("root may write anywhere");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    let _ = kill(child, Signal::SIGKILL);
}

/// Counts the system calls of one process, from both sides; prints how many there were when it ended before.
fn kill_at(stops: i32, uid: i32, command: &[&str]) {
    use nix::sys::ptrace;
    use nix::sys::wait::WaitStatus;
    let child = traced(uid, command);
    let mut seen = 0;
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return println!("ended {seen} {code}"),
            Ok(WaitStatus::Signaled(..)) | Err(_) => return println!("killed {seen}"),
            Ok(WaitStatus::Stopped(_, signal)) if signal != nix::sys::signal::Signal::SIGTRAP => {
                let _ = ptrace::syscall(child, signal);
            }
            Ok(_) if seen == stops => drop(nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL)),
            Ok(_) => drop(ptrace::syscall(child, None)),
        }
        seen += 1;
    }
}
