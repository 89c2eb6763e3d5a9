//! Which system calls are left: a seccomp filter. What is not named fails with EPERM, so that a library that asks for
//! more than it needs goes on without.

use nix::libc::{self, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};
use std::collections::BTreeMap;

/// What a child needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Reading files, thinking, and writing to standard output and error.
    Reading,
    /// The same with threads, name resolution and connections that this process opens.
    Conversation,
}

/// Leaves these system calls, for the calling thread and those that it starts from now on.
///
/// # Errors
/// One line for people; nothing may be read after an error.
pub fn filter(calls: Calls) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| {
        format!("seccomp: {e}; the kernel, or the container, must allow seccomp filters")
    };
    if calls == Calls::Conversation {
        let newer = too_new().map_err(|e| failed(&e))?;
        seccompiler::apply_filter(&newer).map_err(|e| failed(&e))?;
    }
    let program = program(calls).map_err(|e| failed(&e))?;
    seccompiler::apply_filter(&program).map_err(|e| failed(&e))
}

/// Reading what is open or readable, memory, time, own threads, own signals. A C library may use more of them
/// than ours does, so the list is generous with what harms nobody.
const HARMLESS: [c_long; 59] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_fadvise64,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Landlock can only take away.
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

/// Older names of the same, which younger architectures never had.
#[cfg(target_arch = "x86_64")]
const OLDER: [c_long; 9] = [
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_time,
    libc::SYS_getrlimit,
    libc::SYS_getdents,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: [c_long; 0] = [];

/// What a connection needs beside [`conversation`]'s calls with conditions.
const SOCKETS: [c_long; 10] = [
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls whose arguments lie in memory, out of a filter's sight: a C library that hears "unknown" uses an older one.
const TOO_NEW: [c_long; 2] = [libc::SYS_clone3, libc::SYS_openat2];

/// This architecture, as a filter sees it.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const AUDIT_ARCH: u32 = 0xc000_00f3;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn program(calls: Calls) -> Result<BpfProgram, BackendError> {
    let mut free = [HARMLESS.as_slice(), &OLDER].concat();
    let mut rules = restrained()?;
    match calls {
        Calls::Reading => {
            for call in [libc::SYS_write, libc::SYS_writev] {
                let standard = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Le, 2)?;
                rules.insert(call, vec![rule([standard])?]);
            }
            rules.insert(libc::SYS_mmap, vec![rule([without(2, libc::PROT_EXEC)?])?]);
        }
        Calls::Conversation => {
            free.extend(SOCKETS.iter().chain(&TOO_NEW));
            conversation(&mut rules)?;
        }
    }
    let front = front(&free, &rules.keys().copied().collect::<Vec<_>>());
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    let rest: BpfProgram = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()?;
    Ok([front, rest].concat())
}

/// Allows the free calls, leaves the asked ones and foreign architectures to the program behind, denies the others.
///
/// That program could do it all, as a list with five instructions a call. But the kernel tries a new filter with each of its
/// 450 calls, each child loads one, and a list, even with one instruction a call, takes 0.1 to 0.2 ms longer than a tree.
fn front(free: &[c_long], asked: &[c_long]) -> BpfProgram {
    let named = |call: &c_long| u32::try_from(*call).unwrap_or(u32::MAX);
    let free = free.iter().map(|call| (named(call), answer(libc::SECCOMP_RET_ALLOW)));
    let mut calls: Vec<_> = free.chain(asked.iter().map(|call| (named(call), behind()))).collect();
    calls.sort_by_key(|(number, _)| *number);
    let load = |place| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place, 0, 0);
    // What a filter sees starts with the number of the call and the architecture, four bytes each.
    let known = [load(4), compare(libc::BPF_JEQ, AUDIT_ARCH, 1, 0), behind(), load(0)];
    let mut program = [known.as_slice(), &search(&calls)].concat();
    let length = program.len();
    for (place, jump) in program.iter_mut().enumerate().filter(|(_, step)| step.code == behind().code) {
        jump.k = u32::try_from(length - place - 1).unwrap_or(u32::MAX);
    }
    program
}

/// Halves the calls, which are sorted, until one is left.
fn search(calls: &[(u32, sock_filter)]) -> BpfProgram {
    let denied = answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    match calls {
        [] => vec![denied],
        [(number, answer)] => vec![compare(libc::BPF_JEQ, *number, 0, 1), answer.clone(), denied],
        _ => {
            let (low, high) = calls.split_at(calls.len() / 2);
            let (first, low, high) = (high[0].0, search(low), search(high));
            [vec![compare(libc::BPF_JGE, first, low.len(), 0)], low, high].concat()
        }
    }
}

fn step(code: u32, k: u32, jt: usize, jf: usize) -> sock_filter {
    let near = |jump| u8::try_from(jump).expect("a tree of fewer than 120 calls");
    sock_filter { code: code as u16, jt: near(jt), jf: near(jf), k }
}

fn compare(how: u32, k: u32, jt: usize, jf: usize) -> sock_filter {
    step(libc::BPF_JMP | how | libc::BPF_K, k, jt, jf)
}

fn answer(k: u32) -> sock_filter {
    step(libc::BPF_RET | libc::BPF_K, k, 0, 0)
}

/// A jump past the end; how far that is, [`front`] knows in the end.
fn behind() -> sock_filter {
    step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0)
}

