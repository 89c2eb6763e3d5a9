//! System calls that a payload may not make: a seccomp filter that lets everything else pass (seccomp(2)).

use nix::errno::Errno;

/// Architecture (linux/audit.h), and whether it is x32: its numbers are this program's with one bit set.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [(u32, Table); 3] =
    [(0xc000_003e, Table::Own), (0xc000_003e, Table::X32), (0x4000_0003, Table::Bits32)];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [(u32, Table); 2] = [(0xc000_00b7, Table::Own), (0x4000_0028, Table::Bits32)];
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Which numbers system calls have.
#[derive(Debug, Clone, Copy)]
enum Table {
    Own,
    #[cfg(target_arch = "x86_64")]
    X32,
    Bits32,
}

/// A system call that is refused with EPERM, whatever program of this host's architectures makes it.
pub(crate) struct Refused {
    /// Its number for programs like this one.
    pub(crate) own: libc::c_long,
    /// Its number for 32-bit programs.
    pub(crate) bits32: u32,
    /// For x32, where that is not this program's own with one bit set.
    pub(crate) x32: Option<u32>,
    pub(crate) when: When,
}

/// On what the refusal depends: on an argument, counted from 0, of which the kernel uses the lower 32 bits.
pub(crate) enum When {
    Is(u32, u32),
    IsNot(u32, u32),
}

impl Refused {
    fn number(&self, table: Table) -> u32 {
        match table {
            // Numbers of system calls are small and not negative.
            Table::Own => self.own as u32,
            #[cfg(target_arch = "x86_64")]
            Table::X32 => self.x32.unwrap_or(self.own as u32 | X32),
            Table::Bits32 => self.bits32,
        }
    }
}

/// Refuses these calls to this process and all that it starts. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
pub(crate) fn refuse(calls: &[Refused]) -> Result<(), Errno> {
    let mut program = filter(calls);
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points to a live program of the length it states; the kernel copies it.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) };
    Errno::result(set).map(drop)
}

/// The program in classic BPF: offsets are those of `struct seccomp_data` on little-endian hosts.
fn filter(calls: &[Refused]) -> Vec<libc::sock_filter> {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const ARGUMENTS: u32 = 16;
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equal = |value, yes, no| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let answer = |value| step(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let mut program = Vec::new();
    for (architecture, table) in ARCHITECTURES {
        for call in calls {
            let (argument, value, (yes, no)) = match call.when {
                When::Is(argument, value) => (argument, value, (0, 1)),
                When::IsNot(argument, value) => (argument, value, (1, 0)),
            };
            // Whatever does not match goes on behind the block: with the next call, or to the end.
            program.extend([
                load(ARCHITECTURE),
                equal(architecture, 0, 5),
                load(NUMBER),
                equal(call.number(table), 0, 3),
                load(ARGUMENTS + 8 * argument),
                equal(value, yes, no),
                answer(denied),
            ]);
        }
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
