//! Ending all processes of a leaf: the ladder of ways, the surest that the host offers first.

use super::{Group, Leaf, PREFIX};
use crate::log::Log;
use crate::run::child_processes;
use crate::session::store::RUN_DIR;
use crate::sys::process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to end every process of a leaf.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this time whoever traces a killed process of the leaf is killed as well.
const TRACED: Duration = Duration::from_millis(100);
/// How long it may take to freeze them. Whoever waits in the kernel for something else is killed all the same.
const FREEZING: Duration = Duration::from_millis(200);

/// A way to end all processes of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillMethod {
    /// Version 2 since Linux 5.14: one stroke, from which no fork escapes.
    Kill,
    /// Version 2 since Linux 5.2: they are frozen, so that none can fork, and killed one by one.
    Freeze,
    /// The freezer of version 1, likewise. What is frozen there ends when it is thawed.
    Freezer,
    /// One by one from a list. Who forks faster than this runs into the deadline.
    Procs,
}

impl KillMethod {
    /// As the record names it: by the file or controller that does it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "cgroup.kill",
            Self::Freeze => "cgroup.freeze",
            Self::Freezer => "freezer",
            Self::Procs => "cgroup.procs",
        }
    }

    fn is_offered_by(self, group: &Group) -> bool {
        match self {
            Self::Kill | Self::Freeze => group.dir.join(self.name()).exists(),
            Self::Freezer => group.dir.join("freezer.state").exists(),
            Self::Procs => group.dir.join("cgroup.procs").exists(),
        }
    }
}

/// Logs when this host offers less than at the last call: something has taken a wall away.
pub(crate) fn note(method: Option<KillMethod>, log: &Log) {
    let file = Path::new(RUN_DIR).join("kill-method");
    let now = method.map_or("none", KillMethod::name);
    let before = fs::read(&file).unwrap_or_default();
    if before == now.as_bytes() {
        return;
    }
    let order = ["cgroup.kill", "cgroup.freeze", "freezer", "cgroup.procs", "none"];
    let rank = |name: &[u8]| order.iter().position(|known| known.as_bytes() == name);
    if let Some(old) = rank(&before).filter(|old| rank(now.as_bytes()) > Some(*old)) {
        log.warning(&format!(
            "payloads are ended by {now} from here on, no longer by {}: see the cgroups of this host",
            order[old]
        ));
    }
    let _ = fs::write(&file, now);
}

impl Group {
    /// Whether it can end its processes by itself.
    pub(super) fn can_freeze_or_kill(&self) -> bool {
        [KillMethod::Kill, KillMethod::Freeze, KillMethod::Freezer]
            .iter()
            .any(|kill_method| kill_method.is_offered_by(self))
    }

    fn is_populated(&self) -> bool {
        match self.read("cgroup.events") {
            Some(events) => events.lines().any(|line| line == "populated 1"),
            None => !self.pids().is_empty(),
        }
    }

    /// One stroke; several are needed where processes fork meanwhile.
    fn kill_once(&self, kill_method: KillMethod) {
        match kill_method {
            KillMethod::Kill if self.write("cgroup.kill", "1").is_ok() => {}
            KillMethod::Freeze => {
                let _ = self.write("cgroup.freeze", "1");
                self.await_line("cgroup.events", "frozen 1");
                self.kill_each();
                let _ = self.write("cgroup.freeze", "0");
            }
            KillMethod::Freezer => {
                let _ = self.write("freezer.state", "FROZEN");
                self.await_line("freezer.state", "FROZEN");
                self.kill_each();
                let _ = self.write("freezer.state", "THAWED");
            }
            KillMethod::Kill | KillMethod::Procs => self.kill_each(),
        }
    }

    fn await_line(&self, file: &str, line: &str) {
        let deadline = Instant::now() + FREEZING;
        while Instant::now() < deadline && self.read(file).is_some_and(|text| text.lines().all(|l| l != line))
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill_each(&self) {
        for pid in self.pids().into_iter().filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.dir.join(file), text)
    }
}

impl Leaf {
    /// The best way that it offers, and the directory that does it; `None` where none of its directories is there.
    fn best(&self) -> Option<(KillMethod, &Group)> {
        [KillMethod::Kill, KillMethod::Freeze, KillMethod::Freezer, KillMethod::Procs].into_iter().find_map(
            |kill_method| Some((kill_method, self.0.iter().find(|group| kill_method.is_offered_by(group))?)),
        )
    }

    /// The best way that it offers.
    pub(crate) fn kill_method(&self) -> Option<KillMethod> {
        self.best().map(|(kill_method, _)| kill_method)
    }

    /// Ends every process in it and waits until none is left. `false` when some would not go in time.
    ///
    /// A process of this account that traces one of them could hold it on its way out for ever; it is killed as well.
    pub(crate) fn kill_all(&self, account: Option<u32>) -> bool {
        self.kill_within(account, PATIENCE)
    }

