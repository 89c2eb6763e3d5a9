//! The structure of an attribute certificate (RFC 5755 section 4.1) as VOMS uses it.

use crate::cert::{Cert, MAX_EXTENSIONS};
use crate::der::{self, Der, DerError, Element};
use crate::name::Name;
use crate::signature::{self, Algorithm, Outcome};
use identity::Refusal;

const FQANS: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.8005.100.100.4);
const CERTIFICATES: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.8005.100.100.10);
const NO_REVOCATION: &[u8] = &asn1_rs::oid!(raw 2.5.29.56);
const AUTHORITY_KEY: &[u8] = &asn1_rs::oid!(raw 2.5.29.35);
const TARGETS: &[u8] = &asn1_rs::oid!(raw 2.5.29.55);
/// More attribute certificates or FQANs than this are not read.
const MAX_ITEMS: usize = 256;

/// For whom the attributes were issued.
#[derive(Debug, Clone, PartialEq)]
pub enum HolderName {
    /// `baseCertificateID`.
    Certificate {
        /// Issuer of the holder's certificate (or, from old servers, its subject).
        name: Name,
        /// Contents octets of its serial number.
        serial: Vec<u8>,
    },
    /// `entityName`.
    Entity(Name),
}

/// An attribute certificate over bytes that live elsewhere.
#[derive(Debug, Clone)]
pub struct AttributeCertificate<'a> {
    signed: &'a [u8],
    /// How it is signed.
    pub algorithm: Algorithm,
    signature: &'a [u8],
    /// Holder.
    pub holder: HolderName,
    /// Issuer: the server's subject.
    pub issuer: Name,
    /// Begin of validity, seconds since the epoch.
    pub not_before: i64,
    /// End of validity, seconds since the epoch.
    pub not_after: i64,
    /// Virtual organisation, from the policy authority.
    pub vo: &'a str,
    /// The server's host, from the policy authority.
    pub host: &'a str,
    /// At least one.
    pub fqans: Vec<&'a str>,
    /// Hosts in a critical target extension.
    pub targets: Option<Vec<&'a str>>,
    certificates: Vec<&'a [u8]>,
}

/// Reads the contents of the proxy's extension: a sequence that holds the sequence of attribute certificates.
pub fn sequence(bytes: &[u8]) -> Result<Vec<AttributeCertificate<'_>>, DerError> {
    let mut outer = der::only(bytes, der::SEQUENCE, "sequence of attribute certificates")?;
    let mut list = outer.enter(der::SEQUENCE, "sequence of attribute certificates")?;
    outer.end("bytes after the attribute certificates")?;
    let mut found = Vec::new();
    while !list.is_empty() {
        if found.len() == MAX_ITEMS {
            return Err(DerError("too many attribute certificates"));
        }
        found.push(AttributeCertificate::parse(list.take(der::SEQUENCE, "attribute certificate")?)?);
    }
    if found.is_empty() { Err(DerError("no attribute certificate")) } else { Ok(found) }
}

impl<'a> AttributeCertificate<'a> {
    fn parse(element: Element<'a>) -> Result<Self, DerError> {
        let mut outer = Der::new(element.body);
        let signed = outer.take(der::SEQUENCE, "contents")?;
        let (algorithm, raw_algorithm) = signature::algorithm(&mut outer)?;
        let signature = der::whole_bits(outer.take(der::BIT_STRING, "signature")?, "signature")?;
        outer.end("bytes after the signature")?;
        let mut info = Der::new(signed.body);
        if info.take(der::INTEGER, "version")?.body != [1] {
            return Err(DerError("version is not 2"));
        }
        let holder = holder(info.enter(der::SEQUENCE, "holder")?)?;
        let issuer = issuer(info.enter(0xa0, "issuer")?)?;
        if signature::algorithm(&mut info)?.1 != raw_algorithm {
            return Err(DerError("two signature algorithms"));
        }
        let serial = info.take(der::INTEGER, "serial number")?.body;
        if serial.is_empty() || serial.len() > 21 {
            return Err(DerError("serial number is longer than 20 bytes"));
        }
        let mut validity = info.enter(der::SEQUENCE, "validity")?;
        let not_before = der::time(validity.take(0x18, "begin of validity")?, "begin of validity")?;
        let not_after = der::time(validity.take(0x18, "end of validity")?, "end of validity")?;
        validity.end("bytes after the validity")?;
        let (vo, host, fqans) = attributes(info.enter(der::SEQUENCE, "attributes")?)?;
        info.optional(der::BIT_STRING, "issuer's unique id")?;
        let extensions = extensions(info.enter(der::SEQUENCE, "extensions")?)?;
        info.end("bytes after the extensions")?;
        let Extensions { targets, certificates } = extensions;
        let signed = signed.raw;
        let certificate = Self {
            signed,
            algorithm,
            signature,
            holder,
            issuer,
            not_before,
            not_after,
            vo,
            host,
            fqans,
            targets,
            certificates,
        };
        Ok(certificate)
    }

