//! `[ports] enforce`: programs of the kernel (bpf(2), cgroup hooks) by which the sockets of a session stay inside its lease.
//!
//! | hook | what it decides |
//! |---|---|
//! | `INET4_BIND`, `INET6_BIND` | the address is loopback, or the port is leased; port 0 becomes the next leased port |
//! | `INET_SOCK_CREATE` | TCP, UDP, MPTCP and unprivileged ICMP only: other protocols have a bind of their own |
//! | `INET_INGRESS` | who listens, or takes datagrams from anybody, on a port that is not leased hears nobody but loopback: there are ways to a port that do not lead through bind(2) |
//!
//! The kernel asks by the cgroup in which a socket was made, so neither fork nor a new session or namespace leads out. The
//! programs stay as long as the leaf does, and go with it. Nothing is parsed here: the only input is two numbers.

use nix::errno::Errno;
use policy::ports::PortWall;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
/// `BPF_MAP_TYPE_ARRAY`
const ARRAY: u32 = 2;
/// `BPF_F_ALLOW_MULTI`: programs of the batch system and of systemd are asked as well.
const BESIDE_OTHERS: u32 = 2;

/// A place where the kernel asks: its number, and that of the kind of program (linux/bpf.h).
#[derive(Debug, Clone, Copy)]
struct Hook {
    kind: u32,
    place: u32,
}

const INGRESS: Hook = Hook { kind: 8, place: 0 };
const SOCK_CREATE: Hook = Hook { kind: 9, place: 2 };
const BIND_4: Hook = Hook { kind: 18, place: 8 };
const BIND_6: Hook = Hook { kind: 18, place: 9 };

/// `struct bpf_insn`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

/// Attaches all programs to a cgroup of version 2. On an error some may be attached already, and hold until the group goes.
pub(crate) fn attach(group: BorrowedFd<'_>, wall: &PortWall) -> Result<(), Errno> {
    let counter = counter()?;
    let programs = [
        (BIND_4, bind(wall, &counter, LOOPBACK_4)),
        (BIND_6, bind(wall, &counter, LOOPBACK_6)),
        (SOCK_CREATE, sock_create()),
        (INGRESS, ingress(wall)),
    ];
    for (hook, program) in programs {
        let loaded = load(hook, &program)?;
        attach_one(group, &loaded, hook)?;
    }
    Ok(())
}

/// How many times port 0 was asked for: one number that the kernel keeps for the two bind programs.
fn counter() -> Result<OwnedFd, Errno> {
    // Kind, bytes of a key and of a value, number of entries.
    let attributes: [u32; 4] = [ARRAY, 4, 8, 1];
    // SAFETY: the structure is live and as long as stated; the kernel takes the rest for zero.
    let made = unsafe { bpf(MAP_CREATE, attributes.as_ptr().cast(), size_of_val(&attributes)) };
    own(made)
}

/// `struct bpf_attr` of `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    program: *const Instruction,
    license: *const libc::c_char,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    place: u32,
}

fn load(hook: Hook, program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let license = c"none";
    let mut name = [0; 16];
    name[..12].copy_from_slice(b"glexec_ports");
    let load = Load {
        kind: hook.kind,
        count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        program: program.as_ptr(),
        license: license.as_ptr(),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        place: hook.place,
    };
    // SAFETY: structure, program and license live through the call, and the program is as long as stated.
    let loaded = unsafe { bpf(PROG_LOAD, std::ptr::from_ref(&load).cast(), size_of::<Load>()) };
    own(loaded)
}

fn attach_one(group: BorrowedFd<'_>, program: &OwnedFd, hook: Hook) -> Result<(), Errno> {
    let number = |fd: i32| u32::try_from(fd).map_err(|_| Errno::EBADF);
    let attributes: [u32; 4] =
        [number(group.as_raw_fd())?, number(program.as_raw_fd())?, hook.place, BESIDE_OTHERS];
    // SAFETY: the structure is live and as long as stated.
    let attached = unsafe { bpf(PROG_ATTACH, attributes.as_ptr().cast(), size_of_val(&attributes)) };
    Errno::result(attached).map(drop)
}

/// # Safety
/// `attributes` points to `size` bytes, and whatever they point to is live.
unsafe fn bpf(command: libc::c_int, attributes: *const libc::c_void, size: usize) -> libc::c_long {
    // SAFETY: promised by the caller.
    unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) }
}

