//! One certificate: what the rules need of it, read once, and which kind it is.

use crate::der::{self, Der, DerError};
use crate::name::Name;
use crate::refuse;
use crate::signature::{self, PublicKey};
use identity::{Refusal, RefusalKind};
use std::ops::Range;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Real certificates have about ten; more than this only cost time.
pub(crate) const MAX_EXTENSIONS: usize = 64;
const PCI_RFC: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.1.14);
const PCI_DRAFT: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.3536.1.222);
const VOMS: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.8005.100.100.5);
const INHERIT_ALL: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.21.1);
const INDEPENDENT: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.21.2);
const GLOBUS_LIMITED: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.3536.1.1.1.9);
/// Critical extensions whose meaning the rules take into account.
const UNDERSTOOD: [&[u8]; 6] = [
    &asn1_rs::oid!(raw 2.5.29.15), // keyUsage
    &asn1_rs::oid!(raw 2.5.29.17), // subjectAltName
    &asn1_rs::oid!(raw 2.5.29.19), // basicConstraints
    &asn1_rs::oid!(raw 2.5.29.30), // nameConstraints
    &asn1_rs::oid!(raw 2.5.29.32), // certificatePolicies
    &asn1_rs::oid!(raw 2.5.29.37), // extKeyUsage
];

/// The generations of proxy certificates; one chain uses one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// GT2: recognised by its name alone.
    Legacy,
    /// GT3: the draft's OID 1.3.6.1.4.1.3536.1.222.
    Draft,
    /// RFC 3820.
    Rfc,
}

impl Family {
    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            Family::Legacy => "legacy (GT2)",
            Family::Draft => "draft (GT3)",
            Family::Rfc => "RFC 3820",
        }
    }
}

/// What a proxy may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Language {
    /// Everything that its issuer may do.
    InheritAll,
    /// Everything but starting jobs (Globus).
    Limited,
    /// Nothing of its issuer's rights.
    Independent,
    /// A policy in a language that is not known here, as dotted OID.
    Unknown(String),
}

/// How a certificate delegates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Generation.
    pub family: Family,
    /// Policy language.
    pub language: Language,
    /// Proxies that may follow below this one.
    pub path_len: Option<u32>,
    /// The proxyCertInfo extension is critical (always true for legacy proxies, which have none).
    pub critical: bool,
    /// A policy text comes with a language that must not have one.
    pub stray_policy: bool,
}

/// The signature algorithms that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// SHA-2 with RSA (PKCS#1) or ECDSA; Ed25519.
    Strong,
    /// SHA-1.
    Sha1,
    /// MD2, MD4, MD5 and everything unknown.
    Broken,
}

/// A name constraint of a CA.
#[derive(Debug, Clone)]
pub enum Subtree {
    /// Names below this one.
    Directory(Name),
    /// A form of name that is not evaluated: DNS, mail, address.
    Other,
}

/// Permitted and excluded subtrees.
#[derive(Debug, Clone, Default)]
pub struct NameConstraints {
    /// At least one must match, if there are any.
    pub permitted: Vec<Subtree>,
    /// None may match.
    pub excluded: Vec<Subtree>,
}

/// Where the parts of the signature stand in the DER.
#[derive(Clone)]
struct Signed {
    contents: Range<usize>,
    /// Contents octets of the algorithm's OID.
    algorithm: Range<usize>,
    signature: Range<usize>,
}

impl Signed {
    fn parse(bytes: &[u8]) -> Result<Self, DerError> {
        let at = |part: &[u8]| {
            let start = part.as_ptr().addr() - bytes.as_ptr().addr();
            start..start + part.len()
        };
        let mut outer = der::only(bytes, der::SEQUENCE, "certificate")?;
        let contents = outer.take(der::SEQUENCE, "contents")?;
        let (algorithm, named) = signature::algorithm(&mut outer)?;
        let signature = der::whole_bits(outer.take(der::BIT_STRING, "signature")?, "signature")?;
        outer.end("bytes after the signature")?;
        let mut inner = Der::new(contents.body);
        inner.take(0xa0, "version is not 3")?;
        inner.take(der::INTEGER, "serial number")?;
        if signature::algorithm(&mut inner)?.1 != named {
            return Err(DerError("two signature algorithms"));
        }
        Ok(Self { contents: at(contents.raw), algorithm: at(algorithm), signature: at(signature) })
    }
}

