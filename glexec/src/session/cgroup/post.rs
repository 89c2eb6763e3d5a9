//! Where the supervisor stands: beside the leaf, not in the job's own group.
//!
//! Some batch systems kill the processes listed in the job's own group (Slurm, OAR) and would take the supervisor with them
//! and miss what the payload left in the leaf. A directory of its own, in each hierarchy that can end processes, keeps it
//! outside of that list and still below the job's group. Where the caller sits in the root of a hierarchy nobody kills by
//! group, and no directory is made.

use super::membership::Hierarchy;
use super::{Group, Leaf};
use crate::sys::process::{self, Fork};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getpid;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Behind the name of the leaf.
const SUFFIX: &str = ".supervisor";

/// The supervisor's directories, version 2 in front.
#[derive(Debug, Clone)]
pub(crate) struct Post(Vec<Group>);

impl Post {
    /// Where the supervisor of a leaf stands.
    fn planned(leaf: &Leaf) -> Vec<Group> {
        let wanted = leaf.0.iter().filter(|group| group.hierarchy.can_end() && !group.hangs_on_root());
        wanted.map(|group| Group { dir: beside(&group.dir), hierarchy: group.hierarchy.clone() }).collect()
    }

    /// Makes it; `None` where none is needed. A host where it cannot be made is an error: the supervisor would die with the job.
    pub(crate) fn make(leaf: &Leaf) -> io::Result<Option<Self>> {
        let post = Self(Self::planned(leaf));
        for group in &post.0 {
            group.make().inspect_err(|_| drop(post.remove()))?;
        }
        Ok((!post.0.is_empty()).then_some(post))
    }

    /// Removes what the supervisor of a lost session may have left.
    pub(crate) fn remove_of(leaf: &Leaf) -> io::Result<()> {
        Self(Self::planned(leaf)).remove()
    }

    /// Forks a child that is born at the post as far as the kernel can do that; [`Post::enter_rest`] is for the child.
    pub(crate) fn fork_in(post: Option<&Self>) -> nix::Result<Fork> {
        let born = post.and_then(|post| {
            let group = post.0.first().filter(|group| group.hierarchy == Hierarchy::Two)?;
            process::fork_into(fs::File::open(&group.dir).ok()?.as_fd()).ok()
        });
        born.map_or_else(process::fork, Ok)
    }

    /// Moves the calling process where it was not born.
    pub(crate) fn enter_rest(&self) -> io::Result<()> {
        self.0.iter().filter(|group| !group.has_self()).try_for_each(Group::enter)
    }

    /// Forks a child into the job's own groups again, for what the supervisor starts that is not the payload. The child has to
    /// walk the rest of the way with [`Post::leave_rest`].
    pub(crate) fn fork_back(post: Option<&Self>) -> nix::Result<Fork> {
        let Some(group) = post.and_then(|p| p.0.first().filter(|g| g.hierarchy == Hierarchy::Two)) else {
            return process::fork();
        };
        let parent = group.dir.parent().and_then(|dir| fs::File::open(dir).ok());
        let born = parent.and_then(|dir| process::fork_into(dir.as_fd()).ok());
        born.map_or_else(process::fork, Ok)
    }

    /// Moves the calling process to the job's own groups, where it was not born there.
    pub(crate) fn leave_rest(&self) {
        for group in self.0.iter().filter(|group| group.has_self()) {
            let _ = group.parent().map(|parent| parent.enter());
        }
    }

    /// Goes on as a new process outside of the job, so that the directories can be removed, and removes them. A process
    /// cannot remove the directory that it stands in, and to move it would stop every fork on the host for a moment. To the
    /// roots, because a batch system kills whoever it finds in the job's own group, again and again.
    ///
    /// A process that does not stand there removes them as it is.
    pub(crate) fn step_out(self) {
        if !self.0.iter().any(Group::has_self) {
            drop(self.remove());
            return;
        }
        let old = process::pidfd(getpid());
        let top = self.0.first().filter(|group| group.hierarchy == Hierarchy::Two).map(Group::topmost);
        let top = top.and_then(|group| fs::File::open(group.dir).ok());
        match (old, top.and_then(|dir| process::fork_into(dir.as_fd()).ok())) {
            (Ok(old), Some(Fork::Child)) => {
                // The old process leaves at once; it is only waited for until the kernel has taken it out of its group.
                let mut polled = [PollFd::new(old.as_fd(), PollFlags::POLLIN)];
                while poll(&mut polled, PollTimeout::from(1000_u16)) == Err(Errno::EINTR) {}
            }
            (_, Some(Fork::Parent(_))) => process::exit_now(0),
            // Without that call, the slow way.
            _ => {}
        }
        for group in self.0.iter().filter(|group| group.has_self()) {
            let _ = group.topmost().enter();
        }
        let _ = self.remove();
    }

    fn remove(&self) -> io::Result<()> {
        self.0.iter().map(Group::remove).fold(Ok(()), io::Result::and)
    }
}

fn beside(leaf: &Path) -> std::path::PathBuf {
    let mut name = leaf.file_name().map_or_else(OsString::new, OsString::from);
    name.push(SUFFIX);
    leaf.with_file_name(name)
}

impl Group {
    /// Whether its parent is the root of the hierarchy, which alone has no switch of its own.
    fn hangs_on_root(&self) -> bool {
        let switch = if self.hierarchy == Hierarchy::Two { "cgroup.events" } else { "freezer.state" };
        self.dir.parent().is_none_or(|parent| !parent.join(switch).exists())
    }

    fn has_self(&self) -> bool {
        self.pids().contains(&getpid().as_raw())
    }

    fn parent(&self) -> Option<Self> {
        self.dir.parent().map(|dir| Self { dir: dir.into(), hierarchy: self.hierarchy.clone() })
    }

    /// The uppermost group that this mount shows.
    fn topmost(&self) -> Self {
        std::iter::successors(self.parent().filter(Self::is_cgroup), |group| {
            group.parent().filter(Self::is_cgroup)
        })
        .last()
        .unwrap_or_else(|| self.clone())
    }
}
