//! Who somebody is, on the grid and on this host: the words that every room shares.
//!
//! Any room may use this crate, and it uses none of ours. It only describes values and checks their form: it reads no
//! file, asks no service and decides nothing. It is linked into the setuid program, so it holds no `unsafe` and stays
//! small.
//!
//! | looking for | see |
//! |---|---|
//! | DN, FQAN, account, identity | here |
//! | whether two spellings mean one name | [`same_name`], [`Meaning`] |
//! | what a mapping service is and says | [`Service`], [`Mapping`] |
//! | patterns with `*` | [`matches_glob`], [`Dn::names_host`] |
//! | why a credential was refused | [`Refusal`] |
//! | durations as people write them | [`duration`] |
//! | any text as one line of a log | [`one_line`] |
//! | what others wrote, for terminals, log lines and JSON | [`shown`] |
#![forbid(unsafe_code)]

pub mod attribute_type;
pub mod duration;
mod glob;
mod line;
mod mapping;
mod name;
mod refusal;
mod rules;
pub mod shown;

pub use glob::matches_glob;
pub use line::one_line;
pub use mapping::{Mapping, Service};
pub use name::{Meaning, loose_forms, same_name};
pub use refusal::{Refusal, RefusalKind};
pub use rules::ChainRules;

use std::fmt;

/// A text that broke the rule of the type it should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl Malformed {
    /// `what` should be is malformed, since `text` breaks `rule`. Of the text 80 characters are kept.
    pub fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        let text = text.chars().take(80).collect();
        Self { what, text, rule }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} is malformed: {}", self.what, self.text, self.rule)
    }
}

impl std::error::Error for Malformed {}

/// Implements `as_str`, `Display`, and parsing from `String` (for serde) for a checked text type.
macro_rules! checked_text {
    ($name:ident) => {
        impl $name {
            /// The text, exactly as it was parsed.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

/// A distinguished name in OpenSSL's one-line form, such as `/DC=org/DC=example/CN=Alice`.
///
/// Bytes outside printable ASCII stand as `\xHH`, as in `X509_NAME_oneline(3)`. Two values are equal byte by byte; whether
/// they mean one name is for [`same_name`] to say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dn(String);
checked_text!(Dn);

impl Dn {
    /// Accepts 2 to 4096 printable ASCII characters, the first one a slash.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let good = text.starts_with('/') && (2..=4096).contains(&text.len()) && is_printable(text);
        if !good {
            return Err(Malformed::new(
                "DN",
                text,
                "use the one-line form /C=../O=../CN=.. in printable ASCII",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A fully qualified attribute name of VOMS, such as `/cms/Role=pilot/Capability=NULL`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fqan(String);
checked_text!(Fqan);

impl Fqan {
    /// Accepts 2 to 512 printable ASCII characters, the first one a slash.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let good = text.starts_with('/') && (2..=512).contains(&text.len()) && is_printable(text);
        if !good {
            return Err(Malformed::new("FQAN", text, "use /vo/group/Role=role in printable ASCII"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The virtual organisation: the first component.
    pub fn vo(&self) -> &str {
        self.0[1..].split('/').next().unwrap_or_default()
    }
}

/// The name of a local account, as in the first field of `passwd(5)` or as a directory service has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);
checked_text!(AccountName);

impl AccountName {
    /// Accepts 1 to 256 letters, digits, `.`, `_`, `-`, `@`, `\\`, `+` and `$`, the first one a letter, a digit or `_`; but not
    /// digits alone, which other programs take for a uid.
    ///
    /// `useradd(8)` is narrower; Active Directory, SSSD and winbind name accounts `u@dom`, `DOM\\u`, `DOM+u`, `4alice` or
    /// `robot$`, and LCMAPS and sudo take these.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let tail = |c: &u8| {
            c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'@' | b'\\' | b'+' | b'$')
        };
        let good = matches!(text.as_bytes(), [first, rest @ ..]
            if (first.is_ascii_alphanumeric() || *first == b'_') && rest.len() < 256 && rest.iter().all(tail));
        if !good || text.bytes().all(|c| c.is_ascii_digit()) {
            return Err(Malformed::new(
                "account name",
                text,
                "use letters, digits, '.', '_', '-', '@', '\\', '+', '$', and not digits alone",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|c| (0x20..=0x7e).contains(&c))
}

/// A local account as `passwd(5)` and `group(5)` know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: AccountName,
    /// Numeric user id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, without the primary one.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: std::path::PathBuf,
}

/// The process that called `glexec`: real ids, never effective ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Login name; `None` when `passwd(5)` does not know the uid.
    pub name: Option<AccountName>,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What `glexec-verify` found in a credential that it accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedIdentity {
    /// Subject of the end-entity certificate: the person, without proxy CNs.
    pub subject: Dn,
    /// Issuer of the end-entity certificate.
    pub issuer: Dn,
    /// Serial number of the end-entity certificate, lower-case hex.
    pub serial: String,
    /// Earliest end of validity in the chain, seconds since the epoch.
    pub not_after: u64,
    /// Whether the proxy is limited (RFC 3820, Globus limited policy).
    pub limited: bool,
    /// SHA-256 of the bytes that were judged.
    pub digest: [u8; 32],
    /// Attribute certificate, when there is one; its signature was checked.
    pub voms: Option<VomsAttributes>,
    /// The certificates of the chain as PEM, leaf first, without any private key.
    pub chain_pem: Vec<u8>,
}

/// The attributes of a VOMS attribute certificate (OGF GFD.182).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VomsAttributes {
    /// Virtual organisation.
    pub vo: String,
    /// In the order of the certificate; the first one is primary. Never empty.
    pub fqans: Vec<Fqan>,
    /// Subject of the certificate that signed the attributes.
    pub signer: Dn,
    /// Issuer of that certificate.
    pub signer_issuer: Dn,
    /// End of validity, seconds since the epoch.
    pub not_after: u64,
}

impl VerifiedIdentity {
    /// All FQANs, primary first; empty without an attribute certificate.
    pub fn fqans(&self) -> &[Fqan] {
        self.voms.as_ref().map_or(&[], |v| &v.fqans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dn_refuses_control_characters_and_relative_names() {
        assert!(Dn::parse("/C=XX/CN=Alice Adams").is_ok());
        for bad in ["", "/", "CN=Alice", "/CN=a\nb", "/CN=J\u{fc}rgen"] {
            assert!(Dn::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fqan_knows_its_vo() {
        assert_eq!(Fqan::parse("/cms/Role=pilot").unwrap().vo(), "cms");
    }

    #[test]
    fn account_names_are_those_of_passwd_and_of_directory_services() {
        let long = "x".repeat(64);
        let plain = ["alice", "_apt", "cms001", "a.b-c", &long];
        let foreign = ["user@dom.example.org", "DOM\\u", "DOM+u", "4alice", "robot$", "Alice", "DOM\\robot$"];
        for good in plain.into_iter().chain(foreign) {
            assert!(AccountName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "12", "a b", "root:x", "-x", ".x", "+x", "@x", "$x", "a/b", "a\nb", &"x".repeat(257)]
        {
            assert!(AccountName::parse(bad).is_err(), "{bad}");
        }
    }
}
