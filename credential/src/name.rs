//! Distinguished names: compared as bytes, shown in OpenSSL's one-line form.

use crate::der::{self, DerError};
use openssl::x509::{X509, X509Name, X509NameRef};
use policy::identity::Dn;

const COMMON_NAME: &[u8] = &asn1_rs::oid!(raw 2.5.4.3);
/// UTF8String, PrintableString, IA5String: the same ASCII text may stand in any of them.
const TEXT_TAGS: [u8; 3] = [0x0c, 0x13, 0x16];

#[derive(Debug, Clone)]
struct Attribute {
    oid: Vec<u8>,
    tag: u8,
    value: Vec<u8>,
}

impl PartialEq for Attribute {
    fn eq(&self, other: &Self) -> bool {
        let texts = TEXT_TAGS.contains(&self.tag) && TEXT_TAGS.contains(&other.tag) && self.value.is_ascii();
        self.oid == other.oid && self.value == other.value && (self.tag == other.tag || texts)
    }
}

/// A distinguished name.
///
/// Equality is stricter than RFC 5280 section 7.1: letter case and blanks count. Only the string type of an ASCII
/// text does not, since OpenSSL and Java pick different ones when they write a proxy.
#[derive(Debug, Clone)]
pub struct Name {
    raw: Vec<u8>,
    rdns: Vec<Vec<Attribute>>,
    one_line: String,
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.rdns == other.rdns
    }
}

impl Name {
    /// Reads a DER `Name`.
    pub fn parse(raw: &[u8]) -> Result<Self, DerError> {
        let mut rdns = Vec::new();
        let mut names = der::only(raw, der::SEQUENCE, "name")?;
        while !names.is_empty() {
            let mut set = names.enter(der::SET, "name component")?;
            let mut attributes = Vec::new();
            while !set.is_empty() {
                let mut pair = set.enter(der::SEQUENCE, "name attribute")?;
                let oid = pair.take(der::OID, "name attribute type")?.body.to_vec();
                let value = pair.any("name attribute value")?;
                pair.end("name attribute")?;
                attributes.push(Attribute { oid, tag: value.tag, value: value.body.to_vec() });
            }
            if attributes.is_empty() {
                return Err(DerError("empty name component"));
            }
            rdns.push(attributes);
        }
        let openssl = X509Name::from_der(raw).map_err(|_| DerError("name"))?;
        let one_line = one_line(&openssl, &rdns);
        Ok(Self { raw: raw.to_vec(), rdns, one_line })
    }

    /// The DER encoding.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// `X509_NAME_oneline(3)`; empty for the empty name.
    pub fn as_str(&self) -> &str {
        &self.one_line
    }

    /// As a checked name; fails for the empty name and for one above 4096 characters.
    pub fn dn(&self) -> Result<Dn, policy::identity::Malformed> {
        Dn::parse(&self.one_line)
    }

    /// The common name that this name adds to `parent`: exactly one component that holds exactly one CN.
    pub fn added_common_name(&self, parent: &Name) -> Option<&[u8]> {
        let (last, front) = self.rdns.split_last()?;
        match last.as_slice() {
            [one] if one.oid == COMMON_NAME && front == parent.rdns => Some(&one.value),
            _ => None,
        }
    }

    /// The value of the last component if that is a single CN.
    pub fn last_common_name(&self) -> Option<&[u8]> {
        match self.rdns.last()?.as_slice() {
            [one] if one.oid == COMMON_NAME => Some(&one.value),
            _ => None,
        }
    }

    /// The same name for OpenSSL.
    pub fn openssl(&self) -> Result<X509Name, openssl::error::ErrorStack> {
        X509Name::from_der(&self.raw)
    }

    /// Whether the names are the same by RFC 5280 section 7.1: letter case and runs of blanks do not count.
    pub fn matches(&self, other: &Name) -> bool {
        let order = self.openssl().and_then(|mine| mine.try_cmp(&*other.openssl()?));
        order.is_ok_and(std::cmp::Ordering::is_eq)
    }

    /// OpenSSL's hash of the name, which files in the CA directory are called by.
    pub fn hash(&self) -> u32 {
        let hash = || {
            let mut carrier = X509::builder()?;
            carrier.set_subject_name(&*self.openssl()?)?;
            Ok::<u32, openssl::error::ErrorStack>(carrier.build().subject_name_hash())
        };
        // a name that was parsed can be hashed; if memory runs out no file is found, and the CA is not trusted
        hash().unwrap_or_default()
    }