/// A certificate, read.
#[derive(Clone)]
pub struct Cert {
    /// The DER that was read.
    pub der: Vec<u8>,
    signed: Signed,
    /// Public key.
    pub key: PublicKey,
    /// Subject.
    pub subject: Name,
    /// Issuer.
    pub issuer: Name,
    /// Contents octets of the serial number.
    pub serial: Vec<u8>,
    /// Begin of validity, seconds since the epoch.
    pub not_before: i64,
    /// End of validity, seconds since the epoch.
    pub not_after: i64,
    /// basicConstraints has cA TRUE.
    pub is_ca: bool,
    /// CAs that may follow below this one.
    pub path_len: Option<u32>,
    /// keyUsage: digitalSignature. True when the extension is absent.
    pub may_sign: bool,
    /// keyUsage: keyCertSign; `None` when the extension is absent.
    pub may_certify: Option<bool>,
    /// keyUsage: cRLSign. True when the extension is absent.
    pub may_revoke: bool,
    /// extKeyUsage allows TLS clients. True when the extension is absent.
    pub for_clients: bool,
    /// Has a subjectAltName or issuerAltName.
    pub has_alternative_names: bool,
    /// Strength of the signature on this certificate.
    pub strength: Strength,
    /// Delegation; `None` for end-entity and CA certificates.
    pub proxy: Option<Proxy>,
    /// Name constraints.
    pub constraints: Option<NameConstraints>,
    /// Contents of the VOMS extension: a sequence of attribute certificates.
    pub voms: Option<Vec<u8>>,
}

impl std::fmt::Debug for Cert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cert").field("subject", &self.subject.as_str()).finish_non_exhaustive()
    }
}

