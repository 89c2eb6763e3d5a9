//! What the verifier gives up before it reads hostile bytes: new privileges, core dumps, being traced, and every system
//! call but those of reading files and managing its own memory.

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Seconds of processor time; a verdict takes milliseconds.
const MAX_CPU: u64 = 10;
/// Bytes of address space: a large revocation list fits several times.
const MAX_MEMORY: u64 = 1 << 30;
const MAX_FILES: u64 = 64;

/// Takes effect for the rest of the process's life.
///
/// # Errors
/// A text for people; nothing may be parsed after an error.
pub fn confine() -> Result<(), String> {
    nix::sys::prctl::set_no_new_privs().map_err(|e| format!("no_new_privs: {e}"))?;
    nix::sys::prctl::set_dumpable(false).map_err(|e| format!("dumpable: {e}"))?;
    let limits = [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_CPU, MAX_CPU),
        (Resource::RLIMIT_AS, MAX_MEMORY),
        (Resource::RLIMIT_NOFILE, MAX_FILES),
    ];
    for (resource, most) in limits {
        // Whoever started us may have set a lower one, which nobody without privilege can raise.
        let limit = getrlimit(resource).map_or(most, |(_, hard)| hard.min(most));
        setrlimit(resource, limit, limit).map_err(|e| format!("{resource:?}: {e}"))?;
    }
    let program = filter().map_err(|e| format!("seccomp: {e}"))?;
    seccompiler::apply_filter(&program).map_err(|e| format!("seccomp: {e}"))
}

/// The system calls that stay: all others fail with EPERM.
fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let free = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_lseek,
        libc::SYS_getdents64,
        libc::SYS_fcntl,
        libc::SYS_readlinkat,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_uname,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        free.into_iter().map(|call| (call, Vec::new())).collect();
    let write_flags = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
    rules.insert(libc::SYS_openat, vec![without(2, write_flags)?]);
    rules.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    rules.insert(libc::SYS_mprotect, vec![without(2, libc::PROT_EXEC)?]);
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()?)
}

/// A rule that holds when the argument has none of these bits.
fn without(argument: u8, bits: i32) -> Result<SeccompRule, seccompiler::Error> {
    let op = SeccompCmpOp::MaskedEq(u64::from(bits.unsigned_abs()));
    Ok(SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, 0)?])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter binds the thread that applies it, so each question gets a thread of its own.
    fn confined<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
        let ask = move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            ask()
        };
        std::thread::spawn(ask).join().unwrap()
    }

    fn is_denied(result: std::io::Result<impl Sized>) -> bool {
        result.is_err_and(|e| e.raw_os_error() == Some(libc::EPERM))
    }

    #[test]
    fn network_programs_and_writing_are_out_of_reach() {
        let path = tempfile::tempdir().unwrap().keep();
        let file = path.join("f");
        std::fs::write(&file, "x").unwrap();
        let (new, old) = (path.join("new"), file.clone());
        assert!(confined(|| is_denied(std::net::TcpStream::connect("127.0.0.1:1"))));
        assert!(confined(|| is_denied(std::os::unix::net::UnixDatagram::unbound())));
        assert!(confined(|| is_denied(std::process::Command::new("/bin/true").status())));
        assert!(confined(move || is_denied(std::fs::File::create(new))));
        assert!(confined(move || is_denied(std::fs::File::options().append(true).open(old))));
        let gone = file.clone();
        assert!(confined(move || is_denied(std::fs::remove_file(gone))));
        assert_eq!(confined(move || std::fs::read_to_string(file)).unwrap(), "x");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn signatures_still_work() {
        let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        let works = confined(move || {
            let digest = openssl::hash::MessageDigest::sha256();
            let mut signer = openssl::sign::Signer::new(digest, &key).unwrap();
            let signature = signer.sign_oneshot_to_vec(b"text").unwrap();
            openssl::sign::Verifier::new(digest, &key).unwrap().verify_oneshot(&signature, b"text").unwrap()
        });
        assert!(works);
    }
}
