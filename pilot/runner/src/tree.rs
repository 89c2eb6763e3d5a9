//! The processes below this one, as `/proc` shows them. The runner is a subreaper, so a payload's daemons stay in its
//! tree whatever group or session they make.
//!
//! Everything is read as bytes: a process may give itself any name (prctl PR_SET_NAME), and one that could not be read would
//! be one that is not ended. The scan finds whom to signal; the proof that nobody is left is the kernel's ECHILD, not a scan
//! that found nobody.

use crate::sys::send_signal;
use std::collections::{BTreeMap, BTreeSet};

/// Sends a signal to every descendant.
pub(crate) fn signal_all(number: i32) {
    for pid in descendants(own_pid(), &parents()) {
        // One that is gone meanwhile needs no signal.
        send_signal(pid, number);
    }
}

/// How many descendants there are, not counting those that only wait to be reaped.
pub(crate) fn count() -> usize {
    descendants(own_pid(), &parents()).len()
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Resident memory of all descendants in bytes; a page that several share counts for each.
pub(crate) fn memory() -> u64 {
    let pages = descendants(own_pid(), &parents()).into_iter().filter_map(resident);
    pages.fold(0, u64::saturating_add).saturating_mul(page_size())
}

fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read(format!("/proc/{pid}/statm")).ok()?;
    std::str::from_utf8(&text).ok()?.split_whitespace().nth(1)?.parse().ok()
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(4096)
}

/// Parent of every process that is not a zombie.
fn parents() -> BTreeMap<i32, i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// Reads the parent from a line of `/proc/PID/stat` (proc(5)); the name in brackets may hold anything.
fn parent(stat: &[u8]) -> Option<i32> {
    let end = stat.windows(2).rposition(|pair| pair == b") ")?;
    let rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.next()?.parse().ok()
}

fn descendants(root: i32, parents: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::new();
    let mut frontier = vec![root];
    while let Some(of) = frontier.pop() {
        frontier.extend(children.get(&of).into_iter().flatten().filter(|pid| found.insert(**pid)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_past_any_name() {
        assert_eq!(parent(b"12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent(b"12 (evil) R 1 (x) S 9 12 12"), Some(9));
        assert_eq!(parent(b"12 (\xff\xfe) S 9 12 12"), Some(9));
        assert_eq!(parent(b"12 (gone) Z 7 12 12 0"), None);
        assert_eq!(parent(b"nonsense"), None);
    }

    #[test]
    fn grandchildren_belong_to_the_tree_and_strangers_do_not() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (9, 1), (10, 9), (1, 0)]);
        assert_eq!(descendants(2, &parents), BTreeSet::from([3, 4]));
        assert_eq!(descendants(4, &parents), BTreeSet::new());
    }
}