impl Cert {
    /// Reads one DER certificate with nothing after it.
    ///
    /// # Errors
    /// `Malformed` when the bytes are no X.509 v3 certificate, `Chain` for extensions that stand twice, cannot be read, or
    /// are critical and unknown.
    pub fn parse(der: &[u8]) -> Result<Self, Refusal> {
        let broken =
            |what: &str| refuse(RefusalKind::Malformed, format!("a certificate cannot be read: {what}"));
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| broken("it is not X.509"))?;
        if !rest.is_empty() {
            return Err(broken("bytes follow its end"));
        }
        let subject = Name::parse(parsed.subject.as_raw()).map_err(|e| broken(&e.to_string()))?;
        let issuer = Name::parse(parsed.issuer.as_raw()).map_err(|e| broken(&e.to_string()))?;
        let signed = Signed::parse(der).map_err(|e| broken(&e.to_string()))?;
        let key = PublicKey::parse(parsed.public_key().raw);
        let key = key.ok_or_else(|| broken("its public key is malformed"))?;
        if parsed.raw_serial().len() > 21 {
            return Err(broken("its serial number is longer than 20 bytes"));
        }
        let mut cert = Cert {
            der: der.to_vec(),
            signed,
            key,
            subject,
            issuer,
            serial: parsed.raw_serial().to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            is_ca: false,
            path_len: None,
            may_sign: true,
            may_certify: None,
            may_revoke: true,
            for_clients: true,
            has_alternative_names: false,
            strength: strength(parsed.signature_algorithm.algorithm.as_bytes()),
            proxy: None,
            constraints: None,
            voms: None,
        };
        cert.read_extensions(parsed.extensions())?;
        if cert.proxy.is_none() {
            cert.proxy = cert.legacy();
        }
        Ok(cert)
    }

    fn read_extensions(&mut self, extensions: &[X509Extension<'_>]) -> Result<(), Refusal> {
        if extensions.len() > MAX_EXTENSIONS {
            return Err(self.broken(&format!("more than {MAX_EXTENSIONS} extensions")));
        }
        for (n, extension) in extensions.iter().enumerate() {
            let oid = &extension.oid;
            if extensions[..n].iter().any(|e| e.oid == *oid) {
                return Err(self.broken(&format!("extension {oid} stands twice")));
            }
            match oid.as_bytes() {
                PCI_RFC => self.set_proxy(Family::Rfc, extension)?,
                PCI_DRAFT => self.set_proxy(Family::Draft, extension)?,
                VOMS => self.voms = Some(extension.value.to_vec()),
                other => {
                    if extension.critical && !UNDERSTOOD.contains(&other) {
                        return Err(self.broken(&format!("critical extension {oid} is unknown here")));
                    }
                    self.read_standard(extension)?;
                }
            }
        }
        Ok(())
    }

    fn read_standard(&mut self, extension: &X509Extension<'_>) -> Result<(), Refusal> {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(b) => {
                self.is_ca = b.ca;
                self.path_len = b.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.may_sign = usage.digital_signature();
                self.may_certify = Some(usage.key_cert_sign());
                self.may_revoke = usage.crl_sign();
            }
            ParsedExtension::ExtendedKeyUsage(usage) => self.for_clients = usage.any || usage.client_auth,
            ParsedExtension::SubjectAlternativeName(_) | ParsedExtension::IssuerAlternativeName(_) => {
                self.has_alternative_names = true;
            }
            ParsedExtension::NameConstraints(c) => {
                let read =
                    |trees: &Option<Vec<_>>| trees.iter().flatten().map(subtree).collect::<Result<_, _>>();
                let permitted = read(&c.permitted_subtrees).map_err(|e| self.broken(&e.to_string()))?;
                let excluded = read(&c.excluded_subtrees).map_err(|e| self.broken(&e.to_string()))?;
                self.constraints = Some(NameConstraints { permitted, excluded });
            }
            ParsedExtension::ParseError { .. } if extension.critical => {
                return Err(self.broken(&format!("extension {} cannot be read", extension.oid)));
            }
            _ if UNDERSTOOD[..4].contains(&extension.oid.as_bytes()) => {
                return Err(self.broken(&format!("extension {} cannot be read", extension.oid)));
            }
            _ => {}
        }
        Ok(())
    }

    fn set_proxy(&mut self, family: Family, extension: &X509Extension<'_>) -> Result<(), Refusal> {
        if self.proxy.is_some() {
            return Err(self.broken("it has a proxyCertInfo of RFC 3820 and one of the GT3 draft"));
        }
        let info = proxy_cert_info(extension.value, family, extension.critical);
        let info = info.map_err(|e| self.broken(&format!("proxyCertInfo: {e}")))?;
        self.proxy = Some(info);
        Ok(())
    }

    fn legacy(&self) -> Option<Proxy> {
        let cn = self.subject.added_common_name(&self.issuer)?.to_ascii_lowercase();
        let language = match cn.as_slice() {
            b"proxy" => Language::InheritAll,
            b"limited proxy" => Language::Limited,
            _ => return None,
        };
        Some(Proxy { family: Family::Legacy, language, path_len: None, critical: true, stray_policy: false })
    }

    fn broken(&self, what: &str) -> Refusal {
        refuse(
            RefusalKind::Chain,
            format!("certificate {}: {what}; have it issued anew", self.subject.as_str()),
        )
    }

    /// The kind, for messages.
    pub fn kind(&self) -> &'static str {
        match (&self.proxy, self.is_ca) {
            (Some(_), _) => "proxy",
            (None, true) => "CA certificate",
            (None, false) => "end-entity certificate",
        }
    }

    /// Kind and subject, for messages.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind(), self.subject.as_str())
    }

    /// Subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// The signature is good under that certificate's key.
    pub fn is_signed_by(&self, issuer: &Cert) -> bool {
        let Signed { contents, algorithm, signature } = &self.signed;
        let part = |range: &Range<usize>| &self.der[range.clone()];
        signature::is_good_or_sha1(&issuer.key, part(algorithm), part(contents), part(signature))
    }

    /// Whether `issuer` has the name that this certificate gives as its issuer's (RFC 5280 section 7.1).
    pub fn names_issuer(&self, issuer: &Cert) -> bool {
        self.issuer.matches(&issuer.subject)
    }

    /// The serial number in lower-case hex without leading zeros.
    pub fn serial_hex(&self) -> String {
        let hex: String = self.serial.iter().map(|b| format!("{b:02x}")).collect();
        let short = hex.trim_start_matches('0');
        if short.is_empty() { "0".to_owned() } else { short.to_owned() }
    }
}

