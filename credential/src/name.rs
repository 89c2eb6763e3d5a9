//! Distinguished names: compared by RFC 5280 section 7.1, shown in OpenSSL's one-line form.

use crate::der::{self, Der, DerError};
use identity::Dn;
use md5::{Digest, Md5};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

const COMMON_NAME: &[u8] = &asn1_rs::oid!(raw 2.5.4.3);
const EMAIL: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.9.1);
const BIT_STRING: u8 = 0x03;
const UTF8: u8 = 0x0c;
const NUMERIC: u8 = 0x12;
const PRINTABLE: u8 = 0x13;
const T61: u8 = 0x14;
const IA5: u8 = 0x16;
const UNIVERSAL: u8 = 0x1c;
const BMP: u8 = 0x1e;

#[derive(Debug, Clone)]
struct Attribute {
    oid: Vec<u8>,
    tag: u8,
    value: Vec<u8>,
}

impl Attribute {
    /// The value as OpenSSL shows it: its contents octets, without the count of unused bits of a BIT STRING.
    fn shown(&self) -> &[u8] {
        match self.tag {
            BIT_STRING => self.value.get(1..).unwrap_or_default(),
            _ => &self.value,
        }
    }

    /// The pair of type and value, for comparison.
    fn canonical(&self) -> Result<Vec<u8>, DerError> {
        let (tag, value) = match self.text()? {
            Some(text) => (UTF8, folded(&text).into_bytes()),
            None => (self.tag, self.value.clone()),
        };
        let pair = [der::element(der::OID, &self.oid), der::element(tag, &value)].concat();
        Ok(der::element(der::SEQUENCE, &pair))
    }

    /// The text of a string; `None` for values that are compared byte by byte.
    ///
    /// # Errors
    /// For strings that do not hold what their type says, and for types that names do not have.
    fn text(&self) -> Result<Option<String>, DerError> {
        let wrong = DerError("name attribute value");
        let points = |size: usize| {
            let code = |unit: &[u8]| char::from_u32(unit.iter().fold(0, |n, b| (n << 8) | u32::from(*b)));
            let whole = self.value.len().is_multiple_of(size);
            whole.then(|| self.value.chunks(size).map(code).collect::<Option<String>>()).flatten()
        };
        match self.tag {
            UTF8 => String::from_utf8(self.value.clone()).map(Some).map_err(|_| wrong),
            PRINTABLE | IA5 | T61 => points(1).map(Some).ok_or(wrong),
            BMP => points(2).map(Some).ok_or(wrong),
            UNIVERSAL => points(4).map(Some).ok_or(wrong),
            NUMERIC => Ok(None),
            BIT_STRING if has_clean_padding(&self.value) => Ok(None),
            _ => Err(wrong),
        }
    }
}

/// A distinguished name.
///
/// Two are equal by RFC 5280 section 7.1 as OpenSSL reads it: letter case of ASCII, runs of blanks and the string type do
/// not count. CAs and tools write one name in several ways: a proxy made by Java below a certificate made in 2003 has T61
/// and UTF-8 side by side.
#[derive(Debug, Clone)]
pub struct Name {
    raw: Vec<u8>,
    rdns: Vec<Vec<Attribute>>,
    one_line: String,
    /// Each component in the form in which names are compared.
    canonical: Vec<Vec<u8>>,
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Name {}

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
        let (one_line, canonical) = (one_line(&rdns), canonical(&rdns)?);
        Ok(Self { raw: raw.to_vec(), rdns, one_line, canonical })
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
    pub fn dn(&self) -> Result<Dn, identity::Malformed> {
        Dn::parse(&self.one_line)
    }

    /// The common name that this name adds to `parent`: exactly one component that holds exactly one CN.
    pub fn added_common_name(&self, parent: &Name) -> Option<&[u8]> {
        let (_, front) = self.canonical.split_last()?;
        self.last_common_name().filter(|_| front == parent.canonical)
    }

