//! What a mapping service is, and what it says.

/// The protocol that a mapping service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// XACML over SOAP, answers with an account name (`mapping-protocols.md` 1).
    Gums = 1,
    /// XACML over SOAP, answers with numbers.
    Scas = 2,
    /// Argus PEP daemon, Hessian.
    Argus = 3,
    /// GUMS 1.5 JSON.
    Json = 4,
}

impl Service {
    /// Every service, in the order of the documentation.
    pub const ALL: [Service; 4] = [Service::Gums, Service::Scas, Service::Argus, Service::Json];

    /// The name in `policy.toml` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Service::Gums => "gums",
            Service::Scas => "scas",
            Service::Argus => "argus",
            Service::Json => "json",
        }
    }
}

/// What a mapping source said about the account: at least a name or a uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Account name.
    pub account: Option<String>,
    /// Numeric uid.
    pub uid: Option<u32>,
    /// Numeric primary gid.
    pub gid: Option<u32>,
    /// Numeric secondary gids.
    pub groups: Vec<u32>,
    /// Primary group by name (the `account` obligation of GUMS 1.5).
    pub group: Option<String>,
    /// Secondary groups by name (Argus, and the `account` obligation of GUMS 1.5).
    pub group_names: Vec<String>,
}
