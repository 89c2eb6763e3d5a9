//! The processes below this one, as `/proc` shows them. The runner is a subreaper, so a payload's daemons stay in its
//! tree whatever group or session they make.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};

/// Sends a signal to every descendant; returns how many there are, not counting those that only wait to be reaped.
pub fn signal_all(signal: Signal) -> usize {
    let tree = descendants(Pid::this().as_raw(), &parents());
    // A process that is gone meanwhile needs no signal.
    tree.iter().filter(|pid| kill(Pid::from_raw(**pid), signal).is_ok()).count()
}

/// Resident memory of all descendants in bytes; a page that several share counts for each.
pub fn memory() -> u64 {
    let tree = descendants(Pid::this().as_raw(), &parents());
    let pages: u64 = tree.iter().filter_map(|pid| resident(*pid)).sum();
    pages * page_size()
}

fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(4096)
}

/// Parent of every process that is not a zombie.
fn parents() -> BTreeMap<i32, i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// Reads the parent from a line of `/proc/PID/stat` (proc(5)); the name in brackets may hold anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.next()?.parse().ok()
}

fn descendants(root: i32, parents: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut frontier = vec![root];
    while let Some(of) = frontier.pop() {
        let children = parents.iter().filter(|(_, parent)| **parent == of).map(|(pid, _)| *pid);
        frontier.extend(children.filter(|pid| found.insert(*pid)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_past_any_name() {
        assert_eq!(parent("12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (evil) R 1 (x) S 9 12 12"), Some(9));
        assert_eq!(parent("12 (gone) Z 7 12 12 0"), None);
        assert_eq!(parent("nonsense"), None);
    }

    #[test]
    fn grandchildren_belong_to_the_tree_and_strangers_do_not() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (9, 1), (10, 9), (1, 0)]);
        assert_eq!(descendants(2, &parents), BTreeSet::from([3, 4]));
        assert_eq!(descendants(4, &parents), BTreeSet::new());
    }
}
