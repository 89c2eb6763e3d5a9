//! Name constraints (RFC 5280 section 4.2.1.10), with the answers that OpenSSL 3 gives.

use crate::der::{self, Der, DerError, Element};
use crate::name::Name;

const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const DIRECTORY: u8 = 0xa4;
const URI: u8 = 0x86;
const ADDRESS: u8 = 0x87;
const OTHER_NAME: u8 = 0xa0;
/// SmtpUTF8Mailbox (RFC 8398): a mail address in another coat.
const SMTP_UTF8: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.8.9);

/// A GeneralName, read as far as the rules need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GeneralName {
    /// rfc822Name, also the text of a SmtpUTF8Mailbox.
    Email(String),
    /// dNSName.
    Dns(String),
    /// uniformResourceIdentifier.
    Uri(String),
    /// iPAddress: octets, in constraints followed by those of the mask.
    Address(Vec<u8>),
    /// directoryName.
    Directory(Box<Name>),
    /// A form that is not evaluated: identifier octet, and the type of an otherName.
    Other(u8, Vec<u8>),
}

impl GeneralName {
    /// Reads one GeneralName.
    pub fn parse(element: Element<'_>) -> Result<Self, DerError> {
        const WHAT: &str = "general name";
        let text = || std::str::from_utf8(element.body).map(str::to_owned).map_err(|_| DerError(WHAT));
        match element.tag {
            EMAIL => text().map(Self::Email),
            DNS => text().map(Self::Dns),
            URI => text().map(Self::Uri),
            ADDRESS => Ok(Self::Address(element.body.to_vec())),
            DIRECTORY => {
                let mut inner = Der::new(element.body);
                let name = Name::parse(inner.take(der::SEQUENCE, WHAT)?.raw)?;
                inner.end(WHAT)?;
                Ok(Self::Directory(Box::new(name)))
            }
            OTHER_NAME => {
                let mut inner = Der::new(element.body);
                let oid = inner.take(der::OID, WHAT)?.body;
                if oid != SMTP_UTF8 {
                    return Ok(Self::Other(OTHER_NAME, oid.to_vec()));
                }
                let mailbox = inner.enter(0xa0, WHAT)?.take(0x0c, WHAT)?.body;
                std::str::from_utf8(mailbox).map(|m| Self::Email(m.to_owned())).map_err(|_| DerError(WHAT))
            }
            tag => Ok(Self::Other(tag, Vec::new())),
        }
    }

    /// Reads the contents of a SEQUENCE of GeneralName.
    pub fn parse_all(mut list: Der<'_>) -> Result<Vec<Self>, DerError> {
        let mut found = Vec::new();
        while !list.is_empty() {
            found.push(Self::parse(list.any("general name")?)?);
        }
        Ok(found)
    }

    fn is_of_form(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Other(tag, oid), Self::Other(theirs, their_oid)) => tag == theirs && oid == their_oid,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// The form and the name, for messages.
    fn shown(&self) -> String {
        match self {
            Self::Email(text) => format!("mail address {text}"),
            Self::Dns(text) => format!("host name {text}"),
            Self::Uri(text) => format!("URI {text}"),
            Self::Address(_) => "IP address".to_owned(),
            Self::Directory(name) => name.as_str().to_owned(),
            Self::Other(..) => "name of an unusual form".to_owned(),
        }
    }
}

/// The constraints of one CA.
#[derive(Debug, Clone, Default)]
pub struct NameConstraints {
    permitted: Vec<GeneralName>,
    excluded: Vec<GeneralName>,
}

/// Which texts count as within a constraint without any: nothing is permitted by it, everything is excluded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Permitted,
    Excluded,
}

impl NameConstraints {
    /// Reads the extension's value.
    ///
    /// # Errors
    /// Also for `minimum` and `maximum`, which RFC 5280 forbids and OpenSSL refuses (error 49).
    pub fn parse(value: &[u8]) -> Result<Self, DerError> {
        let mut list = der::only(value, der::SEQUENCE, "name constraints")?;
        let permitted = list.optional(0xa0, "permitted subtrees")?.map(subtrees).transpose()?;
        let excluded = list.optional(0xa1, "excluded subtrees")?.map(subtrees).transpose()?;
        list.end("bytes after the name constraints")?;
        Ok(Self { permitted: permitted.unwrap_or_default(), excluded: excluded.unwrap_or_default() })
    }

