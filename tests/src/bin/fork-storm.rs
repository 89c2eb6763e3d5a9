//! Gives birth to processes as fast as the kernel can, until a file appears: `fork-storm FILE`.

use nix::sched::{CloneFlags, clone};
use nix::sys::wait::waitpid;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else { return ExitCode::from(2) };
    let mut stack = vec![0; 64 * 1024];
    // The parent stands still while the child lives in its memory, which saves the kernel from copying page tables.
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    while !Path::new(&file).exists() {
        for _ in 0..1000 {
            // SAFETY: the child ends at once and touches nothing; the parent waits for that, so the stack is its alone.
            let born = unsafe { clone(Box::new(|| 0), &mut stack, flags, Some(nix::libc::SIGCHLD)) };
            if let Ok(child) = born {
                let _ = waitpid(child, None);
            }
        }
    }
    ExitCode::SUCCESS
}