    /// The value of the last component if that is a single CN.
    pub fn last_common_name(&self) -> Option<&[u8]> {
        match self.rdns.last()?.as_slice() {
            [one] if one.oid == COMMON_NAME => Some(&one.value),
            _ => None,
        }
    }

    /// This name with one more component, given as DER.
    pub fn below(&self, component: &[u8]) -> Result<Name, DerError> {
        let mut outer = Der::new(&self.raw);
        let components = outer.take(der::SEQUENCE, "name")?.body;
        Name::parse(&der::element(der::SEQUENCE, &[components, component].concat()))
    }

    /// Whether this is the empty name.
    pub fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }

    /// OpenSSL's hash of the name, which files in the CA directory are called by.
    pub fn hash(&self) -> u32 {
        first_four(digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.canonical.concat()).as_ref())
    }

    /// Whether this name is `base` or lies below it (directoryName constraints, RFC 5280 section 4.2.1.10).
    pub fn is_within(&self, base: &Name) -> bool {
        self.canonical.starts_with(&base.canonical)
    }

    /// The texts of all common names.
    pub fn common_names(&self) -> Vec<String> {
        self.texts(COMMON_NAME)
    }

    /// The texts of all emailAddress attributes.
    pub fn emails(&self) -> Vec<String> {
        self.texts(EMAIL)
    }

    fn texts(&self, oid: &[u8]) -> Vec<String> {
        let mine = self.rdns.iter().flatten().filter(|a| a.oid == oid);
        mine.filter_map(|a| a.text().ok().flatten()).collect()
    }
}

/// The form that `X509_NAME_oneline(3)` of OpenSSL 3 gives: short names, numeric OIDs for unknown types, `\xHH` for other
/// bytes, `+` within a component of several attributes. A `/` or `+` in a value has a backslash and a backslash is `\x5C`: else
/// `CN=a/CN=b` could be one name or another.
fn one_line(rdns: &[Vec<Attribute>]) -> String {
    let mut line = String::new();
    for rdn in rdns {
        for (n, attribute) in rdn.iter().enumerate() {
            line.push(if n == 0 { '/' } else { '+' });
            match identity::attribute_type::short_name(&attribute.oid) {
                Some(short) => line.push_str(short),
                None => line.push_str(&asn1_rs::Oid::new(attribute.oid.as_slice().into()).to_id_string()),
            }
            line.push('=');
            for byte in attribute.shown() {
                match byte {
                    b'/' | b'+' => line.extend(['\\', char::from(*byte)]),
                    // Else a name could write escapes of its own, and pose as another.
                    b'\\' => line.push_str("\\x5C"),
                    b' '..=b'~' => line.push(char::from(*byte)),
                    other => line.push_str(&format!("\\x{other:02X}")),
                }
            }
        }
    }
    line
}

/// The form in which OpenSSL compares and hashes names: components in DER, their texts in UTF-8, lower case (of ASCII)
/// and with single blanks, no outer SEQUENCE.
fn canonical(rdns: &[Vec<Attribute>]) -> Result<Vec<Vec<u8>>, DerError> {
    let one = |rdn: &Vec<Attribute>| {
        let mut pairs = rdn.iter().map(Attribute::canonical).collect::<Result<Vec<_>, _>>()?;
        pairs.sort();
        Ok(der::element(der::SET, &pairs.concat()))
    };
    rdns.iter().map(one).collect()
}

/// Whether the unused bits of a BIT STRING are zero, as DER wants them.
fn has_clean_padding(contents: &[u8]) -> bool {
    match contents {
        [unused @ 0..8, .., last] => last.trailing_zeros() >= u32::from(*unused),
        [unused] => *unused == 0,
        _ => false,
    }
}

/// Lower case, no blanks at the ends, one blank for several.
fn folded(text: &str) -> String {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let words: Vec<_> = text.split(is_blank).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_ascii_lowercase()
}

