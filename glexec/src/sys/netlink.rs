//! The kernel's process events: a netlink socket of the process connector (`linux/cn_proc.h`), with a filter in the kernel.

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Where the kind of event stands in a message: after `nlmsghdr` (16 bytes) and `cn_msg` (20 bytes).
pub(crate) const KIND_AT: u32 = 36;
/// First number of the event's own data: after kind, CPU and time stamp.
pub(crate) const DATA_AT: u32 = 52;
/// A process was born (`PROC_EVENT_FORK`).
pub(crate) const FORK: u32 = 0x0000_0001;
/// A process executes another program (`PROC_EVENT_EXEC`).
pub(crate) const EXEC: u32 = 0x0000_0002;
/// A process has ended (`PROC_EVENT_EXIT`).
pub(crate) const EXIT: u32 = 0x8000_0000;

/// What is worth waking us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// No event at all.
    Nothing,
    /// Executions.
    Programs,
    /// Executions, and births and ends of processes (not of threads).
    Members,
}

/// Room for events that wait for us, bytes.
const RECEIVE_BUFFER: libc::c_int = 4 * 1024 * 1024;
/// `PROC_CN_MCAST_LISTEN` and `PROC_CN_MCAST_IGNORE`.
const LISTEN: u32 = 1;
const IGNORE: u32 = 2;

/// The socket; events stop when it is dropped.
pub(crate) struct ProcessEvents(OwnedFd);

impl ProcessEvents {
    /// Subscribes; needs `CAP_NET_ADMIN` and the host's first network namespace.
    pub(crate) fn listen(filter: &[libc::sock_filter]) -> Result<Self, Errno> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_CONNECTOR) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        this.filter(filter)?;
        this.set(libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)
            .or_else(|_| this.set(libc::SO_RCVBUF, &RECEIVE_BUFFER))?;
        this.bind()?;
        this.ask(LISTEN)?;
        Ok(this)
    }

    /// Replaces the filter: what it turns away never wakes us.
    pub(crate) fn filter(&self, program: &[libc::sock_filter]) -> Result<(), Errno> {
        let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
        // setsockopt(2) reads the instructions; the pointer's type in C is merely not const.
        let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
        self.set(libc::SO_ATTACH_FILTER, &program)
    }

    fn set<T>(&self, option: libc::c_int, value: &T) -> Result<(), Errno> {
        let size = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
        let (fd, value) = (self.0.as_raw_fd(), std::ptr::from_ref(value).cast());
        // SAFETY: pointer and size describe one live value, which the kernel copies.
        Errno::result(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, size) }).map(drop)
    }

    fn bind(&self) -> Result<(), Errno> {
        // SAFETY: sockaddr_nl is plain numbers, for which zero is valid.
        let mut own: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        own.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        own.nl_groups = libc::CN_IDX_PROC;
        let (address, size) = (std::ptr::from_ref(&own).cast(), size_of::<libc::sockaddr_nl>());
        let size = libc::socklen_t::try_from(size).map_err(|_| Errno::EINVAL)?;
        // SAFETY: pointer and size describe one live address.
        Errno::result(unsafe { libc::bind(self.0.as_raw_fd(), address, size) }).map(drop)
    }

    fn ask(&self, operation: u32) -> Result<(), Errno> {
        let message = request(operation);
        // SAFETY: pointer and length describe one live buffer.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        Errno::result(sent).map(drop)
    }

    /// The next message of the kernel; `EAGAIN` when there is none, `ENOBUFS` when some were lost.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        // SAFETY: sockaddr_nl is plain numbers, for which zero is valid.
        let mut from: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut size =
            libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).map_err(|_| Errno::EINVAL)?;
        let (fd, address) = (self.0.as_raw_fd(), std::ptr::from_mut(&mut from).cast());
        // SAFETY: buffer, address and its size are live and writable, and their lengths are what is said.
        let got =
            unsafe { libc::recvfrom(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0, address, &mut size) };
        let got = usize::try_from(Errno::result(got)?).map_err(|_| Errno::EIO)?;
        // Only the kernel has the port 0; other processes could send to us as well.
        Ok(if from.nl_pid == 0 { &buffer[..got.min(buffer.len())] } else { &[] })
    }
}

impl AsFd for ProcessEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for ProcessEvents {
    fn drop(&mut self) {
        // The kernel counts listeners, and older ones go on sending to nobody when this is left out.
        let _ = self.ask(IGNORE);
    }
}

