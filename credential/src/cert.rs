//! One certificate: what the rules need of it, read once, and which kind it is.

use crate::constraints::NameConstraints;
use crate::der::{self, Der, DerError};
use crate::name::Name;
use crate::refuse;
use crate::signature::{self, Algorithm, Outcome, PublicKey};
use identity::{Refusal, RefusalKind};
use std::ops::Range;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Real certificates have about ten; more than this only cost time.
pub(crate) const MAX_EXTENSIONS: usize = 64;
const PCI_RFC: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.1.14);
const PCI_DRAFT: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.3536.1.222);
const VOMS: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.8005.100.100.5);
const INHERIT_ALL: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.21.1);
const INDEPENDENT: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.21.2);
const GLOBUS_LIMITED: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.3536.1.1.1.9);
const ALTERNATIVE_NAMES: &[u8] = &asn1_rs::oid!(raw 2.5.29.17);
const ISSUER_ALTERNATIVE_NAMES: &[u8] = &asn1_rs::oid!(raw 2.5.29.18);
const NAME_CONSTRAINTS: &[u8] = &asn1_rs::oid!(raw 2.5.29.30);
const DISTRIBUTION_POINTS: &[u8] = &asn1_rs::oid!(raw 2.5.29.31);
const POLICY_CONSTRAINTS: &[u8] = &asn1_rs::oid!(raw 2.5.29.36);
const NETSCAPE_TYPE: &[u8] = &asn1_rs::oid!(raw 2.16.840.1.113730.1.1);
/// Critical extensions whose meaning the rules take into account. Policies count for nobody here, so a mapping of them
/// and a ban on "any policy" change nothing.
const UNDERSTOOD: [&[u8]; 12] = [
    &asn1_rs::oid!(raw 2.5.29.15), // keyUsage
    &asn1_rs::oid!(raw 2.5.29.19), // basicConstraints
    &asn1_rs::oid!(raw 2.5.29.37), // extKeyUsage
    ALTERNATIVE_NAMES,
    NAME_CONSTRAINTS,
    DISTRIBUTION_POINTS,
    NETSCAPE_TYPE,
    POLICY_CONSTRAINTS,
    &asn1_rs::oid!(raw 2.5.29.32),            // certificatePolicies
    &asn1_rs::oid!(raw 2.5.29.33),            // policyMappings
    &asn1_rs::oid!(raw 2.5.29.54),            // inhibitAnyPolicy
    &asn1_rs::oid!(raw 1.3.6.1.5.5.7.48.1.5), // OCSP no check
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

/// Where the parts of the signature stand in the DER.
#[derive(Clone)]
struct Signed {
    contents: Range<usize>,
    signature: Range<usize>,
    algorithm: Algorithm,
    is_v3: bool,
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
        let version = inner.optional(0xa0, "version")?;
        inner.take(der::INTEGER, "serial number")?;
        if signature::algorithm(&mut inner)?.1 != named {
            return Err(DerError("two signature algorithms"));
        }
        let is_v3 = version.is_some_and(|v| v.body == [der::INTEGER, 1, 2]);
        Ok(Self { contents: at(contents.raw), signature: at(signature), algorithm, is_v3 })
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
    /// X.509 version 3: older ones have no extensions.
    pub is_v3: bool,
    /// basicConstraints has cA TRUE.
    pub is_ca: bool,
    /// basicConstraints is there, whatever it says.
    has_basic_constraints: bool,
    /// CAs that may follow below this one.
    pub path_len: Option<u32>,
    /// keyUsage: digitalSignature. True when the extension is absent.
    pub may_sign: bool,
    /// keyUsage: keyCertSign; `None` when the extension is absent.
    pub may_certify: Option<bool>,
    /// keyUsage: cRLSign. True when the extension is absent.
    pub may_revoke: bool,
    /// extKeyUsage and nsCertType allow TLS clients. True where they are absent.
    pub for_clients: bool,
    /// Has a subjectAltName or issuerAltName.
    pub has_alternative_names: bool,
    /// Contents of subjectAltName.
    pub alternative_names: Option<Vec<u8>>,
    /// Contents of cRLDistributionPoints.
    pub distribution_points: Option<Vec<u8>>,
    /// How this certificate is signed.
    pub algorithm: Algorithm,
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
            key,
            subject,
            issuer,
            serial: parsed.raw_serial().to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            is_v3: signed.is_v3,
            is_ca: false,
            has_basic_constraints: false,
            path_len: None,
            may_sign: true,
            may_certify: None,
            may_revoke: true,
            for_clients: true,
            has_alternative_names: false,
            alternative_names: None,
            distribution_points: None,
            algorithm: signed.algorithm.clone(),
            proxy: None,
            constraints: None,
            voms: None,
            signed,
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
        let value = extension.value;
        let unreadable = |s: &Self| s.broken(&format!("extension {} cannot be read", extension.oid));
        match extension.oid.as_bytes() {
            ALTERNATIVE_NAMES => {
                self.has_alternative_names = true;
                self.alternative_names = Some(value.to_vec());
            }
            ISSUER_ALTERNATIVE_NAMES => self.has_alternative_names = true,
            DISTRIBUTION_POINTS => self.distribution_points = Some(value.to_vec()),
            NETSCAPE_TYPE => {
                // the first bit of the string stands for TLS clients
                let bits = Der::new(value).take(der::BIT_STRING, "type").map_err(|_| unreadable(self))?.body;
                self.for_clients &= bits.get(1).is_some_and(|b| b & 0x80 != 0);
            }
            POLICY_CONSTRAINTS if extension.critical => {
                let mut limits = der::only(value, der::SEQUENCE, "limits").map_err(|_| unreadable(self))?;
                if limits.optional(0x80, "limit").map_err(|_| unreadable(self))?.is_some() {
                    return Err(self.broken("it demands certificate policies, which are not judged here"));
                }
            }
            NAME_CONSTRAINTS => {
                let read = NameConstraints::parse(value).map_err(|e| self.broken(&e.to_string()))?;
                self.constraints = Some(read);
            }
            _ => self.read_usage(extension)?,
        }
        Ok(())
    }

    fn read_usage(&mut self, extension: &X509Extension<'_>) -> Result<(), Refusal> {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(b) => {
                self.has_basic_constraints = true;
                self.is_ca = b.ca;
                self.path_len = b.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.may_sign = usage.digital_signature();
                self.may_certify = Some(usage.key_cert_sign());
                self.may_revoke = usage.crl_sign();
            }
            ParsedExtension::ExtendedKeyUsage(usage) => self.for_clients &= usage.any || usage.client_auth,
            // what the rules go by must be readable, critical or not
            _ if UNDERSTOOD[..3].contains(&extension.oid.as_bytes()) => {
                return Err(self.broken(&format!("extension {} cannot be read", extension.oid)));
            }
            ParsedExtension::ParseError { .. } if extension.critical => {
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

    /// What becomes of the signature under that certificate's key.
    pub fn signature_by(&self, issuer: &Cert) -> Outcome {
        let part = |range: &Range<usize>| &self.der[range.clone()];
        let (contents, signature) = (part(&self.signed.contents), part(&self.signed.signature));
        signature::check(&issuer.key, &self.algorithm, contents, signature)
    }

    /// The signature is good under that certificate's key.
    pub fn is_signed_by(&self, issuer: &Cert) -> bool {
        self.signature_by(issuer) == Outcome::Good
    }

    /// Whether `issuer` has the name that this certificate gives as its issuer's (RFC 5280 section 7.1).
    pub fn names_issuer(&self, issuer: &Cert) -> bool {
        self.issuer == issuer.subject
    }

    /// Whether it may issue certificates as an intermediate CA.
    pub fn is_authority(&self) -> bool {
        self.is_v3 && self.is_ca && self.may_certify != Some(false) && self.proxy.is_none()
    }

    /// Whether it may issue certificates as an installed root. Roots from before RFC 5280 have no basicConstraints: version 1
    /// cannot say that it is a CA, version 3 may say so by keyUsage alone.
    pub fn is_anchor(&self) -> bool {
        let says_so = !self.is_v3 || self.may_certify == Some(true);
        let silent = !self.has_basic_constraints && says_so && self.proxy.is_none();
        self.is_self_issued() && (silent || self.is_authority())
    }

    /// The serial number in lower-case hex without leading zeros.
    pub fn serial_hex(&self) -> String {
        let hex = hex::encode(&self.serial);
        let short = hex.trim_start_matches('0');
        if short.is_empty() { "0".to_owned() } else { short.to_owned() }
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
    use harness::pki::build::{self, Certificate, Extension, Kind};

    #[test]
    fn thousands_of_extensions_are_not_looked_through() {
        let key = build::key(Kind::P256, 0).unwrap();
        let name = build::dn(&[("CN", "Alice")]);
        let many =
            (0..=MAX_EXTENSIONS).map(|n| Extension(format!("1.2.3.4.{n}").leak(), false, b"x".to_vec()));
        let made = Certificate { extensions: many.collect(), ..Certificate::person(&name, &name, &key) };
        let refused = Cert::parse(&made.der(&key).unwrap()).unwrap_err();
        assert!(refused.reason.contains("more than 64 extensions"), "{}", refused.reason);
    }
}
