//! A private view of the host's files: everything can be read, nothing that is written reaches the host.
//!
//! The calling thread gets a mount namespace of its own and a new root: an overlay of the host's root whose upper layer
//! is in memory. Programs then run at their real paths. When the last process in it has ended, the kernel takes
//! everything away, also when the test was killed.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the memory file system is put while the view is built; every host has this directory.
const BASE: &str = "/run";

/// The way back for the thread that entered a view.
#[derive(Debug)]
pub(crate) struct View {
    host: File,
    root: File,
    cwd: Option<PathBuf>,
}

/// Something that went wrong while the view was built.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

impl View {
    /// Moves the calling thread, and whatever it starts from now on, into a new view. `prepare` is called with the
    /// directory of the new root while the host's files can still be seen at their own paths.
    pub(crate) fn enter(prepare: impl FnOnce(&Path) -> Result<(), Failed>) -> Result<Self, Failed> {
        let view = Self {
            host: File::open("/proc/thread-self/ns/mnt")?,
            root: File::open("/")?,
            cwd: std::env::current_dir().ok(),
        };
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
        let built = build(prepare);
        if built.is_err() {
            view.leave();
        }
        built.map(|()| view)
    }

    /// Brings the calling thread back to the host.
    pub(crate) fn leave(&self) {
        // Threads started meanwhile share the root and working directory with this one; the kernel wants them apart.
        let back = unshare(CloneFlags::CLONE_FS)
            .and_then(|()| setns(self.host.as_fd(), CloneFlags::CLONE_NEWNS))
            .and_then(|()| nix::unistd::fchdir(&self.root))
            .and_then(|()| nix::unistd::chroot("."));
        if let Err(error) = back {
            eprintln!("cannot leave the private view: {error}");
        }
        if let Some(cwd) = &self.cwd {
            let _ = std::env::set_current_dir(cwd);
        }
    }
}

/// Why this host does not allow to build a view, found out by building one.
pub(crate) fn hindrance() -> Option<String> {
    // On a thread of its own, which takes its namespace with it when it ends.
    let attempt = || -> Result<(), Failed> {
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS;
        unshare(flags).map_err(|e| {
            format!("this root may not make mount namespaces ({e}); run outside of the container or with CAP_SYS_ADMIN")
        })?;
        build(|_| Ok(()))
    };
    let tried = std::thread::spawn(move || attempt().err().map(|e| e.to_string())).join();
    tried.unwrap_or_else(|_| Some("building a private view of the files panicked".to_owned()))
}

fn build(prepare: impl FnOnce(&Path) -> Result<(), Failed>) -> Result<(), Failed> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let names = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].map(|f| (f, fs::read(f)));
    memory(Path::new(BASE), "0755")?;
    let base = Path::new(BASE);
    let root = base.join("root");
    for dir in ["upper", "work", "root"] {
        nix::unistd::mkdir(&base.join(dir), Mode::from_bits_truncate(0o755))?;
    }
    let layers = format!("lowerdir=/,upperdir={BASE}/upper,workdir={BASE}/work");
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .map_err(|e| {
            format!("cannot mount an overlay of / ({e}); the kernel needs overlayfs (modprobe overlay), and the root may \
                     itself be an overlay that allows no second one: run on a plain host or in a virtual machine")
        })?;
    for dir in ["proc", "sys", "dev"] {
        bind(&Path::new("/").join(dir), &root.join(dir))?;
    }
    memory(&root.join("run"), "0755")?;
    memory(&root.join("dev/shm"), "1777")?;
    // Containers mount these three one by one, which the overlay does not see.
    for (file, text) in names {
        if let Ok(text) = text {
            replace(&root.join(&file[1..]), &text)?;
        }
    }
    prepare(&root)?;
    memory(&root.join("tmp"), "1777")?;
    std::env::set_current_dir(&root)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn memory(dir: &Path, mode: &str) -> Result<(), Failed> {
    let options = format!("mode={mode}");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| format!("cannot mount tmpfs on {}: {e}", dir.display()).into())
}

/// Makes `from` visible at `to` as well; both have to exist.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<(), Failed> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| format!("cannot bind {} on {}: {e}", from.display(), to.display()).into())
}

/// Like [`bind`], and nothing can be written there.
pub(crate) fn bind_read_only(from: &Path, to: &Path) -> Result<(), Failed> {
    bind(from, to)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(None::<&str>, to, None::<&str>, flags, None::<&str>)?)
}

/// Puts a file in place of whatever has its name, a symbolic link included.
pub(crate) fn replace(file: &Path, text: &[u8]) -> Result<(), Failed> {
    let _ = fs::remove_file(file);
    fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    Ok(())
}
