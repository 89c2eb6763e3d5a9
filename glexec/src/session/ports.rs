//! The ports of a session: none that another living session has, and no others for its payload.

use crate::failure::Failure;
use crate::log::Log;
use crate::session::cgroup::Leaf;
use crate::session::{recording, store};
use crate::sys::bind_filter;
use nix::errno::Errno;
use nix::fcntl::Flock;
use policy::file::PortsPolicy;
use policy::ports::PortRange;
use record::LeasedPorts;
use std::fs::File;
use std::os::fd::AsFd;

/// As the record names the wall.
const BY_CGROUP: &str = "cgroup-bpf";
/// The range of a payload that was given no ports.
const NONE: &str = "none";

/// Looks whether the caller may give these ports. Until the session is on record nobody else may look, so that no two
/// sessions get the same: the lock is for that.
pub(crate) fn lease(policy: &PortsPolicy, asked: PortRange) -> Result<Flock<File>, Failure> {
    let cannot = |e| Failure::site(format!("the ports of living sessions cannot be read: {e}"));
    let alone = store::leasing().map_err(cannot)?;
    let taken: Vec<PortRange> =
        store::listed().map_err(cannot)?.into_iter().filter_map(|found| found.state.ports).collect();
    let may = policy.may_give(asked, &recording::host(), &taken);
    may.map(|()| alone).map_err(|why| Failure::caller(format!("GLEXEC_PORTS: {why}")))
}

/// Puts the wall around the payload that is to come, and says for the record by what it is held.
pub(crate) fn enclose(
    policy: &PortsPolicy,
    lease: Option<PortRange>,
    leaf: Option<&Leaf>,
    log: &Log,
) -> Result<Option<LeasedPorts>, Failure> {
    let range = lease.map_or_else(|| NONE.to_owned(), |ports| ports.to_string());
    let leased = |by: &str| Some(LeasedPorts { range: range.clone(), enforced_by: by.to_owned() });
    let Some(wall) = policy.wall(lease) else {
        return Ok(lease.and_then(|_| leased("")));
    };
    let group = leaf.and_then(Leaf::version_2).ok_or(Errno::ENOENT);
    match group.and_then(|group| bind_filter::attach(group.as_fd(), &wall)) {
        Ok(()) => Ok(leased(BY_CGROUP)),
        Err(e) if wall.required => Err(Failure::site(format!(
            "the policy asks for [ports] enforce = \"require\", and this host cannot keep a payload to its ports: {}; \
             or write enforce = true",
            remedy(e)
        ))),
        Err(e) => {
            log.warning(&format!("the payload may bind any port: {}", remedy(e)));
            Ok(leased(""))
        }
    }
}

fn remedy(e: Errno) -> String {
    match e {
        Errno::ENOENT => "mount cgroup version 2 writable for root".into(),
        Errno::EPERM => "bpf(2) is refused (CAP_BPF and CAP_NET_ADMIN in a container)".into(),
        other => format!("bpf(2): {other}; it needs Linux 5.1 with CONFIG_CGROUP_BPF"),
    }
}