    /// As [`Leaf::kill_all`], and no longer than this.
    pub(crate) fn kill_within(&self, account: Option<u32>, patience: Duration) -> bool {
        let Some((kill_method, group)) = self.best() else { return self.kill_unseen(patience) };
        let began = Instant::now();
        let kill = || {
            group.kill_once(kill_method);
            if began.elapsed() > TRACED {
                group
                    .pids()
                    .into_iter()
                    .for_each(|pid| child_processes::end_tracer(Pid::from_raw(pid), account));
            }
        };
        until_gone(|| group.is_populated(), kill, patience)
    }

    /// One stroke, for those who must not wait. `false` where one stroke is not sure to end everything.
    pub(crate) fn kill_at_once(&self) -> bool {
        matches!(self.best(), Some((KillMethod::Kill, group)) if group.write("cgroup.kill", "1").is_ok())
    }

    /// As [`Leaf::kill_all`] by a caller who may be in it: gets out first, to tell the tale.
    pub(crate) fn kill_all_but_self(&self) {
        if self.leave() && !self.kill_at_once() {
            let _ = self.kill_all(None);
        }
    }

    /// Moves the calling process to the groups above; `false` when it is still in one of the leaf's.
    fn leave(&self) -> bool {
        let leave = |group: &Group| {
            let parent = group.dir.parent().map(|dir| Group { dir: dir.into(), ..group.clone() });
            parent.is_some_and(|parent| parent.enter().is_ok())
        };
        // All of them: who stays in one keeps it from being removed.
        self.0.iter().filter(|group| group.dir.is_dir()).map(leave).fold(true, |all, one| all & one)
    }

    /// Its directories were removed, or are hidden from here by another mount. The kernel names the leaf to those in it
    /// in any case.
    fn kill_unseen(&self, patience: Duration) -> bool {
        let name = self.0[0].dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let id = name.strip_prefix(PREFIX).unwrap_or_default();
        let kill_once = || members_by_name(id).into_iter().for_each(|pid| end_member(pid, id));
        until_gone(|| !members_by_name(id).is_empty(), kill_once, patience)
    }
}

fn until_gone(is_there: impl Fn() -> bool, kill_once: impl Fn(), patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while is_there() {
        kill_once();
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn members_by_name(id: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_member(*pid, id)).collect()
}

fn is_member(pid: i32, id: &str) -> bool {
    let text = fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    !id.is_empty() && super::leaf_id(&text) == Some(id)
}

/// Looked at again once it is pinned: numbers are given anew.
fn end_member(pid: i32, id: &str) {
    if let Ok(pinned) = process::pidfd(Pid::from_raw(pid))
        && is_member(pid, id)
    {
        let _ = process::signal_pidfd(pinned.as_fd(), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Hierarchy;
    use super::*;
    use std::process::{Command, Stdio};

    /// A group of this test in the first hierarchy that offers the kill_method; `None` without root.
    fn group_with(kill_method: KillMethod) -> Option<Group> {
        let read = |file| fs::read(file).unwrap_or_default();
        let memberships =
            super::super::membership::memberships(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let made = memberships.into_iter().find_map(|membership| {
            let dir = membership.dir.join(format!(
                "glexec-kill_method-{}-{}",
                kill_method.name(),
                std::process::id()
            ));
            let group = Group { hierarchy: membership.hierarchy, dir };
            group.make().ok()?;
            let offered = kill_method.is_offered_by(&group);
            if !offered {
                group.remove().unwrap();
            }
            offered.then_some(group)
        });
        let must = std::env::var("PILOTAGE_MUST_WORK").is_ok_and(|value| value == "1");
        assert!(made.is_some() || !must, "a writable hierarchy with {} is needed", kill_method.name());
        made
    }

    /// Strikes until all are gone, and not longer than that takes; `script` runs inside.
    fn ends(kill_method: KillMethod, script: &str) {
        let Some(group) = group_with(kill_method) else { return };
        let door = if group.hierarchy == Hierarchy::Two { "cgroup.procs" } else { "tasks" };
        let script = format!("echo 0 > {}; {script}", group.dir.join(door).display());
        let mut child = Command::new("/bin/sh");
        let mut child = child.args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while group.pids().len() < 10 {
            assert!(Instant::now() < deadline, "the script does not start: {:?}", group.pids());
            std::thread::sleep(Duration::from_millis(5));
        }
        let gone = until_gone(|| group.is_populated(), || group.kill_once(kill_method), PATIENCE);
        child.kill().unwrap();
        child.wait().unwrap();
        group.remove().unwrap();
        assert!(gone, "{} leaves some alive", kill_method.name());
    }

    const FORKS: &str = "while :; do sleep 0.2 & done";

    #[test]
    fn one_stroke_ends_all() {
        ends(KillMethod::Kill, FORKS);
    }

    #[test]
    fn what_is_frozen_cannot_fork_away() {
        ends(KillMethod::Freeze, FORKS);
    }

    #[test]
    fn the_freezer_of_version_1_does_as_well() {
        ends(KillMethod::Freezer, FORKS);
    }

    #[test]
    fn a_list_is_enough_for_those_who_stay() {
        ends(KillMethod::Procs, "for i in 1 2 3 4 5 6 7 8 9; do setsid sleep 100 & done; sleep 100");
    }
}
