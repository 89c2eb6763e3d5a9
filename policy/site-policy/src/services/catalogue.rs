//! All needs, and choosing among them.

use super::need::{Family, Need};
use super::{dcache, globus, ours};
use policy::services::SERVICES;

/// Names for several services at once, and other names of one.
const GROUPS: [(&str, &[&str]); 13] = [
    ("gt2", &["gram", "mds", "gridftp", "gsissh", "myproxy"]),
    ("gt3", &["gram3", "mds3", "gridftp", "gsissh", "myproxy"]),
    ("gt4", &["gram4", "mds4", "gridftp", "gsissh", "myproxy"]),
    ("gram2", &["gram"]),
    ("gram5", &["gram"]),
    ("gatekeeper", &["gram"]),
    ("mds2", &["mds"]),
    ("gsi-openssh", &["gsissh"]),
    ("dcache", &["gsidcap", "dcache-gridftp", "srm"]),
    ("dcap-local", &["dcap"]),
    ("pilotage", &["queue", "mapping", "accounting", "gridfw", "relay"]),
    ("globus", &["gram", "gram3", "gram4", "mds", "mds3", "mds4", "gridftp", "gsissh", "myproxy"]),
    ("names", &["dns"]),
];

/// Every need, service by service.
pub fn all() -> impl Iterator<Item = &'static Need> {
    globus::NEEDS.iter().chain(dcache::NEEDS).chain(ours::NEEDS)
}

/// The names of services that a word on the command line means.
///
/// # Errors
/// For a word that means none: all words that do.
pub fn meant(word: &str) -> Result<Vec<&'static str>, String> {
    let name = SERVICES.iter().map(|(name, _)| *name).find(|name| *name == word);
    let group = || GROUPS.iter().find(|(group, _)| *group == word).map(|(_, names)| names.to_vec());
    name.map(|name| vec![name]).or_else(group).ok_or_else(|| {
        let known: Vec<_> =
            SERVICES.iter().map(|(name, _)| *name).chain(GROUPS.iter().map(|(g, _)| *g)).collect();
        format!("there is no service {word:?}; known are {}", known.join(", "))
    })
}

/// The needs of the services that the words mean; of all when there is no word.
///
/// # Errors
/// As [`meant`].
pub fn selected(words: &[String]) -> Result<impl Iterator<Item = &'static Need> + use<>, String> {
    let mut names = Vec::new();
    for word in words {
        names.extend(meant(word)?);
    }
    let everything = words.is_empty();
    Ok(all().filter(move |need| everything || names.contains(&need.service)))
}

/// Whether a service must not be offered from behind network address translation, since its certificate or its answers
/// name the host that clients must reach.
pub fn is_grid(service: &str) -> bool {
    all().any(|need| need.service == service && !matches!(need.family, Family::Ours | Family::General))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::need::{Direction, Reach, Role};

    #[test]
    fn every_service_has_a_client_and_a_server_and_every_word_a_service() {
        for (name, _) in SERVICES {
            for role in [Role::Client, Role::Server] {
                let found = all().any(|need| need.service == name && need.role == role);
                assert!(found || name == "dns", "{name} has no need as {}", role.name());
            }
        }
        for (group, names) in GROUPS {
            assert_eq!(meant(group).unwrap(), names);
            assert!(names.iter().all(|name| SERVICES.iter().any(|(known, _)| known == name)), "{group}");
        }
        assert!(meant("gopher").unwrap_err().contains("gridftp"));
    }

    #[test]
    fn needs_say_what_stops_and_reach_what_their_role_has() {
        for need in all() {
            assert!(
                need.closed.len() > 10 && need.purpose.len() > 5 && !need.initiator.is_empty(),
                "{need:?}"
            );
            match need.reach {
                Reach::Service(name) => assert!(SERVICES.iter().any(|(known, _)| *known == name), "{name}"),
                Reach::OurRange => assert_eq!(need.direction, Direction::In, "{need:?}"),
                Reach::PeerRange => assert_eq!(need.direction, Direction::Out, "{need:?}"),
                Reach::DcacheData => assert!(need.service.starts_with("dcache") || need.service == "srm"),
            }
        }
        let parallel = all().filter(|n| n.closed.contains("parallel PUT")).count();
        assert!(parallel >= 2, "closing passive mode breaks parallel PUT, on both sides");
    }
}
