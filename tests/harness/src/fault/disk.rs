//! A disk that is small enough to be filled.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Holds what fills the disk.
const BALLAST: &str = ".ballast";
const PAGE: usize = 4096;

/// Gives the calling thread, and what it starts from now on, mounts of its own. In a [`crate::Machine`] it has them already.
///
/// # Panics
/// When the kernel does not allow it; `#[needs(root)]` asks before.
pub fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("root may make a mount namespace");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("mounts can be made private");
}

/// A file system of a few pages in memory, mounted on a directory; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Mounts one of `bytes` on a directory, which is made when it is missing; everybody may write there.
    ///
    /// # Panics
    /// When it cannot be mounted. Only to be called with mounts of one's own: see [`private_mounts`].
    pub fn small(dir: &Path, bytes: u64) -> Self {
        fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let options = format!("size={bytes},mode=1777");
        let mounted = mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()));
        mounted.unwrap_or_else(|e| panic!("cannot mount a small disk on {}: {e}", dir.display()));
        Self { dir: dir.to_owned() }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        self.fill_but(0);
    }

    /// Takes all the space but so many bytes, rounded down to pages.
    ///
    /// # Panics
    /// When the disk cannot be written for another reason than that it is full.
    pub fn fill_but(&self, bytes: usize) {
        let path = self.dir.join(BALLAST);
        let mut file =
            File::options().create(true).append(true).open(&path).expect("the ballast can be made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the ballast is ours");
        loop {
            match file.write(&[0xff; PAGE]) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => break,
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
        let full = file.metadata().expect("the ballast is there").len();
        file.set_len(full.saturating_sub((bytes / PAGE * PAGE) as u64)).expect("a file can be cut");
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// When the disk was not filled.
    pub fn free(&self) {
        fs::remove_file(self.dir.join(BALLAST)).expect("the disk was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
    }
}