fn first_four(digest: &[u8]) -> u32 {
    digest.first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

/// The first eight hexadecimal digits that name a CA's files: today's hash and the one of OpenSSL before 1.0.
pub fn file_hashes(name: &Name) -> [String; 2] {
    let old = first_four(&Md5::digest(&name.raw));
    [format!("{:08x}", name.hash()), format!("{old:08x}")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::Asn1Type;
    use openssl::x509::{X509, X509Name};

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
    fn attribute_types_are_those_of_openssl() {
        use openssl::asn1::Asn1Object;
        for (arc, dotted) in [
            (&asn1_rs::oid!(raw 2.5.4)[..], "2.5.4"),
            (&asn1_rs::oid!(raw 0.9.2342.19200300.100.1), "0.9.2342.19200300.100.1"),
            (&asn1_rs::oid!(raw 1.2.840.113549.1.9), "1.2.840.113549.1.9"),
            (&asn1_rs::oid!(raw 1.3.6.1.4.1.311.60.2.1), "1.3.6.1.4.1.311.60.2.1"),
            (&asn1_rs::oid!(raw 1.2.643.100), "1.2.643.100"),
        ] {
            for last in 0..128u8 {
                let nid = Asn1Object::from_str(&format!("{dotted}.{last}")).unwrap().nid();
                let theirs =
                    Some(nid).filter(|n| *n != openssl::nid::Nid::UNDEF).map(|n| n.short_name().unwrap());
                let ours = identity::attribute_type::short_name(&[arc, &[last]].concat());
                assert_eq!(ours, theirs, "{dotted}.{last}");
            }
        }
        assert_eq!(identity::attribute_type::short_name(&asn1_rs::oid!(raw 1.3.6.1.4.1.8005.100)), None);
    }

    #[test]
    fn a_value_cannot_pose_as_another_component() {
        let one = name(&[("CN", "Alice/CN=Bob")]);
        let two = name(&[("CN", "Alice"), ("CN", "Bob")]);
        assert_eq!((one.as_str(), two.as_str()), (r"/CN=Alice\/CN=Bob", "/CN=Alice/CN=Bob"));
        assert_eq!(name(&[("CN", "a+b")]).as_str(), r"/CN=a\+b");
        let (one, two) = (name(&[("CN", r"a\"), ("CN", "b")]), name(&[("CN", "a/CN=b")]));
        assert_ne!(one.as_str(), two.as_str());
        assert_ne!(name(&[("CN", r"\xC3")]).as_str(), name(&[("CN", "\u{c3}")]).as_str());
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
            name(&[("O", "Grid"), ("CN", "Alice A"), ("CN", "123")]),
            user.clone(),
        ] {
            assert_eq!(bad.added_common_name(&user), None, "{}", bad.as_str());
        }
    }

    /// One name as Java, OpenSSL and CAs of different years write it.
    #[test]
    fn a_name_in_another_string_type_case_or_spacing_is_the_same_name() {
        let alice =
            |tag: u8, value: &[u8]| Name::parse(&der::element(der::SEQUENCE, &component(&[(3, tag, value)])));
        let plain = alice(UTF8, "Jürgen Müller".as_bytes()).unwrap();
        let wide: Vec<u8> = "Jürgen Müller".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let universal: Vec<u8> = "Jürgen Müller".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
        for (tag, value) in [
            (T61, b"J\xfcrgen M\xfcller".to_vec()),
            (BMP, wide),
            (UNIVERSAL, universal),
            (UTF8, "  jürgen \t MÜLLER ".replace('Ü', "ü").into_bytes()),
        ] {
            let other = alice(tag, &value).unwrap();
            assert_eq!(other, plain, "{tag:#x}");
            assert!(other.is_within(&plain) && plain.is_within(&other), "{tag:#x}");
            let proxy = [component(&[(3, tag, &value)]), component(&[(3, PRINTABLE, b"1")])].concat();
            let proxy = Name::parse(&der::element(der::SEQUENCE, &proxy)).unwrap();
            assert_eq!(proxy.added_common_name(&plain), Some(&b"1"[..]), "{tag:#x}");
        }
        assert_ne!(alice(T61, b"Jurgen").unwrap(), plain);
        let two = component(&[(3, UTF8, b"a"), (11, UTF8, b"b")]);
        let swapped = component(&[(11, PRINTABLE, b"B"), (3, PRINTABLE, b"A")]);
        let [one, other] = [two, swapped].map(|n| Name::parse(&der::element(der::SEQUENCE, &n)).unwrap());
        assert_eq!(one, other, "a component of two attributes has no order");
    }

    /// `SET OF` one component from pairs of the last number of an X.520 type, a tag and a value.
    fn component(pairs: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let pair = |(number, tag, value): &(u8, u8, &[u8])| {
            let oid = der::element(der::OID, &[0x55, 4, *number]);
            der::element(der::SEQUENCE, &[oid, der::element(*tag, value)].concat())
        };
        let mut pairs: Vec<_> = pairs.iter().map(pair).collect();
        pairs.sort();
        der::element(der::SET, &pairs.concat())
    }

    /// What OpenSSL makes of the name: its hash.
    fn hash_by_openssl(raw: &[u8]) -> Option<u32> {
        let mut carrier = X509::builder().unwrap();
        carrier.set_subject_name(&*X509Name::from_der(raw).ok()?).ok()?;
        Some(carrier.build().subject_name_hash())
    }

    #[test]
    fn hashes_and_refusals_are_those_of_openssl() {
        let values: [&[u8]; 10] = [
            b"",
            b" ",
            b"Alice  B\tC ",
            b"  A\x0bB\n",
            b"J\xc3\xbcrgen M\xc3\x9cLLER",
            b"J\xfcrgen",
            b"\0A\0l\0 \0 \0B",
            b"\0\0\0A\0\0\x20\xac",
            b"\xd8\x00\xdc\x00",
            b"\x07\x80\x81",
        ];
        let mut judged = 0;
        for tag in
            [BIT_STRING, UTF8, NUMERIC, PRINTABLE, T61, IA5, UNIVERSAL, BMP, 0x04, 0x05, 0x30, 0x17, 0x1b]
        {
            for value in values {
                let many =
                    component(&[(3, tag, value), (11, PRINTABLE, b"Ops  X"), (10, UTF8, &[b'y'; 200])]);
                for rdns in [component(&[(3, tag, value)]), [component(&[(10, tag, value)]), many].concat()] {
                    let raw = der::element(der::SEQUENCE, &rdns);
                    // We may be stricter: types that no name has.
                    if let Ok(name) = Name::parse(&raw) {
                        assert_eq!(Some(name.hash()), hash_by_openssl(&raw), "{tag:#x} {value:x?}");
                        judged += 1;
                    } else if [UTF8, PRINTABLE, IA5, T61, BMP, UNIVERSAL, NUMERIC].contains(&tag) {
                        assert_eq!(hash_by_openssl(&raw), None, "{tag:#x} {value:x?}");
                    }
                }
            }
        }
        assert!(judged > 100, "{judged}");
        assert_eq!(Some(Name::parse(&[0x30, 0]).unwrap().hash()), hash_by_openssl(&[0x30, 0]));
    }

    #[test]
    fn letter_case_and_blanks_do_not_part_names() {
        let alice = name(&[("O", "Grid  Lab"), ("CN", "Alice")]);
        assert_eq!(alice, name(&[("O", " grid lab"), ("CN", "ALICE ")]));
        assert_ne!(alice, name(&[("O", "gridlab"), ("CN", "ALICE")]));
        assert_ne!(name(&[("CN", "J\u{fc}rgen")]), name(&[("CN", "J\u{dc}rgen")]));
    }
}