/// What both need, with conditions: nothing is opened for writing, executed, or done to another process.
fn restrained() -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let write = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
    rules.insert(libc::SYS_openat, vec![rule([without(2, write)?])?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![rule([without(1, write)?])?]);
    rules.insert(libc::SYS_mprotect, vec![rule([without(2, libc::PROT_EXEC)?])?]);
    // F_DUPFD, F_GETFD, F_SETFD and F_GETFL are 0 to 3; nobody is named who would get signals.
    rules.insert(libc::SYS_fcntl, vec![rule([without(1, !3)?])?]);
    let own = c_int::try_from(std::process::id()).map_err(|_| BackendError::EmptyRule)?;
    rules.insert(libc::SYS_tgkill, vec![rule([is(0, own)?])?]);
    // Limits may be asked for, by those who do not name another process.
    let no_new_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![rule([is(0, 0)?, no_new_limit])?]);
    Ok(rules)
}

/// Threads, names and connections. No socket can listen: the only one that may be bound is netlink's, which the C
/// library asks for this host's addresses; its address has 12 bytes, and those of IPv4 and IPv6 have more.
fn conversation(rules: &mut Rules) -> Result<(), BackendError> {
    rules.insert(libc::SYS_socket, sockets()?);
    let more = each([libc::F_SETFL, libc::F_DUPFD_CLOEXEC], |command| is(1, command))?;
    rules.entry(libc::SYS_fcntl).or_default().extend(more);
    rules.insert(libc::SYS_bind, vec![rule([is(2, 12)?])?]);
    rules.insert(libc::SYS_setsockopt, options()?);
    // It would connect out of Landlock's sight.
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.insert(call, vec![rule([without(flags, libc::MSG_FASTOPEN)?])?]);
    }
    let asks = [libc::FIONBIO, libc::FIONREAD, libc::TCGETS].map(|c| c_int::try_from(c).unwrap_or_default());
    rules.insert(libc::SYS_ioctl, each(asks, |request| is(1, request))?);
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let thread = masked(0, libc::CLONE_THREAD | namespaces, libc::CLONE_THREAD)?;
    rules.insert(libc::SYS_clone, vec![rule([thread])?]);
    // Modules for names of hosts are loaded when the first name is asked for: files only, and never writable.
    let code = masked(2, libc::PROT_EXEC | libc::PROT_WRITE, libc::PROT_EXEC)?;
    let of_a_file = rule([code, without(3, libc::MAP_ANONYMOUS)?])?;
    rules.insert(libc::SYS_mmap, vec![rule([without(2, libc::PROT_EXEC)?])?, of_a_file]);
    Ok(())
}

/// TCP and UDP over IPv4 and IPv6, and netlink's view of the routes.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let kinds = [
        (libc::SOCK_STREAM, 0),
        (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        (libc::SOCK_DGRAM, 0),
        (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    ];
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in kinds {
            rules.push(rule([is(0, family)?, masked(1, 0xf, kind)?, is(2, protocol)?])?);
        }
    }
    rules.push(rule([is(0, libc::AF_NETLINK)?, is(2, libc::NETLINK_ROUTE)?])?);
    Ok(rules)
}

/// Time limits, buffers, keep-alive and errors of a connection. No filters, no other protocols on top.
fn options() -> Result<Vec<SeccompRule>, BackendError> {
    let socket = [
        libc::SO_RCVTIMEO,
        libc::SO_SNDTIMEO,
        // The same with 64 bits of seconds everywhere: SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW.
        66,
        67,
        libc::SO_RCVBUF,
        libc::SO_SNDBUF,
        libc::SO_KEEPALIVE,
        libc::SO_LINGER,
    ];
    let tcp = [
        libc::TCP_NODELAY,
        libc::TCP_KEEPIDLE,
        libc::TCP_KEEPINTVL,
        libc::TCP_KEEPCNT,
        libc::TCP_USER_TIMEOUT,
    ];
    let ip = [libc::IP_TOS, libc::IP_RECVERR, libc::IP_MTU_DISCOVER];
    let ip6 = [libc::IPV6_RECVERR, libc::IPV6_MTU_DISCOVER, libc::IPV6_V6ONLY, libc::IPV6_TCLASS];
    let of = |level, names: &[c_int]| -> Result<Vec<_>, BackendError> {
        names.iter().map(|name| rule([is(1, level)?, is(2, *name)?])).collect()
    };
    Ok([
        of(libc::SOL_SOCKET, &socket)?,
        of(libc::IPPROTO_TCP, &tcp)?,
        of(libc::IPPROTO_IP, &ip)?,
        of(libc::IPPROTO_IPV6, &ip6)?,
    ]
    .concat())
}

/// Of several filters the strictest answer counts: what this one declares unknown stays so whatever [`program`] says.
fn too_new() -> Result<BpfProgram, BackendError> {
    let rules = TOO_NEW.iter().map(|call| (*call, Vec::new())).collect();
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, unknown, arch)?.try_into()
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

/// One rule for each value: any of them will do.
fn each<const N: usize>(
    values: [c_int; N],
    condition: impl Fn(c_int) -> Result<SeccompCondition, BackendError>,
) -> Result<Vec<SeccompRule>, BackendError> {
    values.into_iter().map(|value| rule([condition(value)?])).collect()
}

fn is(argument: u8, value: c_int) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// None of these bits.
fn without(argument: u8, bits: c_int) -> Result<SeccompCondition, BackendError> {
    masked(argument, bits, 0)
}

fn masked(argument: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
    let op = SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, u64::from(value.cast_unsigned()))
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