fn own(made: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(Errno::result(made)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// The programs. Register 0 is the answer, 1 to 5 are arguments, 6 to 9 survive calls, 10 is the stack (BPF instruction set,
// RFC 9669). Jumps count from the next instruction; `Program` fills them in.

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Allow,
    Deny,
    /// The check of the port, behind that of the address.
    Port,
    /// The check of an IPv4 address that is written as IPv6.
    Mapped,
    /// Port 0.
    Any,
    /// The rule for UDP.
    Datagrams,
}

#[derive(Default)]
struct Program {
    code: Vec<Instruction>,
    jumps: Vec<(usize, To)>,
    marks: Vec<(To, usize)>,
}

/// Bytes of a load.
#[derive(Clone, Copy)]
enum Size {
    One = 0x10,
    Two = 0x08,
    Four = 0x00,
    Eight = 0x18,
}

impl Program {
    fn push(&mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) -> &mut Self {
        self.code.push(Instruction { code, registers: to | from << 4, offset, value });
        self
    }

    fn set(&mut self, register: u8, value: i32) -> &mut Self {
        self.push(0xb7, register, 0, 0, value)
    }

    fn copy(&mut self, to: u8, from: u8) -> &mut Self {
        self.push(0xbf, to, from, 0, 0)
    }

    fn load(&mut self, size: Size, to: u8, from: u8, offset: i16) -> &mut Self {
        self.push(0x61 | size as u8, to, from, offset, 0)
    }

    fn store(&mut self, size: Size, to: u8, offset: i16, from: u8) -> &mut Self {
        self.push(0x63 | size as u8, to, from, offset, 0)
    }

    /// Network order to this host's, or back, of 16 bits.
    fn swap_port(&mut self, register: u8) -> &mut Self {
        self.push(0xdc, register, 0, 0, 16)
    }

    fn call(&mut self, helper: i32) -> &mut Self {
        self.push(0x85, 0, 0, 0, helper)
    }

    /// Jumps when the comparison of the lower 32 bits holds.
    fn jump(&mut self, comparison: u8, register: u8, value: u32, to: To) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(comparison | 0x06, register, 0, 0, value.cast_signed())
    }

    /// Jumps when a pointer is none.
    fn jump_if_null(&mut self, register: u8, to: To) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(0x15, register, 0, 0, 0)
    }

    fn go(&mut self, to: To) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(0x05, 0, 0, 0, 0)
    }

    fn mark(&mut self, here: To) -> &mut Self {
        self.marks.push((here, self.code.len()));
        self
    }

    /// Both ends, and the jumps.
    fn finished(mut self) -> Vec<Instruction> {
        const EXIT: u8 = 0x95;
        self.mark(To::Deny).set(0, 0).push(EXIT, 0, 0, 0, 0);
        self.mark(To::Allow).set(0, 1).push(EXIT, 0, 0, 0, 0);
        for (at, to) in &self.jumps {
            let target = self.marks.iter().find(|(mark, _)| mark == to).map_or(0, |(_, place)| *place);
            let distance = i16::try_from(target).unwrap_or(0) - i16::try_from(*at).unwrap_or(0) - 1;
            self.code[*at].offset = distance;
        }
        self.code
    }

    /// To `Allow` for a leased port in a register, else on.
    fn leased(&mut self, wall: &PortWall, register: u8) -> &mut Self {
        if let Some(lease) = wall.lease {
            // Over the next one.
            self.push(LESS | 0x06, register, 0, 1, i32::from(lease.low()));
            self.jump(NOT_GREATER, register, u32::from(lease.high()), To::Allow);
        }
        self
    }
}

/// Comparisons, without sign.
const EQUAL: u8 = 0x10;
const NOT_EQUAL: u8 = 0x50;
const LESS: u8 = 0xa0;
const NOT_GREATER: u8 = 0xb0;

/// Offsets in `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
/// First byte of 127.0.0.0/8.
const LOOPBACK_NET: u32 = 127;

/// Adds a jump to `Allow` for addresses of loopback; the context is in register 6.
type Loopback = fn(&mut Program);

const LOOPBACK_4: Loopback = |program| {
    program.load(Size::One, 2, 6, USER_IP4).jump(EQUAL, 2, LOOPBACK_NET, To::Allow);
};

/// `::1`, and `::ffff:127.0.0.0/104`.
const LOOPBACK_6: Loopback = |program| {
    let word = |n: i16| USER_IP6 + 4 * n;
    program.load(Size::Four, 2, 6, word(0)).jump(NOT_EQUAL, 2, 0, To::Port);
    program.load(Size::Four, 2, 6, word(1)).jump(NOT_EQUAL, 2, 0, To::Port);
    program.load(Size::Four, 2, 6, word(2)).jump(EQUAL, 2, 0xffff_u32.to_be(), To::Mapped);
    program.jump(NOT_EQUAL, 2, 0, To::Port);
    program.load(Size::Four, 2, 6, word(3)).jump(EQUAL, 2, 1_u32.to_be(), To::Allow).go(To::Port);
    program.mark(To::Mapped).load(Size::One, 2, 6, word(3)).jump(EQUAL, 2, LOOPBACK_NET, To::Allow);
};

