//! Which wall this host has for `[ports] enforce`: text of `/proc` in, a rung or its remedy out.

use crate::finding::{About, Severity};
use policy::file::Enforce;
use std::fs;

/// Capabilities by their numbers (capability.h): any of the first, and any of the second.
const BPF: [u32; 2] = [39, 21];
const NETWORK: [u32; 2] = [12, 21];
/// `BPF_CGROUP_INET4_BIND` and its kind with attachment by type; what a socket hears came in the same line.
const OLDEST: (u32, u32) = (5, 1);

/// By what `glexec` would keep payloads inside their ports here, or what it lacks.
pub(super) fn of_this_host() -> Result<&'static str, &'static str> {
    let read = |file: &str| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    rung(&read("/proc/self/mountinfo"), &read("/proc/self/status"), &read("/proc/sys/kernel/osrelease"))
}

/// Says it; what the policy asks for decides how bad a missing wall is.
pub(super) fn told(enforce: Enforce, rung: Result<&'static str, &'static str>, about: &mut About<'_>) {
    let cannot = "[ports] enforce: this host cannot keep a payload to its ports";
    match (enforce, rung) {
        (Enforce::Off, _) => {}
        (_, Ok(by)) => {
            let what = format!("[ports] enforce: this host keeps payloads inside their ports by {by}");
            about.add(None, Severity::Note, what, "");
        }
        (Enforce::Required, Err(remedy)) => {
            about.error(
                format!("{cannot}, so every call ends with 202"),
                format!("{remedy}; or write enforce = true"),
            );
        }
        (Enforce::WherePossible, Err(remedy)) => {
            about.warning(format!("{cannot}: it may bind any port, and the record says so"), remedy);
        }
    }
}

/// The bounding set of capabilities is what a setuid program gets, whoever calls it.
fn rung(mounts: &str, status: &str, release: &str) -> Result<&'static str, &'static str> {
    let writable = |line: &str| {
        let Some((mount, system)) = line.split_once(" - ") else { return false };
        let options = mount.split(' ').nth(5).unwrap_or_default();
        system.starts_with("cgroup2 ") && options.split(',').any(|option| option == "rw")
    };
    if !mounts.lines().any(writable) {
        return Err("mount cgroup version 2 writable for root");
    }
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(u64::MAX);
    let has = |any: [u32; 2]| any.iter().any(|number| bounding >> number & 1 == 1);
    if !has(BPF) || !has(NETWORK) {
        return Err("give the container CAP_BPF and CAP_NET_ADMIN: bpf(2) is refused");
    }
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
        return Err("run Linux 5.1 or newer with CONFIG_CGROUP_BPF");
    }
    Ok("cgroup-bpf")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const MOUNTS: &str = "25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:5 - tmpfs tmpfs rw\n\
                          36 25 0:31 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n";
    const STATUS: &str = "Name:\tcat\nCapBnd:\t000001ffffffffff\n";

    #[test]
    fn the_rung_or_what_is_missing_is_named() {
        assert_eq!(rung(MOUNTS, STATUS, "6.1.0-18-amd64\n"), Ok("cgroup-bpf"));
        assert_eq!(rung(MOUNTS, STATUS, "5.1.0\n"), Ok("cgroup-bpf"));
        let lacks = |mounts: &str, status: &str, release: &str, word: &str| {
            let why = rung(mounts, status, release).unwrap_err();
            assert!(why.contains(word), "{why}");
        };
        lacks(&MOUNTS.replace("unified rw", "unified ro"), STATUS, "6.1", "writable");
        lacks("", STATUS, "6.1", "cgroup version 2");
        // What containers get by default.
        lacks(MOUNTS, "CapBnd:\t00000000a80425fb\n", "6.1", "CAP_BPF");
        lacks(MOUNTS, STATUS, "4.19.0\n", "Linux 5.1");
    }

    #[test]
    fn what_the_policy_asks_for_decides_how_bad_that_is() {
        let said = |enforce, rung| {
            let mut found = Vec::new();
            told(enforce, rung, &mut About::new(Path::new("p"), &mut found));
            found.pop().map(|f| (f.severity, f.what, f.remedy))
        };
        assert_eq!(said(Enforce::Off, Err("x")), None);
        let (severity, what, _) = said(Enforce::WherePossible, Ok("cgroup-bpf")).unwrap();
        assert!(severity == Severity::Note && what.ends_with("by cgroup-bpf"), "{what}");
        let (severity, what, remedy) = said(Enforce::WherePossible, Err("mount it")).unwrap();
        assert!(severity == Severity::Warning && what.contains("may bind any port") && remedy == "mount it");
        let (severity, what, remedy) = said(Enforce::Required, Err("mount it")).unwrap();
        assert!(severity == Severity::Error && what.contains("202") && remedy.contains("enforce = true"));
    }
}
