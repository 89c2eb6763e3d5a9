//! A network of its own for the node of a batch system.

use harness::Machine;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;

/// Address of every node; each is alone in its network.
pub(crate) const ADDRESS: &str = "10.97.0.1";

/// A network with a loopback interface and one address, and a host name for it; the thread goes home at the end.
#[derive(Debug)]
pub(crate) struct Network {
    home: [(File, CloneFlags); 2],
}

impl Network {
    /// Moves the calling thread, and whatever it starts from now on, into the network of a host of this name.
    pub(crate) fn enter(m: &Machine, host: &str) -> Self {
        let open = |kind: &str| {
            File::open(format!("/proc/thread-self/ns/{kind}")).expect("the kernel has namespaces")
        };
        let this =
            Self { home: [(open("net"), CloneFlags::CLONE_NEWNET), (open("uts"), CloneFlags::CLONE_NEWUTS)] };
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
            .expect("who may make a machine may do this");
        nix::unistd::sethostname(host).expect("the name is this namespace's own");
        let up = format!("ip link set lo up && ip address add {ADDRESS}/32 dev lo");
        m.command("/bin/sh").args(["-c", &up]).output().ok();
        let short = host.split('.').next().unwrap_or(host);
        m.write("/etc/hosts", "root", 0o644, format!("127.0.0.1 localhost\n{ADDRESS} {host} {short}\n"));
        m.write(
            "/etc/nsswitch.conf",
            "root",
            0o644,
            "passwd: files\ngroup: files\nhosts: files\nservices: files\n",
        );
        this
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for (namespace, kind) in &self.home {
            if let Err(error) = setns(namespace, *kind) {
                eprintln!("cannot leave the node's network: {error}");
            }
        }
    }
}
