//! The small grid of the demo: accounts, certificates, proxies, and the site's configuration.

use anyhow::{Context, Result};
use harness::Machine;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// Trusted authorities, as on every grid host.
pub(crate) const CA_DIR: &str = "/etc/grid-security/certificates";
/// The pilot's own credential.
pub(crate) const PILOT_PROXY: &str = "/home/pilot/robot-proxy.pem";

/// Who submits, and the account that the site gives to that user's payloads.
const USERS: [(&str, &str); 2] = [("alice", "cms001"), ("bob", "atlas001")];

/// Subjects of the users' certificates, by who submits.
static DNS: OnceLock<BTreeMap<&'static str, String>> = OnceLock::new();

/// The account that this user's payloads run under.
pub(crate) fn account_of(user: &str) -> &'static str {
    USERS.iter().find(|(name, _)| *name == user).map_or("nobody", |(_, account)| account)
}

/// Subject of this user's certificate.
pub(crate) fn dn_of(user: &str) -> Result<String> {
    DNS.get().and_then(|dns| dns.get(user)).cloned().with_context(|| format!("{user} has no certificate"))
}

/// Where this user's proxy lies.
pub(crate) fn proxy_of(user: &str) -> String {
    format!("/home/{user}/proxy.pem")
}

/// The machine: a submit host, a queue host, the site's mapping service and a worker node in one.
pub(crate) fn machine() -> Machine {
    let builder = Machine::builder().pilot("pilot");
    let builder = ["mapping", "queue", "alice", "bob"].into_iter().fold(builder, |b, name| b.service(name));
    let builder = USERS.into_iter().fold(builder, |b, (_, account)| b.account(account));
    builder.mapping(&["gums"]).build()
}

/// Sets up certificates and proxies with the real tools of the grid. Returns the subject of the pilot's certificate.
pub(crate) fn set_up(machine: &Machine) -> Result<String> {
    let pki = machine.pki();
    let robot = pki.robot("robot", "Pilot Robot")?;
    pki.grid_proxy(&robot, Path::new(PILOT_PROXY), &["-rfc", "-valid", "12:00"])?;
    machine.give(PILOT_PROXY, "pilot");
    let mut dns = BTreeMap::new();
    for (user, title) in [("alice", "Alice Adams"), ("bob", "Bob Brown")] {
        let person = machine.user(title);
        let out = proxy_of(user);
        // By default voms-proxy-fake allows one delegation; the way from user to queue to pilot takes two.
        let options = ["-rfc", "-path-length", "4"];
        let fqans = ["/cms/Role=NULL/Capability=NULL"];
        pki.voms_proxy_with(&person, Path::new(&out), "cms", &fqans, &options)?;
        machine.give(&out, user);
        dns.insert(user, person.dn);
    }
    let _ = DNS.set(dns);
    for (file, from) in [("cert", &pki.host_cert), ("key", &pki.host_key)] {
        machine.write(&format!("/home/queue/{file}.pem"), "queue", 0o600, fs::read(from)?);
    }
    Ok(robot.dn)
}

/// What the mapping service is told: which account each user gets.
pub(crate) fn mapping_config() -> Result<String> {
    let line = |user| Ok(format!("{:?} = {:?}\n", dn_of(user)?, account_of(user)));
    let lines: Result<String> = USERS.into_iter().map(|(user, _)| line(user)).collect();
    Ok(format!("[users]\n{}", lines?))
}
