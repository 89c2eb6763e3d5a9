//! Gives birth to processes as fast as one CPU can: `fork-storm SECONDS NTH-CPU PROGRAM`.
//!
//! Children live in their parent's memory, end at once, and are reaped by the kernel. Now and then one executes PROGRAM
//! instead. At the end one line says what became of them all; see `end_to_end::storm`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::Pid;
use std::ffi::{CString, c_int, c_void};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// One birth in so many executes the program.
const CALL_EVERY: u64 = 500;
/// Why the last call did not start; 0 when it did.
static REFUSED: AtomicI32 = AtomicI32::new(0);

extern "C" fn ends(_: *mut c_void) -> c_int {
    // SAFETY: ends this process only, and runs nothing of the parent's, whose memory it shares.
    unsafe { libc::_exit(0) }
}

extern "C" fn calls(program: *mut c_void) -> c_int {
    let program: *const libc::c_char = program.cast();
    let arguments = [program, c"-v".as_ptr(), std::ptr::null()];
    // SAFETY: both are strings and lists that end with zero, and the parent, which owns them, stands still.
    unsafe { libc::execv(program, arguments.as_ptr()) };
    REFUSED.store(Errno::last_raw(), Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { libc::_exit(1) }
}

/// The parent stands still until the child ends or runs another program: no page tables are copied, and one stack will do.
fn give_birth(stack: &mut [u8], what: extern "C" fn(*mut c_void) -> c_int, argument: *mut c_void) -> bool {
    let shared = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_FS;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the stack is live, aligned by the kernel's rules (its size is), and the child's alone while it lives.
    unsafe { libc::clone(what, top.cast(), shared | libc::SIGCHLD, argument) > 0 }
}

/// Stays on one CPU: waking a child on another one costs more than the child.
fn stay_on(nth: usize) -> nix::Result<()> {
    let (all, mut one) = (sched_getaffinity(Pid::this())?, CpuSet::new());
    let cpus: Vec<_> = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu) == Ok(true)).collect();
    one.set(cpus[nth % cpus.len()])?;
    sched_setaffinity(Pid::this(), &one)
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().and_then(|w| w.parse().ok()).map(Duration::from_secs);
    let nth = words.next().and_then(|w| w.parse().ok());
    let program = words.next().and_then(|w| CString::new(w).ok());
    let (Some(limit), Some(nth), Some(program)) = (seconds, nth, program) else { return ExitCode::from(2) };
    // SAFETY: ignoring runs no code of ours.
    let ready = stay_on(nth).and_then(|()| unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) });
    if let Err(e) = ready {
        eprintln!("fork-storm: {e}");
        return ExitCode::FAILURE;
    }
    let mut stack = vec![0; 64 * 1024];
    let (mut born, mut refused, mut waits) = (0, 0_u64, Vec::new());
    let began = Instant::now();
    while began.elapsed() < limit {
        if born % CALL_EVERY == 0 {
            REFUSED.store(0, Ordering::Relaxed);
            let asked = Instant::now();
            if give_birth(&mut stack, calls, program.as_ptr().cast_mut().cast()) {
                born += 1;
                waits.push(asked.elapsed().as_micros());
                refused += u64::from(REFUSED.load(Ordering::Relaxed) == libc::EPERM);
            }
        } else if give_birth(&mut stack, ends, std::ptr::null_mut()) {
            born += 1;
        }
    }
    let millis = began.elapsed().as_millis();
    waits.sort_unstable();
    let (calls, median, longest) = (waits.len(), waits[waits.len() / 2], waits[waits.len() - 1]);
    println!(
        "storm: born={born} millis={millis} calls={calls} refused={refused} median_us={median} longest_us={longest}"
    );
    ExitCode::SUCCESS
}