    /// Whether a certificate with that subject and subjectAltName (the extension's value) may be issued; a host name in
    /// the common name counts for `end_entity` certificates without host names elsewhere.
    ///
    /// # Errors
    /// A text that names what is outside.
    pub fn check(&self, subject: &Name, alternative: Option<&[u8]>, end_entity: bool) -> Result<(), String> {
        let unreadable = |e: DerError| format!("its subjectAltName cannot be read ({e})");
        let mut names = match alternative {
            Some(value) => {
                let list = der::only(value, der::SEQUENCE, "subjectAltName").map_err(unreadable)?;
                GeneralName::parse_all(list).map_err(unreadable)?
            }
            None => Vec::new(),
        };
        let has_host = names.iter().any(|n| matches!(n, GeneralName::Dns(_)));
        if end_entity && !has_host {
            let hosts = subject.common_names().into_iter().filter(|text| is_host(text));
            names.extend(hosts.map(GeneralName::Dns));
        }
        names.extend(subject.emails().into_iter().map(GeneralName::Email));
        if !subject.is_empty() {
            names.push(GeneralName::Directory(Box::new(subject.clone())));
        }
        names.iter().try_for_each(|name| self.check_one(name))
    }

    fn check_one(&self, name: &GeneralName) -> Result<(), String> {
        let of_form = |list: &[GeneralName]| {
            list.iter().filter(|base| base.is_of_form(name)).cloned().collect::<Vec<_>>()
        };
        let (permitted, excluded) = (of_form(&self.permitted), of_form(&self.excluded));
        if permitted.is_empty() && excluded.is_empty() {
            return Ok(());
        }
        let within = |base: &GeneralName, side| {
            is_within(base, name, side).ok_or_else(|| format!("its {} cannot be compared", name.shown()))
        };
        let mut is_permitted = permitted.is_empty();
        for base in &permitted {
            is_permitted |= within(base, Side::Permitted)?;
        }
        if !is_permitted {
            return Err(format!("its {} is outside the permitted names", name.shown()));
        }
        for base in &excluded {
            if within(base, Side::Excluded)? {
                return Err(format!("its {} is among the excluded names", name.shown()));
            }
        }
        Ok(())
    }
}

fn subtrees(element: Element<'_>) -> Result<Vec<GeneralName>, DerError> {
    let mut list = Der::new(element.body);
    let mut found = Vec::new();
    while !list.is_empty() {
        let mut tree = list.enter(der::SEQUENCE, "subtree")?;
        found.push(GeneralName::parse(tree.any("subtree")?)?);
        if tree.optional(0x80, "subtree")?.is_some_and(|minimum| minimum.body != [0]) {
            return Err(DerError("name constraint with a minimum"));
        }
        tree.end("name constraint with a maximum")?;
    }
    if found.is_empty() { Err(DerError("empty list of subtrees")) } else { Ok(found) }
}

/// `None` when the name is of no use for a comparison, so that nobody can say.
fn is_within(base: &GeneralName, name: &GeneralName, side: Side) -> Option<bool> {
    match (base, name) {
        (GeneralName::Directory(base), GeneralName::Directory(name)) => Some(name.is_within(base)),
        (GeneralName::Dns(base), GeneralName::Dns(name)) => Some(host_is_within(base, name)),
        (GeneralName::Email(base), GeneralName::Email(name)) => mail_is_within(base, name, side),
        (GeneralName::Uri(base), GeneralName::Uri(name)) => {
            let host = host_of_uri(name)?;
            Some(domain_is_within(base, host, side))
        }
        (GeneralName::Address(base), GeneralName::Address(name)) => Some(address_is_within(base, name)),
        _ => None,
    }
}