    /// The certificates that came along, the signer's first.
    pub fn chain(&self) -> Result<Vec<Cert>, Refusal> {
        self.certificates.iter().map(|der| Cert::parse(der)).collect()
    }

    /// What becomes of the signature under that certificate's key.
    pub fn signature_by(&self, signer: &Cert) -> Outcome {
        signature::check(&signer.key, &self.algorithm, self.signed, self.signature)
    }
}

/// The only directoryName among `names`.
fn directory_name(mut names: Der<'_>, what: &'static str) -> Result<Name, DerError> {
    let name = names.enter(0xa4, what)?;
    names.end(what)?;
    let mut inner = name;
    let raw = inner.take(der::SEQUENCE, what)?.raw;
    inner.end(what)?;
    Name::parse(raw)
}

fn holder(mut holder: Der<'_>) -> Result<HolderName, DerError> {
    if let Some(base) = holder.optional(0xa0, "holder's certificate")? {
        let mut base = Der::new(base.body);
        let name = directory_name(base.enter(der::SEQUENCE, "holder's issuer")?, "holder's issuer")?;
        let serial = base.take(der::INTEGER, "holder's serial number")?.body.to_vec();
        base.optional(der::BIT_STRING, "holder's unique id")?;
        base.end("bytes after the holder's serial number")?;
        return Ok(HolderName::Certificate { name, serial });
    }
    let names = holder.take(0xa1, "holder is named neither by certificate nor by name")?;
    directory_name(Der::new(names.body), "holder's name").map(HolderName::Entity)
}

fn issuer(mut form: Der<'_>) -> Result<Name, DerError> {
    let names = form.enter(der::SEQUENCE, "issuer's name")?;
    form.end("issuer is named by more than its name")?;
    directory_name(names, "issuer's name")
}

/// VO, host and FQANs. Generic attributes travel in an extension and are not used here.
fn attributes<'a>(mut list: Der<'a>) -> Result<(&'a str, &'a str, Vec<&'a str>), DerError> {
    let mut found = None;
    while !list.is_empty() {
        let mut attribute = list.enter(der::SEQUENCE, "attribute")?;
        let oid = attribute.take(der::OID, "attribute type")?.body;
        let mut values = attribute.enter(der::SET, "attribute values")?;
        attribute.end("bytes after the attribute values")?;
        if oid != FQANS {
            continue;
        }
        if found.is_some() {
            return Err(DerError("two lists of FQANs"));
        }
        let syntax = values.enter(der::SEQUENCE, "list of FQANs")?;
        values.end("two lists of FQANs")?;
        found = Some(fqan_list(syntax)?);
    }
    found.ok_or(DerError("no FQANs"))
}

fn fqan_list<'a>(mut syntax: Der<'a>) -> Result<(&'a str, &'a str, Vec<&'a str>), DerError> {
    let mut authority = syntax.enter(0xa0, "policy authority")?;
    let uri = text(authority.take(0x86, "policy authority")?, "policy authority")?;
    authority.end("two policy authorities")?;
    let (vo, host) = split_authority(uri).ok_or(DerError("policy authority is not vo://host:port"))?;
    let mut values = syntax.enter(der::SEQUENCE, "FQANs")?;
    syntax.end("bytes after the FQANs")?;
    let mut fqans = Vec::new();
    while !values.is_empty() {
        if fqans.len() == MAX_ITEMS {
            return Err(DerError("too many FQANs"));
        }
        fqans.push(text(values.take(der::OCTET_STRING, "FQAN")?, "FQAN")?);
    }
    if fqans.is_empty() { Err(DerError("no FQANs")) } else { Ok((vo, host, fqans)) }
}

fn text<'a>(element: Element<'a>, what: &'static str) -> Result<&'a str, DerError> {
    std::str::from_utf8(element.body).map_err(|_| DerError(what))
}