/// `nlmsghdr`, `cn_msg` and the operation, in this host's byte order.
fn request(operation: u32) -> Vec<u8> {
    const LENGTH: u32 = 40;
    let mut message = Vec::new();
    for number in [LENGTH, u32::from(libc::NLMSG_DONE as u16), 0, 0] {
        message.extend(number.to_ne_bytes());
    }
    for number in [libc::CN_IDX_PROC, 1, 0, 0] {
        message.extend(number.to_ne_bytes());
    }
    message.extend(4_u16.to_ne_bytes());
    message.extend(0_u16.to_ne_bytes());
    message.extend(operation.to_ne_bytes());
    message
}

/// The filter's program.
pub(crate) fn filter(scope: Scope) -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const EQUAL_X: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X) as u16;
    const TO_X: u16 = (libc::BPF_MISC | libc::BPF_TAX) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The program reads in network order what the kernel wrote in its own.
    let equal = |kind: u32, jt, jf| step(EQUAL, jt, jf, kind.to_be());
    let load = |at| step(LOAD, 0, 0, at);
    let (take, drop) = (step(RETURN, 0, 0, u32::MAX), step(RETURN, 0, 0, 0));
    match scope {
        Scope::Nothing => return vec![drop],
        Scope::Programs => return vec![load(KIND_AT), equal(EXEC, 0, 1), take, drop],
        Scope::Members => {}
    }
    vec![
        load(KIND_AT),
        equal(EXEC, 10, 0),
        equal(FORK, 1, 0),
        equal(EXIT, 4, 9),
        // A birth: number of the child, number of its thread group.
        load(DATA_AT + 8),
        step(TO_X, 0, 0, 0),
        load(DATA_AT + 12),
        step(EQUAL_X, 4, 5, 0),
        // An end: the same of the process itself.
        load(DATA_AT),
        step(TO_X, 0, 0, 0),
        load(DATA_AT + 4),
        step(EQUAL_X, 0, 1, 0),
        take,
        drop,
    ]
}

/// A message of the connector as the kernel sends it, for tests: the heads, then the kind of the event and its numbers.
#[cfg(test)]
pub(crate) fn message(kind: u32, data: [u32; 4]) -> Vec<u8> {
    let mut message = vec![0; 36];
    message.extend(kind.to_ne_bytes());
    message.extend([0; 12]);
    data.iter().for_each(|n| message.extend(n.to_ne_bytes()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter makes of a message, by the rules of `bpf(4)`.
    fn passes(program: &[libc::sock_filter], message: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0, 0, 0);
        let word = |k: u32| u32::from_be_bytes(message[k as usize..][..4].try_into().unwrap());
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                0x20 => a = word(step.k),
                0x15 => at += usize::from(if a == step.k { step.jt } else { step.jf }),
                0x1d => at += usize::from(if a == x { step.jt } else { step.jf }),
                0x07 => x = a,
                0x06 => return step.k != 0,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn only_what_is_asked_for_wakes_us() {
        let (exec, fork) = (message(EXEC, [7, 7, 0, 0]), message(FORK, [1, 1, 7, 7]));
        let (thread, exit) = (message(FORK, [1, 1, 8, 7]), message(EXIT, [7, 7, 0, 0]));
        let (thread_exit, uid) = (message(EXIT, [8, 7, 0, 0]), message(4, [7, 7, 0, 0]));
        let (none, few, all) = (filter(Scope::Nothing), filter(Scope::Programs), filter(Scope::Members));
        assert_eq!([&exec, &fork, &exit, &uid].map(|m| passes(&none, m)), [false; 4]);
        assert_eq!([&exec, &fork, &exit, &uid].map(|m| passes(&few, m)), [true, false, false, false]);
        assert_eq!([&exec, &fork, &exit, &uid].map(|m| passes(&all, m)), [true, true, true, false]);
        assert_eq!([&thread, &thread_exit].map(|m| passes(&all, m)), [false, false]);
    }

    #[test]
    fn a_request_has_the_layout_of_the_connector() {
        let bytes = request(LISTEN);
        assert_eq!((bytes.len(), bytes[0], bytes[4]), (40, 40, 3));
        assert_eq!((bytes[16], bytes[20], bytes[32], bytes[36]), (1, 1, 4, 1));
    }
}
