//! File descriptors.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::sys::stat::{Mode, fstat, makedev};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Puts `/dev/null`, for reading and writing, on each of 0, 1 and 2 that was closed, so that no file of ours ever lands
/// there and the payload finds what it expects.
pub(crate) fn fill_standard() -> Result<(), Errno> {
    loop {
        // The lowest free number is taken, so opening until it exceeds 2 fills exactly the holes.
        let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            // SAFETY: 0, 1 and 2 are open, and nobody closes them while they are borrowed here.
            let standard = [0, 1, 2].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
            let mut filled = standard.into_iter().filter(|fd| is_stopgap(*fd));
            return filled.try_for_each(|fd| replace_standard(null.as_fd(), fd.as_raw_fd()));
        }
        let _standard = null.into_raw_fd();
    }
}

/// In setuid programs the C library fills holes before `main`, with devices opened the wrong way round: 0 with `/dev/full`
/// for writing, 1 and 2 with `/dev/null` for reading (glibc, `csu/check_fds.c`).
fn is_stopgap(fd: BorrowedFd<'_>) -> bool {
    const MEMORY_DEVICES: u64 = 1;
    let (minor, wrong) = if fd.as_raw_fd() == 0 { (7, OFlag::O_WRONLY) } else { (3, OFlag::O_RDONLY) };
    let device = fstat(fd).map_or(0, |stat| stat.st_rdev);
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    device == makedev(MEMORY_DEVICES, minor) && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == wrong)
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> Result<(), Errno> {
    let first = libc::c_uint::try_from(first).map_err(|_| Errno::EINVAL)?;
    // SAFETY: close_range takes numbers only; callers hold no owned descriptor at or above `first`.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if Errno::result(result).is_ok() {
        return Ok(());
    }
    close_listed(first)
}

/// For kernels before 5.9, which lack close_range(2).
fn close_listed(first: libc::c_uint) -> Result<(), Errno> {
    let mut open_fds = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::EIO)?.flatten() {
        open_fds.extend(entry.file_name().to_str().and_then(|name| name.parse::<libc::c_uint>().ok()));
    }
    for fd in open_fds.into_iter().filter(|fd| *fd >= first) {
        let fd = RawFd::try_from(fd).map_err(|_| Errno::EINVAL)?;
        // SAFETY: as above, nothing owned lies at or above `first`; closing twice only yields EBADF.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Makes `target` (0, 1 or 2) a copy of `source`.
pub(crate) fn replace_standard(source: BorrowedFd<'_>, target: RawFd) -> Result<(), Errno> {
    debug_assert!((0..=2).contains(&target));
    if source.as_raw_fd() == target {
        // dup2 onto itself does nothing and would leave the close-on-exec flag set.
        fcntl(source, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)
    } else {
        // SAFETY: dup2 takes numbers; 0, 1 and 2 are owned by nobody in Rust's sense.
        Errno::result(unsafe { libc::dup2(source.as_raw_fd(), target) }).map(drop)
    }
}

/// Turns 0, 1 and 2 into `/dev/null`.
pub(crate) fn null_standard() -> Result<(), Errno> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    (0..=2).try_for_each(|fd| replace_standard(null.as_fd(), fd))
}

/// Closes every descriptor but this one, which gets another number; 0, 1 and 2 become `/dev/null`.
///
/// For a forked child that never returns: what its parent's variables own is closed under them.
pub(crate) fn keep_only(kept: OwnedFd) -> Result<OwnedFd, Errno> {
    const PLACE: RawFd = 3;
    null_standard()?;
    let kept = kept.into_raw_fd();
    if kept != PLACE {
        // SAFETY: dup2 takes numbers. Closing what was at the place breaks no owner: by the contract of this function the
        // caller is a forked child that exits by `_exit`, so no destructor of an earlier owner runs in this process.
        Errno::result(unsafe { libc::dup2(kept, PLACE) })?;
    }
    close_from(PLACE + 1)?;
    // SAFETY: PLACE is open: dup2 made it, or `kept` was PLACE and `into_raw_fd` gave up its ownership. No other owner exists.
    Ok(unsafe { OwnedFd::from_raw_fd(PLACE) })
}

