//! From a grid identity to a local account, by asking a mapping service.
//!
//! | looking for | see |
//! |---|---|
//! | one question to a service, all endpoints, one deadline | [`map`] |
//! | which failures lead to the next endpoint | [`gums`] |
//! | HTTPS with the host's certificate and the grid's CA directory | [`https`] |
//! | certificate and key that authenticate this host | [`host`] |
//! | messages on the wire, for clients and servers | [`xacml`] |
//!
//! Nothing in here trusts the peer beyond its TLS certificate: every byte of an answer is parsed with limits
//! and without recursion into entities, and `glexec` checks each datum again before it acts.

pub mod gums;
pub mod host;
pub mod https;
pub mod xacml;

use helper::{MapReply, MapRequest};
use identity::Service;
use std::time::Duration;

/// No question takes longer than this, whatever its timeout says.
pub const LONGEST: Duration = Duration::from_secs(300);

/// Asks the service of the request and returns what it said; never an account it did not name.
pub fn map(request: &MapRequest) -> MapReply {
    match request.service {
        Service::Gums => gums::map(request),
        other => MapReply::Unavailable(not_supported(other)),
    }
}

/// What is said about a protocol that this version cannot speak.
fn not_supported(service: Service) -> String {
    format!(
        "the protocol of {:?} is not supported by this version: take it out of [mapping] order in policy.toml, or use \"gums\"",
        service.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_to_come_are_named_in_the_answer() {
        for service in [Service::Scas, Service::Argus, Service::Json] {
            let text = not_supported(service);
            assert!(
                text.contains(service.name()) && text.contains("not supported by this version"),
                "{text}"
            );
        }
    }
}
