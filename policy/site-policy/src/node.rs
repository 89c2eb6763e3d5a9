//! This node's ports as the kernel shows them in `/proc`.

use policy::ports::PortRange;
use policy::ports::node::{LOCAL_RANGE, Listener, RESERVED, listeners, taken_by_the_kernel};
use std::collections::BTreeMap;
use std::fs;

/// What is there.
pub struct Node {
    /// The kernel's name of this host.
    pub host: String,
    canonical: Option<String>,
    /// Everybody who listens.
    pub listeners: Vec<Listener>,
    local: String,
    reserved: String,
}

impl Node {
    /// Looks around.
    ///
    /// # Errors
    /// When `/proc` does not show it.
    pub fn look() -> Result<Self, String> {
        let host = nix::unistd::gethostname().map_err(|e| format!("the host's name: {e}"))?;
        let host = host.to_string_lossy().into_owned();
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let tables = [("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6")];
        let mut found = Vec::new();
        for (protocol, table) in tables {
            // A kernel without IPv6 has no such table.
            found.extend(listeners(protocol, &read(&format!("/proc/net/{table}")).unwrap_or_default()));
        }
        let canonical = fs::read_to_string("/etc/hosts").ok().and_then(|text| canonical(&host, &text));
        Ok(Self { canonical, host, listeners: found, local: read(LOCAL_RANGE)?, reserved: read(RESERVED)? })
    }

    /// The names that this host goes by.
    pub fn names(&self) -> Vec<&str> {
        [Some(self.host.as_str()), self.canonical.as_deref()].into_iter().flatten().collect()
    }

    /// The stretch of the range that the kernel hands out itself.
    pub fn ephemeral_in(&self, range: PortRange) -> Option<PortRange> {
        taken_by_the_kernel(range, &self.local, &self.reserved)
    }
}

/// The first name of the line of `hosts(5)` that has this one.
fn canonical(host: &str, hosts: &str) -> Option<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut names = lines.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>());
    let line = names.find(|names| names.contains(&host))?;
    line.first().map(|name| (*name).to_owned())
}

/// Inodes that are locked with flock(2), and who holds the lock, from `/proc/locks`.
pub fn locks() -> BTreeMap<u64, u32> {
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        // A waiter (`->`) has the lock's words shifted by one.
        let at = words.iter().position(|word| *word == "FLOCK")?;
        let (pid, inode) = (words.get(at + 3)?, words.get(at + 4)?.rsplit(':').next()?);
        (words.get(1) != Some(&"->")).then_some((inode.parse().ok()?, pid.parse().ok()?))
    });
    held.collect()
}

/// The process that has a socket open, where this account may see that.
pub fn process_of_socket(inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let mut links =
            descriptors.into_iter().flatten().flatten().filter_map(|e| fs::read_link(e.path()).ok());
        links.any(|link| link.as_os_str() == wanted.as_str())
    };
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.into_iter().find(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_line_is_the_full_one() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1 wn1.example.org wn1 # the first\n";
        assert_eq!(canonical("wn1", hosts).as_deref(), Some("wn1.example.org"));
        assert_eq!(canonical("first", hosts), None);
    }
}
