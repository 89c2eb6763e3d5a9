//! From a grid identity to a local account, by asking a mapping service.
//!
//! | looking for | see |
//! |---|---|
//! | one question to a service, all endpoints, one deadline | [`map`] |
//! | what a protocol has to do | [`protocol`] |
//! | GUMS and SCAS: messages on the wire, for clients and servers | [`xacml`] |
//! | the PEP daemon of Argus | [`argus`] |
//! | the JSON interface of GUMS 1.5 | [`json`] |
//! | which failures lead to the next endpoint | `failover` |
//! | HTTPS with the host's certificate and the grid's CA directory | [`https`] |
//! | certificate and key that authenticate this host | [`host`] |
//!
//! Who may call it: `glexec-map`, `mapping-query` and `mapping-server`. It never runs as root.
//!
//! Nothing in here trusts the peer beyond its TLS certificate: every byte of an answer is parsed with limits
//! and without recursion into entities, and `glexec` checks each datum again before it acts.

pub mod argus;
mod failover;
pub mod host;
pub mod https;
pub mod json;
pub mod protocol;
pub mod xacml;

use failover::{Step, in_turn, judge};
use helper::{MapReply, MapRequest};
use host::HostCredential;
use https::Client;

use protocol::{Host, Person};
use std::time::{Duration, Instant};

/// No question takes longer than this, whatever its timeout says.
pub const LONGEST: Duration = Duration::from_secs(300);

/// Asks the service of the request and returns what it said; never an account it did not name.
pub fn map(request: &MapRequest) -> MapReply {
    ask(request, &Person::from(&request.identity))
}

/// Asks about a person who need not come from a verified credential; for probes.
pub fn ask(request: &MapRequest, person: &Person) -> MapReply {
    let deadline = Instant::now() + request.timeout.min(LONGEST);
    let credential = match HostCredential::parse(&request.host_credential) {
        Ok(credential) => credential,
        Err(e) => return MapReply::Unavailable(e.to_string()),
    };
    let client = match Client::new(Some(&credential), &request.ca_dir) {
        Ok(client) => client,
        Err(e) => return MapReply::Unavailable(e.to_string()),
    };
    let host = Host::new(&credential, &request.host);
    let protocol = protocol::of(request.service);
    in_turn(&request.endpoints, deadline, |endpoint, until| {
        match protocol.question(endpoint, person, &host) {
            Err(reason) => Step::Final(MapReply::Unavailable(reason)),
            Ok(question) => {
                judge(endpoint, client.send(&question, until), |reply| protocol.meaning(&question, reply))
            }
        }
    })
}