/// The empty name holds all hosts, others themselves and what lies below.
fn host_is_within(base: &str, name: &str) -> bool {
    let Some(split) = name.len().checked_sub(base.len()) else { return false };
    let tail = name.as_bytes().get(split..).unwrap_or_default();
    let at_label =
        split == 0 || base.is_empty() || base.starts_with('.') || name.as_bytes()[split - 1] == b'.';
    at_label && tail.eq_ignore_ascii_case(base.as_bytes())
}

/// With a leading dot what lies below it, else that host alone (mail and URI constraints).
fn domain_is_within(base: &str, host: &str, side: Side) -> bool {
    match base.as_bytes() {
        [] => side == Side::Excluded,
        [b'.', ..] => host.len() > base.len() && host_is_within(base, host),
        _ => host.eq_ignore_ascii_case(base),
    }
}

/// The part before the `@` counts with letter case.
fn mail_is_within(base: &str, address: &str, side: Side) -> Option<bool> {
    let (person, host) = address.rsplit_once('@')?;
    // What another program makes of a name in another script cannot be foreseen.
    if !host.is_ascii() {
        return None;
    }
    Some(match base.rsplit_once('@') {
        Some(("", domain)) => host.eq_ignore_ascii_case(domain),
        Some((whose, domain)) => person == whose && host.eq_ignore_ascii_case(domain),
        None => domain_is_within(base, host, side),
    })
}

/// The host of `scheme://[user@]host[:port][/…]`; `None` for other forms and for numeric IPv6 hosts.
fn host_of_uri(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once(':')?;
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.split(':').next()?;
    (!host.is_empty() && !host.starts_with('[')).then_some(host)
}

fn address_is_within(base: &[u8], address: &[u8]) -> bool {
    if base.len() != 2 * address.len() {
        return false;
    }
    let (network, mask) = base.split_at(address.len());
    address.iter().zip(network).zip(mask).all(|((a, n), m)| a & m == n & m)
}

/// Whether a common name looks like a host's, as OpenSSL sees it: labels of letters, digits, hyphens and underscores, at
/// least one dot.
fn is_host(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let label = |l: &str| !l.is_empty() && l.bytes().all(plain) && !l.starts_with('-') && !l.ends_with('-');
    text.contains('.') && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_mails_and_uris_lie_where_openssl_sees_them() {
        for (base, name, within) in [
            ("example.org", "example.org", true),
            ("example.org", "WN.Example.ORG", true),
            (".example.org", "wn.example.org", true),
            ("example.org", "badexample.org", false),
            ("", "anything", true),
        ] {
            assert_eq!(host_is_within(base, name), within, "{base} {name}");
        }
        let mail = |base, name| mail_is_within(base, name, Side::Permitted);
        for (base, name, within) in [
            ("example.org", "a@example.org", Some(true)),
            ("example.org", "a@EXAMPLE.org", Some(true)),
            ("example.org", "a@x.example.org", Some(false)),
            (".example.org", "a@x.example.org", Some(true)),
            (".example.org", "a@example.org", Some(false)),
            ("a@example.org", "a@Example.org", Some(true)),
            ("a@example.org", "A@example.org", Some(false)),
            ("@example.org", "b@example.org", Some(true)),
            ("", "b@example.org", Some(false)),
            ("example.org", "nobody", None),
        ] {
            assert_eq!(mail(base, name), within, "{base} {name}");
        }
        assert_eq!(mail_is_within("", "b@example.org", Side::Excluded), Some(true));
        for (uri, host) in [
            ("https://a.example.org:8443/x", Some("a.example.org")),
            ("https://evil@a.example.org", Some("a.example.org")),
            ("urn:x", None),
            ("https:///x", None),
            ("https://[::1]/", None),
        ] {
            assert_eq!(host_of_uri(uri), host, "{uri}");
        }
        assert!(address_is_within(&[10, 1, 0, 0, 255, 255, 0, 0], &[10, 1, 2, 3]));
        assert!(!address_is_within(&[10, 1, 0, 0, 255, 255, 0, 0], &[10, 2, 2, 3]));
        assert!(!address_is_within(&[10, 1, 0, 0, 255, 255, 0, 0], &[0; 16]));
        assert!(
            is_host("wn.example.org") && !is_host("Alice Adams") && !is_host("alice") && !is_host("a..b")
        );
    }
}
