//! Revocation lists (RFC 5280 section 5), read without building a list of their entries: real ones hold 100 000.

use crate::cert::Cert;
use crate::der::{self, Der, DerError, Element};
use crate::signature;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Extension};

const ISSUING_DISTRIBUTION_POINT: &[u8] = &asn1_rs::oid!(raw 2.5.29.28);

/// A revocation list over bytes that live elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Crl<'a> {
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// DER of the issuer's name.
    pub issuer: &'a [u8],
    /// Seconds since the epoch.
    pub this_update: i64,
    /// Seconds since the epoch; RFC 5280 demands it.
    pub next_update: Option<i64>,
    entries: Der<'a>,
    scope: Scope,
}

/// For which certificates a list speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Users,
    Authorities,
}

impl<'a> Crl<'a> {
    /// Reads one DER CertificateList with nothing after it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = der::only(bytes, der::SEQUENCE, "CRL")?;
        let signed = outer.take(der::SEQUENCE, "CRL contents")?;
        let (algorithm, raw_algorithm) = signature::algorithm(&mut outer)?;
        let signature = der::whole_bits(outer.take(der::BIT_STRING, "CRL signature")?, "CRL signature")?;
        outer.end("bytes after the CRL signature")?;
        let mut list = Der::new(signed.body);
        list.optional(der::INTEGER, "CRL version")?;
        if signature::algorithm(&mut list)?.1 != raw_algorithm {
            return Err(DerError("CRL names two signature algorithms"));
        }
        let issuer = list.take(der::SEQUENCE, "CRL issuer")?.raw;
        let this_update = der::time(list.any("CRL thisUpdate")?, "CRL thisUpdate")?;
        let next_update = match list.peek() {
            Some(0x17 | 0x18) => Some(der::time(list.any("CRL nextUpdate")?, "CRL nextUpdate")?),
            _ => None,
        };
        let entries = list.optional(der::SEQUENCE, "CRL entries")?;
        let entries = Der::new(entries.map_or(&[], |e| e.body));
        let scope = match list.optional(0xa0, "CRL extensions")? {
            Some(extensions) => scope(extensions)?,
            None => Scope::All,
        };
        list.end("bytes after the CRL extensions")?;
        Ok(Self {
            signed: signed.raw,
            algorithm,
            signature,
            issuer,
            this_update,
            next_update,
            entries,
            scope,
        })
    }

    /// Whether the CA signed this list and may do so.
    pub fn is_signed_by(&self, ca: &Cert) -> bool {
        ca.may_revoke && signature::is_good(&ca.key, self.algorithm, self.signed, self.signature)
    }

    /// Whether this list speaks for certificates like that one.
    pub fn covers(&self, cert: &Cert) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Users => !cert.is_ca,
            Scope::Authorities => cert.is_ca,
        }
    }

    /// Whether the serial number (contents octets) is listed.
    pub fn lists(&self, serial: &[u8]) -> Result<bool, DerError> {
        let mut entries = self.entries;
        while !entries.is_empty() {
            let mut entry = entries.enter(der::SEQUENCE, "CRL entry")?;
            if entry.take(der::INTEGER, "CRL entry's serial number")?.body == serial {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Refuses lists that say less than everything about a certificate: delta, indirect, some reasons only.
fn scope(wrapper: Element<'_>) -> Result<Scope, DerError> {
    let mut extensions = der::only(wrapper.body, der::SEQUENCE, "CRL extensions")?;
    let mut scope = Scope::All;
    while !extensions.is_empty() {
        let raw = extensions.take(der::SEQUENCE, "CRL extension")?.raw;
        let (_, extension) = X509Extension::from_der(raw).map_err(|_| DerError("CRL extension"))?;
        match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(p) => {
                if p.indirect_crl || p.only_some_reasons.is_some() || p.only_contains_attribute_certs {
                    return Err(DerError("CRL covers only some reasons or other issuers"));
                }
                scope = match (p.only_contains_user_certs, p.only_contains_ca_certs) {
                    (true, _) => Scope::Users,
                    (false, true) => Scope::Authorities,
                    (false, false) => Scope::All,
                };
            }
            _ if extension.critical || extension.oid.as_bytes() == ISSUING_DISTRIBUTION_POINT => {
                return Err(DerError("CRL has a critical extension that is unknown here"));
            }
            _ => {}
        }
    }
    Ok(scope)
}
