//! The words of the catalogue.

use std::fmt;

/// One connection that a service needs a firewall to let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The service, by its name in `[services]`.
    pub service: &'static str,
    /// Whose it is.
    pub family: Family,
    /// On which side the site stands.
    pub role: Role,
    /// Whether the connection comes to the site or leaves it.
    pub direction: Direction,
    /// Which of the site's nodes it is.
    pub node: &'static str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where the connection goes to.
    pub reach: Reach,
    /// Where it comes from.
    pub source: Source,
    /// Who opens it.
    pub initiator: &'static str,
    /// How what passes is protected.
    pub protection: Protection,
    /// What passes.
    pub purpose: &'static str,
    /// What stops working when it is closed.
    pub closed: &'static str,
}

/// Whose service it is, and which generation of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Gt2,
    Gt3,
    Gt4,
    /// The same in all generations of Globus.
    Globus,
    Dcache,
    Ours,
    General,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gt2 => "Globus GT2, GRAM5",
            Self::Gt3 => "Globus GT3",
            Self::Gt4 => "Globus GT4",
            Self::Globus => "Globus",
            Self::Dcache => "dCache",
            Self::Ours => "Pilotage",
            Self::General => "general",
        }
    }

    /// Where it is written down.
    pub fn source(self) -> &'static str {
        match self {
            Self::Gt2 | Self::Gt3 | Self::Gt4 | Self::Globus => {
                "Globus Toolkit Firewall Requirements (Welch)"
            }
            Self::Dcache => "The dCache Book, firewalls",
            Self::Ours => "docs/ports.md",
            Self::General => "RFC 1035, RFC 7766",
        }
    }
}

/// On which side the site stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its users and jobs use the service elsewhere.
    Client,
    /// It runs the service.
    Server,
}

impl Role {
    pub fn name(self) -> &'static str {
        if self == Self::Client { "client" } else { "server" }
    }
}

/// Seen from the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    In,
    Out,
}

impl Direction {
    pub fn name(self) -> &'static str {
        if self == Self::In { "in" } else { "out" }
    }
}

/// Where a connection goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The port of a service.
    Service(&'static str),
    /// The site's callback range.
    OurRange,
    /// The callback range of the peer.
    PeerRange,
    /// dCache's range of data connections.
    DcacheData,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Any port that the kernel of the opening side takes.
    Ephemeral,
    /// The same, but the opening side can be told a range (`GLOBUS_TCP_SOURCE_RANGE`).
    ControllableEphemeral,
    /// dCache's range of data connections.
    DcacheData,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ephemeral => "ephemeral ports",
            Self::ControllableEphemeral => "controllable ephemeral ports",
            Self::DcacheData => "dCache's data range",
        }
    }
}

/// How what passes is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    pub authenticated: bool,
    pub integrity: bool,
    pub encrypted: bool,
}

impl Protection {
    /// Certificates on both sides, and all that passes is sealed.
    pub const FULL: Self = Self { authenticated: true, integrity: true, encrypted: true };
    /// Certificates on both sides; the bytes themselves pass as they are unless the client asks for more.
    pub const AUTHENTICATED: Self = Self { authenticated: true, integrity: false, encrypted: false };
    /// Nothing.
    pub const NONE: Self = Self { authenticated: false, integrity: false, encrypted: false };
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.authenticated, "authenticated"),
            (self.integrity, "integrity"),
            (self.encrypted, "encrypted"),
        ];
        let words: Vec<_> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        f.write_str(&if words.is_empty() { "none".to_owned() } else { words.join(", ") })
    }
}