/// `vo://host:port`, both parts fit to become a file name.
fn split_authority(uri: &str) -> Option<(&str, &str)> {
    let (vo, rest) = uri.split_once("://")?;
    let (host, port) = rest.rsplit_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let fits = |s: &str| (1..=253).contains(&s.len()) && s.chars().all(plain) && !s.starts_with('.');
    let numeric = !port.is_empty() && port.len() <= 5 && port.bytes().all(|c| c.is_ascii_digit());
    (fits(vo) && fits(host) && numeric).then_some((vo, host))
}

#[derive(Default)]
struct Extensions<'a> {
    targets: Option<Vec<&'a str>>,
    certificates: Vec<&'a [u8]>,
}

fn extensions(mut list: Der<'_>) -> Result<Extensions<'_>, DerError> {
    let mut read = Extensions::default();
    let mut seen: Vec<&[u8]> = Vec::new();
    while !list.is_empty() {
        let mut extension = list.enter(der::SEQUENCE, "extension")?;
        let oid = extension.take(der::OID, "extension type")?.body;
        let critical = extension.optional(der::BOOLEAN, "extension")?.is_some_and(|b| b.body != [0]);
        let value = extension.take(der::OCTET_STRING, "extension value")?.body;
        extension.end("bytes after an extension")?;
        if seen.contains(&oid) {
            return Err(DerError("an extension stands twice"));
        }
        seen.push(oid);
        if seen.len() > MAX_EXTENSIONS {
            return Err(DerError("too many extensions"));
        }
        match oid {
            TARGETS if critical => read.targets = Some(targets(value)?),
            CERTIFICATES => read.certificates = certificates(value)?,
            _ if critical => return Err(DerError("a critical extension is unknown here")),
            _ => {}
        }
    }
    if !seen.contains(&NO_REVOCATION) || !seen.contains(&AUTHORITY_KEY) {
        return Err(DerError("noRevAvail or authorityKeyIdentifier is missing"));
    }
    Ok(read)
}

fn certificates(value: &[u8]) -> Result<Vec<&[u8]>, DerError> {
    let mut outer = der::only(value, der::SEQUENCE, "server certificates")?;
    let mut list = outer.enter(der::SEQUENCE, "server certificates")?;
    outer.end("bytes after the server certificates")?;
    let mut found = Vec::new();
    while !list.is_empty() && found.len() < crate::pem::MAX_CERTIFICATES {
        found.push(list.take(der::SEQUENCE, "server certificate")?.raw);
    }
    list.end("too many server certificates")?;
    Ok(found)
}

/// The names and URIs of `Targets` (RFC 5755 section 4.3.2); VOMS nests the sequence once more.
fn targets(value: &[u8]) -> Result<Vec<&str>, DerError> {
    let mut list = der::only(value, der::SEQUENCE, "targets")?;
    let mut found = Vec::new();
    while !list.is_empty() {
        let element = list.any("target")?;
        if element.tag == der::SEQUENCE {
            let mut nested = Der::new(element.body);
            while !nested.is_empty() {
                found.push(target(nested.any("target")?)?);
            }
        } else {
            found.push(target(element)?);
        }
    }
    Ok(found)
}

/// `targetName [0] GeneralName`, where the name is a DNS name or a URI.
fn target(element: Element<'_>) -> Result<&str, DerError> {
    if element.tag != 0xa0 {
        return Err(DerError("target is not a name"));
    }
    let mut inner = Der::new(element.body);
    let name = inner.any("target")?;
    inner.end("bytes after a target")?;
    match name.tag {
        0x82 | 0x86 => text(name, "target"),
        _ => Err(DerError("target is neither host nor URI")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_authority_cannot_leave_the_voms_directory() {
        assert_eq!(split_authority("cms://voms.cern.ch:15002"), Some(("cms", "voms.cern.ch")));
        for bad in [
            "../x://h:1",
            "cms://../../etc:1",
            "cms://a/b:1",
            "cms://h",
            "://h:1",
            "cms://:1",
            ".://h:1",
            "a://h:x",
        ] {
            assert_eq!(split_authority(bad), None, "{bad}");
        }
    }

    #[test]
    fn cut_structures_are_refused() {
        assert!(sequence(&[]).is_err());
        assert!(sequence(&[0x30, 0]).is_err());
        assert!(sequence(&[0x30, 2, 0x30, 0]).is_err());
        assert!(sequence(&[0x30, 4, 0x30, 2, 0x30, 0]).is_err());
    }
}