fn subtree(tree: &x509_parser::extensions::GeneralSubtree<'_>) -> Result<Subtree, DerError> {
    match &tree.base {
        GeneralName::DirectoryName(name) => Name::parse(name.as_raw()).map(Subtree::Directory),
        _ => Ok(Subtree::Other),
    }
}

fn strength(oid: &[u8]) -> Strength {
    const STRONG: [&[u8]; 7] = [
        &asn1_rs::oid!(raw 1.2.840.113549.1.1.11),
        &asn1_rs::oid!(raw 1.2.840.113549.1.1.12),
        &asn1_rs::oid!(raw 1.2.840.113549.1.1.13),
        &asn1_rs::oid!(raw 1.2.840.10045.4.3.2),
        &asn1_rs::oid!(raw 1.2.840.10045.4.3.3),
        &asn1_rs::oid!(raw 1.2.840.10045.4.3.4),
        &asn1_rs::oid!(raw 1.3.101.112),
    ];
    const SHA1: [&[u8]; 3] = [
        &asn1_rs::oid!(raw 1.2.840.113549.1.1.5),
        &asn1_rs::oid!(raw 1.3.14.3.2.29),
        &asn1_rs::oid!(raw 1.2.840.10045.4.1),
    ];
    if STRONG.contains(&oid) {
        Strength::Strong
    } else if SHA1.contains(&oid) {
        Strength::Sha1
    } else {
        Strength::Broken
    }
}

/// Reads a proxyCertInfo (RFC 3820 section 3.8). The GT3 draft puts the path length behind the policy, tagged `[1]`;
/// old tools also wrote the RFC's order under the draft's OID, and both are read there.
pub fn proxy_cert_info(bytes: &[u8], family: Family, critical: bool) -> Result<Proxy, DerError> {
    let mut info = der::only(bytes, der::SEQUENCE, "sequence")?;
    let mut path_len = info.optional(der::INTEGER, "path length")?;
    let mut policy = info.enter(der::SEQUENCE, "policy")?;
    if family == Family::Draft && path_len.is_none() {
        let tagged = info.optional(0xa1, "path length")?;
        path_len = tagged.map(|t| Der::new(t.body).take(der::INTEGER, "path length")).transpose()?;
    }
    info.end("bytes after the policy")?;
    let oid = policy.take(der::OID, "policy language")?.body;
    let text = policy.optional(der::OCTET_STRING, "policy text")?;
    policy.end("bytes after the policy text")?;
    let language = match oid {
        INHERIT_ALL => Language::InheritAll,
        GLOBUS_LIMITED => Language::Limited,
        INDEPENDENT => Language::Independent,
        other => Language::Unknown(asn1_rs::Oid::new(other.into()).to_id_string()),
    };
    let path_len = path_len.map(|e| der::small_number(e, "path length")).transpose()?;
    Ok(Proxy { family, language, path_len, critical, stray_policy: text.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::{Asn1Object, Asn1OctetString};
    use openssl::hash::MessageDigest;
    use openssl::x509::{X509, X509Extension};

    #[test]
    fn thousands_of_extensions_are_not_looked_through() {
        let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder
            .set_serial_number(&openssl::bn::BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap())
            .unwrap();
        builder.set_not_before(&openssl::asn1::Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&openssl::asn1::Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        for n in 0..=MAX_EXTENSIONS {
            let oid = Asn1Object::from_str(&format!("1.2.3.4.{n}")).unwrap();
            let value = Asn1OctetString::new_from_bytes(b"x").unwrap();
            builder.append_extension(X509Extension::new_from_der(&oid, false, &value).unwrap()).unwrap();
        }
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let refused = Cert::parse(&builder.build().to_der().unwrap()).unwrap_err();
        assert!(refused.reason.contains("more than 64 extensions"), "{}", refused.reason);
    }
}