fn bind(wall: &PortWall, counter: &OwnedFd, loopback: Loopback) -> Vec<Instruction> {
    let mut program = Program::default();
    program.copy(6, 1);
    if wall.loopback {
        loopback(&mut program);
    }
    program.mark(To::Port).load(Size::Four, 2, 6, USER_PORT).swap_port(2);
    let Some(lease) = wall.lease else { return program.finished() };
    program.jump(EQUAL, 2, 0, To::Any).leased(wall, 2).go(To::Deny);
    // The next one of the lease: bpf_map_lookup_elem, then low + n % count.
    let count = i32::try_from(lease.count()).unwrap_or(1);
    program.mark(To::Any).set(2, 0).store(Size::Four, 10, -4, 2).copy(2, 10).push(0x07, 2, 0, 0, -4);
    program.push(0x18, 1, 1, 0, counter.as_raw_fd()).push(0, 0, 0, 0, 0).call(1).jump_if_null(0, To::Deny);
    program.load(Size::Eight, 3, 0, 0).copy(4, 3).push(0x07, 4, 0, 0, 1).store(Size::Eight, 0, 0, 4);
    program.push(0x97, 3, 0, 0, count).push(0x07, 3, 0, 0, i32::from(lease.low()));
    program.swap_port(3).store(Size::Four, 6, USER_PORT, 3).go(To::Allow);
    program.finished()
}

/// Protocols that the other programs cover, and ICMP, which has no ports.
const COVERED: [libc::c_int; 5] =
    [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_MPTCP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];

/// Offsets in `struct bpf_sock`.
const TYPE: i16 = 8;
const PROTOCOL: i16 = 12;
const SOURCE_PORT: i16 = 44;
const PEER_PORT: i16 = 48;
const STATE: i16 = 72;

fn sock_create() -> Vec<Instruction> {
    let mut program = Program::default();
    program.load(Size::Four, 2, 1, TYPE).jump(EQUAL, 2, libc::SOCK_RAW.cast_unsigned(), To::Deny);
    program.load(Size::Four, 2, 1, PROTOCOL);
    for protocol in COVERED {
        program.jump(EQUAL, 2, protocol.cast_unsigned(), To::Allow);
    }
    program.finished()
}

/// Offsets in `struct __sk_buff`.
const INTERFACE: i16 = 40;
const SOCKET: i16 = 168;
/// In each network namespace.
const LOOPBACK_INTERFACE: u32 = 1;
/// `TCP_LISTEN`
const LISTENS: u32 = 10;

fn ingress(wall: &PortWall) -> Vec<Instruction> {
    let mut program = Program::default();
    if wall.loopback {
        program.load(Size::Four, 2, 1, INTERFACE).jump(EQUAL, 2, LOOPBACK_INTERFACE, To::Allow);
    }
    // bpf_sk_fullsock: none for what is no whole socket, such as one that is being closed.
    program.load(Size::Eight, 1, 1, SOCKET).jump_if_null(1, To::Allow).call(95).jump_if_null(0, To::Allow);
    program.load(Size::Four, 2, 0, SOURCE_PORT).leased(wall, 2);
    program.load(Size::Four, 3, 0, PROTOCOL).jump(EQUAL, 3, libc::IPPROTO_UDP.cast_unsigned(), To::Datagrams);
    program.load(Size::Four, 3, 0, STATE).jump(EQUAL, 3, LISTENS, To::Deny).go(To::Allow);
    program.mark(To::Datagrams).load(Size::Two, 3, 0, PEER_PORT).jump(NOT_EQUAL, 3, 0, To::Allow);
    program.finished()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::ports::PortRange;

    /// The kernel refuses what it cannot prove to end; a jump to nowhere would be found at a site only.
    #[test]
    fn every_jump_leads_ahead_to_an_instruction() {
        let counter = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        for lease in [None, PortRange::new(40_000, 40_000), PortRange::new(1024, 65_535)] {
            for loopback in [true, false] {
                let wall = PortWall { lease, loopback, required: false };
                for program in [
                    bind(&wall, &counter, LOOPBACK_4),
                    bind(&wall, &counter, LOOPBACK_6),
                    ingress(&wall),
                    sock_create(),
                ] {
                    let jumps = program.iter().enumerate().filter(|(_, i)| {
                        let kind = i.code & 0x07;
                        (kind == 0x05 || kind == 0x06) && i.code != 0x85 && i.code != 0x95
                    });
                    for (at, jump) in jumps {
                        let target = at + 1 + usize::try_from(jump.offset).expect("ahead");
                        assert!(jump.offset > 0 && target < program.len(), "{at}: {jump:?}");
                    }
                    assert_eq!(program.last().map(|i| i.code), Some(0x95));
                }
            }
        }
    }
}
