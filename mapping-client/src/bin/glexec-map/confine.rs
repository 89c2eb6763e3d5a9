//! What `glexec-map` gives up, in two steps: before the first byte, and once the question has said where its one
//! conversation leads.

use cell::{Calls, Landlock, Resource, View};
use helper::MapRequest;
use std::path::{Path, PathBuf};

/// Seconds of processor time; a conversation takes some hundredths.
const MAX_CPU: u64 = 60;
/// Bytes of address space.
const MAX_MEMORY: u64 = 1 << 30;
const MAX_FILES: u64 = 64;

/// What the C library and OpenSSL read: host names, name servers, configuration, modules. All of it is public.
const SYSTEM: [&str; 7] = ["/etc", "/usr", "/lib", "/lib64", "/dev/null", "/dev/urandom", "/dev/random"];
/// Files that decide about names of hosts; they may be links to places that nobody can list here.
const NAMES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];
/// Answers that do not fit a datagram are fetched over TCP.
const DNS: u16 = 53;

/// Leaves what any conversation needs, whatever its question.
///
/// # Errors
/// A text for people; nothing may be read after an error.
pub fn before_reading() -> Result<(), String> {
    cell::give_up(&[
        (Resource::RLIMIT_CPU, MAX_CPU),
        (Resource::RLIMIT_AS, MAX_MEMORY),
        (Resource::RLIMIT_NOFILE, MAX_FILES),
    ])?;
    cell::filter(Calls::Conversation)
}

/// Leaves the ports of the endpoints and the CA directory of this question, as far as the kernel can.
///
/// # Errors
/// A text for people; no peer may be spoken to after an error.
pub fn to_this_conversation(request: &MapRequest) -> Result<Landlock, String> {
    let linked = NAMES.iter().filter_map(|name| Path::new(name).canonicalize().ok());
    let linked = linked.filter_map(|file| file.parent().map(Path::to_owned));
    let system = SYSTEM.iter().map(PathBuf::from);
    let readable: Vec<_> = system.chain(linked).chain(cell::roots(&request.ca_dir)).collect();
    let endpoints = request.endpoints.iter().filter_map(|e| mapping_client::https::port(e));
    let ports: Vec<_> = endpoints.chain([DNS]).collect();
    cell::narrow(View { readable: &readable, ports: &ports })
}
