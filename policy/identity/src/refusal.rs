//! What a verifier says about a credential that it does not accept.

/// Why a credential was refused: the class decides the exit code, the text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class.
    pub kind: RefusalKind,
    /// One line: what is wrong, where, and what to do.
    pub reason: String,
}

/// The classes of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Not a PEM chain with its key: the caller handed over the wrong file.
    Malformed = 1,
    /// A certificate of the chain has expired, or is not valid yet.
    Expired = 2,
    /// The private key is missing or belongs to another certificate.
    Key = 3,
    /// The chain breaks RFC 3820 or RFC 5280: signature, names, path length, usage.
    Chain = 4,
    /// No trusted CA, signing policy violated, revoked, or CRL missing or stale.
    Trust = 5,
    /// Lives longer than the site allows, or limited where that is not allowed.
    Policy = 6,
    /// The VOMS attribute certificate is not acceptable.
    Voms = 7,
    /// The verifier itself cannot work: CA directory unreadable, library failure.
    Site = 8,
}

impl RefusalKind {
    /// The class that a frame means by this byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        use RefusalKind::*;
        [Malformed, Expired, Key, Chain, Trust, Policy, Voms, Site].into_iter().find(|k| *k as u8 == byte)
    }
}
