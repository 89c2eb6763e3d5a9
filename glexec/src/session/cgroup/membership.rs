//! Where a process stands in each cgroup hierarchy, read from the texts of `/proc`. Nothing here touches a file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Kinds of cgroup hierarchies, by what we want from them.
const COUNTS_MEMORY: &str = "memory";
const COUNTS_CPU: &str = "cpuacct";
const FREEZES: &str = "freezer";

/// What hangs on a hierarchy: nothing for version 2; for version 1 its controllers as `/proc/self/cgroup` names them,
/// such as `cpu,cpuacct` or `name=systemd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// Version 2.
    Two,
    /// Version 1 with these controllers.
    One(String),
}

/// The group of a process in one hierarchy, as one mount shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Which hierarchy.
    pub(crate) hierarchy: Hierarchy,
    /// Directory of the group.
    pub(crate) dir: PathBuf,
    /// Whether it is the hierarchy's root, where nobody sets limits, counts or kills.
    pub(crate) is_root: bool,
}

impl Hierarchy {
    /// Whether a controller is among those of a version 1 hierarchy.
    pub(crate) fn has(&self, controller: &str) -> bool {
        matches!(self, Self::One(controllers) if controllers.split(',').any(|c| c == controller))
    }

    /// Whether its groups can end all their processes for sure.
    pub(crate) fn can_end(&self) -> bool {
        *self == Self::Two || self.has(FREEZES)
    }

    /// Leaves of a session stand in this order: the first that exists says who belongs to the session.
    fn rank(&self) -> u8 {
        match self {
            Self::Two => 0,
            _ if self.can_end() => 1,
            Self::One(_) => 2,
        }
    }
}

impl Membership {
    /// Whether a session wants a leaf there: wherever the caller has a group of its own, and where the leaf itself counts
    /// or kills. `version_2` says whether there is a leaf of version 2, which counts CPU time.
    pub(crate) fn is_wanted(&self, version_2: bool) -> bool {
        let counts = self.hierarchy.has(COUNTS_MEMORY) || (!version_2 && self.hierarchy.has(COUNTS_CPU));
        !self.is_root || counts || self.hierarchy.can_end()
    }
}

/// The groups of a process, from its `cgroup` and the `mountinfo` of its mount namespace: version 2 first, then the
/// freezer. A hierarchy with several writable mounts comes as often.
///
/// Both texts hold names that strangers chose, such as mount points of FUSE: they are bytes, and no line of somebody else's
/// keeps ours from being understood.
pub(crate) fn memberships(mountinfo: &[u8], cgroup: &[u8]) -> Vec<Membership> {
    let groups: Vec<_> = lines(cgroup).filter_map(group).collect();
    let mounts = lines(mountinfo).filter_map(mount);
    let mut memberships: Vec<_> = mounts
        .filter_map(|mount| {
            let (hierarchy, path) = groups.iter().find(|(hierarchy, _)| mount.shows(hierarchy))?;
            Some(Membership {
                hierarchy: hierarchy.clone(),
                dir: mount.directory_of(path)?,
                is_root: *path == Path::new("/"),
            })
        })
        .collect();
    memberships.sort_by_key(|membership| membership.hierarchy.rank());
    memberships
}

/// The lines of a text of `/proc`.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// A line of `/proc/<pid>/cgroup`: `4:cpu,cpuacct:/job` or `0::/job`.
fn group(line: &[u8]) -> Option<(Hierarchy, &Path)> {
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, path(fields.next()?));
    match (number, controllers) {
        (b"0", b"") => Some((Hierarchy::Two, path)),
        (_, b"") => None,
        (_, controllers) => Some((Hierarchy::One(std::str::from_utf8(controllers).ok()?.to_owned()), path)),
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A writable mount of a cgroup hierarchy.
struct Mount<'a> {
    version_2: bool,
    /// Which group it shows at its mount point.
    root: PathBuf,
    point: PathBuf,
    /// Options of the hierarchy, the names of its controllers among them.
    options: &'a str,
}