    /// Whether this name is `base` or lies below it (directoryName constraints, RFC 5280 section 4.2.1.10).
    pub fn is_within(&self, base: &Name) -> bool {
        self.rdns.starts_with(&base.rdns)
    }
}

/// The form that `X509_NAME_oneline(3)` of OpenSSL 3 gives: short names, numeric OIDs for unknown types, `\xHH` for other
/// bytes, `+` within a component of several attributes. A `/` or `+` in a value has a backslash: else `CN=a/CN=b` could
/// be one name or another.
fn one_line(name: &X509NameRef, rdns: &[Vec<Attribute>]) -> String {
    let mut line = String::new();
    let separators = rdns.iter().flat_map(|rdn| (0..rdn.len()).map(|n| if n == 0 { '/' } else { '+' }));
    for (entry, separator) in name.entries().zip(separators) {
        let object = entry.object();
        line.push(separator);
        match object.nid().short_name() {
            Ok(short) if object.nid() != openssl::nid::Nid::UNDEF => line.push_str(short),
            _ => line.push_str(&object.to_string()),
        }
        line.push('=');
        for byte in entry.data().as_slice() {
            match byte {
                b'/' | b'+' => line.extend(['\\', char::from(*byte)]),
                b' '..=b'~' => line.push(char::from(*byte)),
                other => line.push_str(&format!("\\x{other:02X}")),
            }
        }
    }
    line
}

/// The first eight hexadecimal digits that name a CA's files: today's hash and the one of OpenSSL before 1.0.
pub fn file_hashes(name: &Name) -> [String; 2] {
    let canonical = name.hash();
    let digest = openssl::hash::hash(openssl::hash::MessageDigest::md5(), &name.raw);
    let old = digest.map_or(canonical, |d| u32::from_le_bytes([d[0], d[1], d[2], d[3]]));
    [format!("{canonical:08x}"), format!("{old:08x}")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::Asn1Type;

    fn name(entries: &[(&str, &str)]) -> Name {
        let mut builder = X509Name::builder().unwrap();
        for (key, value) in entries {
            builder.append_entry_by_text_with_type(key, value, Asn1Type::UTF8STRING).unwrap();
        }
        Name::parse(&builder.build().to_der().unwrap()).unwrap()
    }

    #[test]
    fn one_line_form_is_that_of_openssl() {
        let n =
            name(&[("C", "XX"), ("DC", "org"), ("UID", "u1"), ("CN", "Jürgen"), ("emailAddress", "j@x.org")]);
        assert_eq!(n.as_str(), r"/C=XX/DC=org/UID=u1/CN=J\xC3\xBCrgen/emailAddress=j@x.org");
        assert!(n.dn().is_ok());
    }

    #[test]
    fn a_value_cannot_pose_as_another_component() {
        let one = name(&[("CN", "Alice/CN=Bob")]);
        let two = name(&[("CN", "Alice"), ("CN", "Bob")]);
        assert_eq!((one.as_str(), two.as_str()), (r"/CN=Alice\/CN=Bob", "/CN=Alice/CN=Bob"));
        assert_eq!(name(&[("CN", "a+b")]).as_str(), r"/CN=a\+b");
    }

    #[test]
    fn a_proxy_adds_exactly_one_common_name() {
        let user = name(&[("O", "Grid"), ("CN", "Alice")]);
        let proxy = name(&[("O", "Grid"), ("CN", "Alice"), ("CN", "123")]);
        assert_eq!(proxy.added_common_name(&user), Some(&b"123"[..]));
        for bad in [
            name(&[("O", "Grid"), ("CN", "Bob"), ("CN", "123")]),
            name(&[("O", "Grid"), ("CN", "Alice"), ("OU", "123")]),
            name(&[("O", "Grid"), ("CN", "Alice"), ("CN", "1"), ("CN", "2")]),
            name(&[("O", "Grid"), ("CN", "ALICE"), ("CN", "123")]),
            user.clone(),
        ] {
            assert_eq!(bad.added_common_name(&user), None, "{}", bad.as_str());
        }
    }

    #[test]
    fn string_types_matter_only_beyond_ascii() {
        let build = |kind| {
            let mut b = X509Name::builder().unwrap();
            b.append_entry_by_text_with_type("CN", "Alice", kind).unwrap();
            Name::parse(&b.build().to_der().unwrap()).unwrap()
        };
        assert_eq!(build(Asn1Type::PRINTABLESTRING), build(Asn1Type::UTF8STRING));
        assert_ne!(build(Asn1Type::PRINTABLESTRING), build(Asn1Type::T61STRING));
    }
}
