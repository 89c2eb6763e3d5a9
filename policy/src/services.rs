//! The grid services that a site may run, and the ports that they listen on unless the site says otherwise (`[services]`).
//! What each of them needs from a firewall is told by `site-policy services`.

use crate::ports::PortRange;
use std::collections::BTreeMap;

/// Name and usual port of each service.
pub const SERVICES: [(&str, u16); 19] = [
    ("gram", 2119),
    ("gram3", 8080),
    ("gram4", 8443),
    ("mds", 2135),
    ("mds3", 8080),
    ("mds4", 8443),
    ("gridftp", 2811),
    ("gsissh", 22),
    ("myproxy", 7512),
    ("dcap", 22125),
    ("gsidcap", 22128),
    ("dcache-gridftp", 2811),
    ("srm", 8443),
    ("queue", 8443),
    ("relay", 8444),
    ("mapping", 8443),
    ("accounting", 8445),
    ("gridfw", 8446),
    ("dns", 53),
];

/// Ports of dCache's GridFTP data connections unless the site says otherwise: `[services] dcache-data`.
pub const DCACHE_DATA: (u16, u16) = (20000, 25000);

/// `[services]`: where services listen at this site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePorts {
    changed: BTreeMap<&'static str, u16>,
    dcache_data: PortRange,
}

impl Default for ServicePorts {
    fn default() -> Self {
        Self { changed: BTreeMap::new(), dcache_data: PortRange::from_ends(DCACHE_DATA) }
    }
}

impl ServicePorts {
    /// The port of a service of [`SERVICES`]; 0 for any other name.
    pub fn port(&self, service: &str) -> u16 {
        let usual = || SERVICES.iter().find(|(name, _)| *name == service).map_or(0, |(_, port)| *port);
        self.changed.get(service).copied().unwrap_or_else(usual)
    }

    /// Ports of dCache's GridFTP data connections.
    pub fn dcache_data(&self) -> PortRange {
        self.dcache_data
    }

    /// Sets the port of a service.
    ///
    /// # Errors
    /// For a service that there is none of: all the names.
    pub(crate) fn change(&mut self, service: &str, port: u16) -> Result<(), String> {
        let known = SERVICES.iter().map(|(name, _)| *name);
        let Some(name) = known.clone().find(|name| *name == service) else {
            let all: Vec<_> = known.chain(["dcache-data"]).map(|name| format!("`{name}`")).collect();
            return Err(format!("unknown field `{service}`, expected one of {}", all.join(", ")));
        };
        self.changed.insert(name, port);
        Ok(())
    }

    pub(crate) fn change_dcache_data(&mut self, range: PortRange) {
        self.dcache_data = range;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_may_move_a_service() {
        let mut ports = ServicePorts::default();
        assert_eq!((ports.port("gridftp"), ports.dcache_data().to_string()), (2811, "20000-25000".into()));
        ports.change("gridftp", 2812).unwrap();
        assert_eq!((ports.port("gridftp"), ports.port("dcache-gridftp")), (2812, 2811));
        assert!(ports.change("gopher", 70).unwrap_err().contains("`gridftp`"));
    }
}