/// A line of `mountinfo` (proc(5)): `39 29 0:35 /root /point rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct`.
fn mount(line: &[u8]) -> Option<Mount<'_>> {
    let middle = line.windows(3).position(|part| part == b" - ")?;
    let (mut place, mut kind) = (fields(&line[..middle]).skip(3), fields(&line[middle + 3..]));
    let version_2 = match kind.next()? {
        b"cgroup2" => true,
        b"cgroup" => false,
        _ => return None,
    };
    let options = std::str::from_utf8(kind.nth(1)?).ok()?;
    let (root, point, flags) = (place.next()?, place.next()?, place.next()?);
    let read_only = [flags, options.as_bytes()]
        .iter()
        .any(|list| list.split(|byte| *byte == b',').any(|option| option == b"ro"));
    (!read_only).then(|| Mount { version_2, root: unescaped(root), point: unescaped(point), options })
}

fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b' ')
}

/// A path of mountinfo, where blanks, tabs, line ends and backslashes stand as three octal digits.
pub(crate) fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

impl Mount<'_> {
    fn shows(&self, hierarchy: &Hierarchy) -> bool {
        match hierarchy {
            Hierarchy::Two => self.version_2,
            Hierarchy::One(controllers) => {
                !self.version_2 && controllers.split(',').all(|c| self.options.split(',').any(|o| o == c))
            }
        }
    }

    /// Where it shows a group. `None` for groups outside of it, and for those outside of our cgroup namespace, whose
    /// paths begin with `/..`.
    fn directory_of(&self, group: &Path) -> Option<PathBuf> {
        let below = group.strip_prefix(&self.root).ok()?;
        let is_below = below.components().all(|part| matches!(part, Component::Normal(_)));
        is_below
            .then(|| if below.as_os_str().is_empty() { self.point.clone() } else { self.point.join(below) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_ONLY: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    /// As systemd mounts them in its hybrid mode; `cpu` and `net_cls` are mounted with company.
    const HYBRID: &str = "29 23 0:25 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
        30 29 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n\
        31 29 0:27 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd\n\
        35 29 0:31 / /sys/fs/cgroup/cpuset rw,nosuid shared:13 - cgroup cgroup rw,cpuset\n\
        36 29 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:14 - cgroup cgroup rw,cpu,cpuacct\n\
        37 29 0:33 / /sys/fs/cgroup/freezer rw,nosuid shared:15 - cgroup cgroup rw,freezer\n\
        38 29 0:34 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory\n";
    const IN_SLURM: &str = "7:memory:/slurm/uid_1/job_2\n6:freezer:/slurm/uid_1/job_2\n5:cpu,cpuacct:/\n\
        4:cpuset:/slurm/uid_1/job_2\n1:name=systemd:/system.slice/slurmd.service\n0::/system.slice/slurmd.service\n";

    fn found(mountinfo: &str, cgroup: &str) -> Vec<(String, String, bool)> {
        let name = |h: &Hierarchy| match h {
            Hierarchy::Two => "2".to_owned(),
            Hierarchy::One(controllers) => controllers.clone(),
        };
        let tell = |p: Membership| (name(&p.hierarchy), p.dir.display().to_string(), p.is_root);
        memberships(mountinfo.as_bytes(), cgroup.as_bytes()).into_iter().map(tell).collect()
    }

    fn wanted(mountinfo: &str, cgroup: &str) -> Vec<String> {
        let all = memberships(mountinfo.as_bytes(), cgroup.as_bytes());
        let two = all.iter().any(|p| p.hierarchy == Hierarchy::Two);
        all.iter().filter(|p| p.is_wanted(two)).map(|p| p.dir.display().to_string()).collect()
    }

    #[test]
    fn version_2_alone_has_one_place() {
        let own = "0::/system.slice/slurmd.service/job_1\n";
        let membership = "/sys/fs/cgroup/system.slice/slurmd.service/job_1".to_owned();
        assert_eq!(found(V2_ONLY, own), [("2".into(), membership, false)]);
        assert_eq!(found(V2_ONLY, "0::/\n"), [("2".into(), "/sys/fs/cgroup".into(), true)]);
        assert_eq!(found("", own), []);
        assert_eq!(found(V2_ONLY, ""), []);
    }

    #[test]
    fn a_hybrid_host_has_one_for_each_hierarchy_with_version_2_and_freezer_in_front() {
        let at = |name: &str, below: &str, root| (name.to_owned(), format!("/sys/fs/cgroup/{below}"), root);
        assert_eq!(
            found(HYBRID, IN_SLURM),
            [
                at("2", "unified/system.slice/slurmd.service", false),
                at("freezer", "freezer/slurm/uid_1/job_2", false),
                at("name=systemd", "systemd/system.slice/slurmd.service", false),
                at("cpuset", "cpuset/slurm/uid_1/job_2", false),
                at("cpu,cpuacct", "cpu,cpuacct", true),
                at("memory", "memory/slurm/uid_1/job_2", false),
            ]
        );
    }

    #[test]
    fn the_root_of_a_hierarchy_gets_a_leaf_only_for_our_own_use() {
        let in_root = "7:memory:/\n6:freezer:/\n5:cpu,cpuacct:/\n4:cpuset:/\n1:name=systemd:/\n0::/\n";
        let at = |names: &[&str]| names.iter().map(|n| format!("/sys/fs/cgroup/{n}")).collect::<Vec<_>>();
        assert_eq!(wanted(HYBRID, in_root), at(&["unified", "freezer", "memory"]));
        let version_1_only = HYBRID.replace("cgroup2 cgroup2", "tmpfs none");
        assert_eq!(wanted(&version_1_only, in_root), at(&["freezer", "cpu,cpuacct", "memory"]));
        assert_eq!(wanted(HYBRID, IN_SLURM).len(), 5, "all but the root of cpu,cpuacct");
    }

    #[test]
    fn controllers_are_compared_whole() {
        let mounts = "35 29 0:31 / /cpuset rw - cgroup cgroup rw,cpuset\n36 29 0:32 / /cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(found(mounts, "2:cpu:/j\n"), [("cpu".into(), "/cpu/j".into(), false)]);
        assert_eq!(
            found(mounts, "2:cpu,cpuacct:/j\n"),
            [],
            "mounted without company it is another hierarchy"
        );
    }

    #[test]
    fn read_only_mounts_are_none() {
        let docker =
            "40 29 0:31 /docker/ab /sys/fs/cgroup/memory ro,nosuid master:16 - cgroup cgroup rw,memory\n";
        assert_eq!(found(docker, "7:memory:/docker/ab\n"), []);
    }

    #[test]
    fn a_container_s_partial_mount_is_respected() {
        let docker = "40 29 0:31 /docker/ab /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n";
        let at = |below: &str| [("memory".to_owned(), format!("/sys/fs/cgroup/memory{below}"), false)];
        assert_eq!(found(docker, "7:memory:/docker/ab\n"), at(""));
        assert_eq!(found(docker, "7:memory:/docker/ab/job\n"), at("/job"));
        assert_eq!(found(docker, "7:memory:/docker/abc\n"), [], "a neighbour's group");
        assert_eq!(found(docker, "7:memory:/\n"), []);
    }

    #[test]
    fn groups_outside_of_the_cgroup_namespace_are_none() {
        assert_eq!(found(V2_ONLY, "0::/../other\n"), []);
        assert_eq!(found(V2_ONLY, "0::/a/../../../etc\n"), []);
        let from_outside = V2_ONLY.replace("0:26 / ", "0:26 /.. ");
        assert_eq!(
            found(&from_outside, "0::/\n"),
            [],
            "shown by a mount from outside, whose way down is not known"
        );
    }

    #[test]
    fn a_stranger_s_mount_of_any_name_hides_nothing() {
        let fuse = b"99 1 0:99 / /home/x/\xff\xfe rw - fuse.x /dev/fuse rw,user_id=1000\n";
        let mounts = [fuse, V2_ONLY.as_bytes(), fuse].concat();
        let own = b"0::/job\xff\n";
        let found = memberships(&mounts, own);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].dir.as_os_str().as_bytes(), b"/sys/fs/cgroup/job\xff");
        assert_eq!(
            memberships(V2_ONLY.replace("/sys/fs/cgroup", "/sys/a\\040b").as_bytes(), b"0::/\n")[0].dir,
            Path::new("/sys/a b")
        );
    }
}
