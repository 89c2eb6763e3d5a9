//! What a host looks like before and after, to prove that nothing was left behind.

use crate::{cgroup, processes, slot};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Traces that machines could leave on the host they ran on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    accounts: Vec<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    setuid: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Traces {
    /// Looks at accounts, mounts, processes with the uids of machines, cgroups, setuid files and the files that our
    /// programs would make.
    pub fn now() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let accounts = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/glexec.conf"].map(read).to_vec();
        let mounts = read("/proc/thread-self/mountinfo").lines().map(str::to_owned).collect();
        let ours = |p: &processes::Process| p.uids.iter().any(|u| slot::of_uid(*u).is_some());
        let processes = processes::all()
            .into_iter()
            .filter(ours)
            .map(|p| format!("{} {} uids {:?}", p.pid, p.name, p.uids))
            .collect();
        let mut cgroups = BTreeSet::new();
        for (_, dir) in cgroup::mount_points() {
            collect(&dir, 6, &mut cgroups, |path| {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                path.is_dir() && (name.starts_with(cgroup::PREFIX) || name.starts_with(cgroup::LEAF))
            });
        }
        let mut setuid = BTreeSet::new();
        for dir in ["/usr", "/etc", "/var", "/run", "/tmp", "/home", "/opt", "/dev/shm"] {
            let depth = if dir == "/usr" { 2 } else { 4 };
            collect(Path::new(dir), depth, &mut setuid, is_setuid);
        }
        let mut files = BTreeSet::new();
        for dir in [
            "/run",
            "/tmp",
            "/home",
            "/var/spool",
            "/var/lib",
            "/etc/pilotage",
            "/etc/grid-security",
            "/dev/shm",
        ] {
            collect(Path::new(dir), 1, &mut files, |_| true);
        }
        Self { accounts, mounts, processes, cgroups, setuid, files }
    }

    /// What there is now that was not there `before`, one line each. Files are compared in the places where our
    /// programs make some; `ignore` picks what others on this host may have made meanwhile.
    pub fn since(&self, before: &Self, ignore: impl Fn(&str) -> bool) -> Vec<String> {
        let new = |what: &str, now: &BTreeSet<String>, then: &BTreeSet<String>| {
            now.difference(then).map(|x| format!("{what}: {x}")).collect::<Vec<_>>()
        };
        let mut left = new("mount", &self.mounts, &before.mounts);
        left.extend(new("process", &self.processes, &before.processes));
        left.extend(new("cgroup", &self.cgroups, &before.cgroups));
        left.extend(new("setuid file", &self.setuid, &before.setuid));
        left.extend(new("file", &self.files, &before.files));
        if self.accounts != before.accounts {
            left.push("/etc/passwd, group, shadow or glexec.conf has changed".to_owned());
        }
        left.retain(|trace| !ignore(trace));
        left
    }
}

/// Whether a trace is of a machine that is in use right now, by another test or another demo.
pub fn is_of_living_machine(trace: &str) -> bool {
    slots_of(trace).into_iter().any(|number| slot::Slot::take_this(number).is_none())
}

/// The slots of the machines that a trace can be of: by any of a process's uids (one that switches has several), and by
/// the names of cgroups, also where a mount shows them.
fn slots_of(trace: &str) -> Vec<u32> {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    match trace.split_once(": ") {
        Some(("process", process)) => {
            let uids = process.rsplit_once("uids [").map_or("", |(_, uids)| uids);
            uids.split(", ").filter_map(number).filter_map(slot::of_uid).collect()
        }
        Some(("cgroup" | "mount", text)) => text.split(cgroup::PREFIX).skip(1).filter_map(number).collect(),
        _ => Vec::new(),
    }
}

/// Ends what a killed machine could not end itself: its processes and its cgroup. Living machines are left alone.
/// Returns what was found, one line each.
pub fn clean_up() -> Vec<String> {
    let mut found = Vec::new();
    for slot in (0..slot::SLOTS).filter_map(slot::Slot::take_this) {
        let mine = |p: &processes::Process| p.uids.iter().any(|u| slot.has_uid(*u));
        let running =
            processes::all().into_iter().filter(mine).map(|p| format!("process: {} {}", p.pid, p.name));
        found.extend(running);
        if cgroup::Cgroup::sweep(&slot.cgroup()) {
            found.push(format!("cgroup: {}", slot.cgroup()));
        }
        processes::kill_all_with(|uid| slot.has_uid(uid));
    }
    found
}

fn is_setuid(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path);
    metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o6000 != 0)
}

/// Adds the paths below `dir` that are wanted, down to a depth, without following symbolic links.
fn collect(dir: &Path, depth: u32, found: &mut BTreeSet<String>, wanted: impl Fn(&Path) -> bool + Copy) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if wanted(&path) {
            found.insert(path.display().to_string());
        }
        if depth > 1 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(&path, depth - 1, found, wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_uid_of_a_process_tells_its_machine() {
        assert_eq!(slots_of("process: 19454 glexec uids [200901, 0, 0, 0]"), [9]);
        assert_eq!(slots_of("process: 7 uids [1, 200101] uids [0, 200220, 200220, 0]"), [2, 2]);
        assert!(slots_of("process: 7 sh uids [0, 0, 0, 0]").is_empty());
        assert!(slots_of("process: 7 sh uids [206400, 1, 1, 1]").is_empty());
    }

    #[test]
    fn cgroups_and_mounts_are_known_by_the_machines_name() {
        assert_eq!(slots_of("cgroup: /sys/fs/cgroup/unified/pilotage-test-12/glexec-01a2"), [12]);
        assert_eq!(slots_of("mount: 31 28 0:30 /pilotage-test-3 /mnt rw - cgroup2 cgroup rw"), [3]);
        assert!(slots_of("cgroup: /sys/fs/cgroup/unified/glexec-01a2").is_empty());
        assert!(slots_of("file: /tmp/pilotage-test-12").is_empty());
    }

    #[test]
    fn a_machine_is_living_while_its_slot_is_taken() {
        let slot = slot::Slot::take();
        let trace = format!("process: 1 glexec uids [{}, 0, 0, 0]", slot.first_uid() + 1);
        assert!(is_of_living_machine(&trace));
        drop(slot);
        assert!(!is_of_living_machine("process: 1 sh uids [0, 0, 0, 0]"));
    }
}
