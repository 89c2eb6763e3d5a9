//! Which file a process executes, asked without waiting for any disk or server.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::os::fd::AsRawFd;

/// What tells one file from another, and whether executing it gives root's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Executable {
    /// Device, as major and minor number.
    pub(crate) device: (u32, u32),
    /// Inode number on that device.
    pub(crate) inode: u64,
    /// Size in bytes.
    pub(crate) size: u64,
    /// Owned by root and with the setuid bit.
    pub(crate) setuid_root: bool,
}

/// The file behind `/proc/<pid>/exe`. A file of a payload may lie on a server of its own making, so what the kernel
/// remembers of the file must do (`AT_STATX_DONT_SYNC`, statx(2)).
pub(crate) fn of_process(pid: Pid) -> Result<Executable, Errno> {
    let path = format!("/proc/{pid}/exe");
    let file = open(path.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let (fd, mask) = (file.as_raw_fd(), libc::STATX_BASIC_STATS);
    // SAFETY: the name is an empty C string, and the buffer is live and of the right type.
    let result = unsafe { libc::statx(fd, c"".as_ptr(), flags, mask, found.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: statx is plain numbers, for which zero is valid; the kernel has filled it in.
    let found = unsafe { found.assume_init() };
    Ok(Executable {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        setuid_root: found.stx_uid == 0 && u32::from(found.stx_mode) & libc::S_ISUID != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn this_program_is_found_by_device_and_inode() {
        let own = of_process(nix::unistd::getpid()).unwrap();
        let meta = std::fs::metadata("/proc/self/exe").unwrap();
        assert_eq!((own.inode, own.size, own.setuid_root), (meta.ino(), meta.len(), false));
        let device = (libc::major(meta.dev()), libc::minor(meta.dev()));
        assert_eq!(own.device, device);
    }
}