/// Closes every descriptor above 2 but this one.
///
/// For a forked child on its way to exec or exit: what its parent's variables own is closed under them.
pub(crate) fn close_all_but(kept: RawFd) -> Result<(), Errno> {
    let kept = libc::c_uint::try_from(kept).map_err(|_| Errno::EBADF)?;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        // SAFETY: takes numbers only. By the contract of this function the process never returns to code that owns one of
        // them: it executes a program or exits by `_exit`.
        Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
    };
    let below = if kept > 3 { close(3, kept - 1) } else { Ok(0) };
    match below.and_then(|_| close(kept.max(2) + 1, libc::c_uint::MAX)) {
        Ok(_) => Ok(()),
        // For kernels before 5.9.
        Err(_) => close_listed_but(kept),
    }
}

fn close_listed_but(kept: libc::c_uint) -> Result<(), Errno> {
    let listed = std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::EIO)?;
    let numbers: Vec<RawFd> =
        listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in numbers.into_iter().filter(|fd| *fd > 2 && libc::c_uint::try_from(*fd) != Ok(kept)) {
        // SAFETY: as above; closing twice only yields EBADF.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Keeps one descriptor that the caller wants to be told something on, closed by exec; `None` when it is not open.
pub(crate) fn keep_for_caller(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_SETFD takes numbers; on a number that is not open it yields EBADF.
    let marked = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the number is open, and nothing in this process has owned it so far: it came from the caller.
    (marked == 0 && number > 2).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor above 2 to be closed by exec: the payload gets 0, 1 and 2.
pub(crate) fn close_on_exec() -> Result<(), Errno> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range takes numbers only, and with this flag it closes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // Kernels before 5.11 do not know the flag, those before 5.9 not the call.
    if Errno::result(result).is_ok() { Ok(()) } else { mark_close_on_exec() }
}

fn mark_close_on_exec() -> Result<(), Errno> {
    for entry in std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::EIO)?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(fd) = number.filter(|fd| *fd > 2) {
            // SAFETY: F_SETFD takes numbers; on a descriptor that is already gone it yields EBADF.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Sends bytes and copies of descriptors over the local socket on descriptor 0, without waiting (unix(7), `SCM_RIGHTS`).
pub(crate) fn send(bytes: &[u8], handed: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let numbers: Vec<RawFd> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    let length = libc::c_uint::try_from(size_of_val(numbers.as_slice())).map_err(|_| Errno::E2BIG)?;
    // SAFETY: computes a size from a number.
    let space = unsafe { libc::CMSG_SPACE(length) };
    // SAFETY: as above.
    let whole = unsafe { libc::CMSG_LEN(length) };
    // Words of 64 bits, so that the header in it is aligned.
    let mut control = vec![0_u64; (space as usize).div_ceil(8)];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the structure is numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), space as _);
    // SAFETY: zero is a value of these numbers.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    (header.cmsg_level, header.cmsg_type, header.cmsg_len) = (libc::SOL_SOCKET, libc::SCM_RIGHTS, whole as _);
    // SAFETY: the message has a control buffer that is live, aligned, and longer than a header.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: as above; it is the buffer's beginning, since the buffer is not empty.
    unsafe { first.write(header) };
    // SAFETY: the header is followed by room for its data.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: the buffer has space for a header and all numbers.
    unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), data.cast(), numbers.len()) };
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: everything that `message` points to lives through the call, and is as long as it says.
    let sent = unsafe { libc::sendmsg(0, &raw const message, flags) };
    match Errno::result(sent)? {
        sent if usize::try_from(sent) == Ok(bytes.len()) => Ok(()),
        _ => Err(Errno::EMSGSIZE),
    }
}
