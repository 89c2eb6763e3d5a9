//! Revocation lists (RFC 5280 section 5), read without building a list of their entries: real ones hold 100 000.

use crate::cert::Cert;
use crate::constraints::GeneralName;
use crate::der::{self, Der, DerError, Element};
use crate::name::Name;
use crate::signature::{self, Algorithm, Outcome};

const AUTHORITY_KEY: &[u8] = &asn1_rs::oid!(raw 2.5.29.35);
const DELTA: &[u8] = &asn1_rs::oid!(raw 2.5.29.27);
const ISSUING_DISTRIBUTION_POINT: &[u8] = &asn1_rs::oid!(raw 2.5.29.28);

/// A revocation list over bytes that live elsewhere.
#[derive(Debug, Clone)]
pub struct Crl<'a> {
    signed: &'a [u8],
    /// How the list is signed.
    pub algorithm: Algorithm,
    signature: &'a [u8],
    /// Its issuer.
    pub issuer: Name,
    /// Seconds since the epoch.
    pub this_update: i64,
    /// Seconds since the epoch; RFC 5280 demands it.
    pub next_update: Option<i64>,
    entries: Der<'a>,
    scope: Scope<'a>,
}

/// Why a list is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// The bytes are no revocation list, or only a part of one.
    #[error("{0}")]
    Malformed(#[from] DerError),
    /// A list that this verifier must not go by.
    #[error("{0}")]
    Unusable(&'static str),
}

/// For which certificates a list speaks.
#[derive(Debug, Clone, Copy, Default)]
struct Scope<'a> {
    only_users: bool,
    only_authorities: bool,
    /// Contents of the DistributionPointName.
    point: Option<&'a [u8]>,
}

impl<'a> Crl<'a> {
    /// Reads one DER CertificateList with nothing after it.
    ///
    /// # Errors
    /// Also for lists that say less than everything about a certificate: deltas, indirect ones, those of some reasons
    /// or for attribute certificates only, and those with critical extensions that are unknown here.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CrlError> {
        let mut outer = der::only(bytes, der::SEQUENCE, "CRL")?;
        let signed = outer.take(der::SEQUENCE, "CRL contents")?;
        let (algorithm, raw_algorithm) = signature::algorithm(&mut outer)?;
        let signature = der::whole_bits(outer.take(der::BIT_STRING, "CRL signature")?, "CRL signature")?;
        outer.end("bytes after the CRL signature")?;
        let mut list = Der::new(signed.body);
        list.optional(der::INTEGER, "CRL version")?;
        if signature::algorithm(&mut list)?.1 != raw_algorithm {
            return Err(DerError("CRL names two signature algorithms").into());
        }
        let issuer = Name::parse(list.take(der::SEQUENCE, "CRL issuer")?.raw)?;
        let this_update = der::time(list.any("CRL thisUpdate")?, "CRL thisUpdate")?;
        let next_update = match list.peek() {
            Some(0x17 | 0x18) => Some(der::time(list.any("CRL nextUpdate")?, "CRL nextUpdate")?),
            _ => None,
        };
        let entries = list.optional(der::SEQUENCE, "CRL entries")?;
        let entries = Der::new(entries.map_or(&[], |e| e.body));
        let scope = match list.optional(0xa0, "CRL extensions")? {
            Some(extensions) => scope(extensions)?,
            None => Scope::default(),
        };
        list.end("bytes after the CRL extensions")?;
        let signed = signed.raw;
        Ok(Self { signed, algorithm, signature, issuer, this_update, next_update, entries, scope })
    }

    /// What becomes of the signature under the CA's key. Whether that CA may sign lists is another question.
    pub fn signature_by(&self, ca: &Cert) -> Outcome {
        signature::check(&ca.key, &self.algorithm, self.signed, self.signature)
    }

    /// Whether the CA signed this list and may do so.
    pub fn is_signed_by(&self, ca: &Cert) -> bool {
        ca.may_revoke && self.signature_by(ca) == Outcome::Good
    }

    /// Whether this list speaks for that certificate (RFC 5280 section 6.3.3 (b); OpenSSL's error 44 if not).
    ///
    /// # Errors
    /// The reason why not.
    pub fn covers(&self, cert: &Cert) -> Result<(), &'static str> {
        if self.scope.only_users && cert.is_ca {
            return Err("it covers only the certificates of users");
        }
        if self.scope.only_authorities && !cert.is_ca {
            return Err("it covers only the certificates of CAs");
        }
        let Some(point) = self.scope.point else { return Ok(()) };
        let mine = point_names(point, &self.issuer).map_err(|_| "its distribution point cannot be read")?;
        let theirs = cert.distribution_points.as_deref().map(|value| points_of(value, &self.issuer));
        let theirs =
            theirs.transpose().map_err(|_| "the certificate's distribution points cannot be read")?;
        let is_named = theirs.unwrap_or_default().iter().any(|name| mine.contains(name));
        is_named.then_some(()).ok_or("it covers only the certificates of another distribution point")
    }

    /// Whether the serial number (contents octets) is listed. Every entry is read: one with a critical extension spoils the
    /// list (RFC 5280 section 5.3), since it may mean another issuer's certificates.
    pub fn lists(&self, serial: &[u8]) -> Result<bool, CrlError> {
        let mut entries = self.entries;
        let mut listed = false;
        while !entries.is_empty() {
            let mut entry = entries.enter(der::SEQUENCE, "CRL entry")?;
            listed |= entry.take(der::INTEGER, "CRL entry's serial number")?.body == serial;
            entry.any("CRL entry's date")?;
            if let Some(extensions) = entry.optional(der::SEQUENCE, "CRL entry's extensions")? {
                refuse_critical(Der::new(extensions.body))?;
            }
            entry.end("bytes after a CRL entry")?;
        }
        Ok(listed)
    }
}

/// One extension: type, critical, value.
fn extension<'a>(list: &mut Der<'a>) -> Result<(&'a [u8], bool, &'a [u8]), DerError> {
    let mut extension = list.enter(der::SEQUENCE, "CRL extension")?;
    let oid = extension.take(der::OID, "CRL extension")?.body;
    let critical = extension.optional(der::BOOLEAN, "CRL extension")?.is_some_and(|b| b.body != [0]);
    let value = extension.take(der::OCTET_STRING, "CRL extension")?.body;
    extension.end("bytes after a CRL extension")?;
    Ok((oid, critical, value))
}

fn refuse_critical(mut extensions: Der<'_>) -> Result<(), CrlError> {
    while !extensions.is_empty() {
        if extension(&mut extensions)?.1 {
            return Err(CrlError::Unusable("an entry has a critical extension that is unknown here"));
        }
    }
    Ok(())
}

fn scope<'a>(wrapper: Element<'a>) -> Result<Scope<'a>, CrlError> {
    let mut extensions = der::only(wrapper.body, der::SEQUENCE, "CRL extensions")?;
    let mut scope = None;
    while !extensions.is_empty() {
        match extension(&mut extensions)? {
            (ISSUING_DISTRIBUTION_POINT, _, value) => {
                if scope.replace(issuing_point(value)?).is_some() {
                    return Err(CrlError::Unusable("it has two issuing distribution points"));
                }
            }
            (DELTA, ..) => return Err(CrlError::Unusable("it is a delta, which says only what has changed")),
            (AUTHORITY_KEY, ..) | (_, false, _) => {}
            _ => return Err(CrlError::Unusable("it has a critical extension that is unknown here")),
        }
    }
    Ok(scope.unwrap_or_default())
}

/// IssuingDistributionPoint (RFC 5280 section 5.2.5).
fn issuing_point(value: &[u8]) -> Result<Scope<'_>, CrlError> {
    const WHAT: &str = "CRL's issuing distribution point";
    let mut list = der::only(value, der::SEQUENCE, WHAT)?;
    let point = list.optional(0xa0, WHAT)?.map(|e| e.body);
    let flag = |list: &mut Der<'_>, tag| -> Result<bool, DerError> {
        Ok(list.optional(tag, WHAT)?.is_some_and(|b| b.body != [0]))
    };
    let (only_users, only_authorities) = (flag(&mut list, 0x81)?, flag(&mut list, 0x82)?);
    if list.optional(0x83, WHAT)?.is_some() {
        return Err(CrlError::Unusable("it covers only some reasons"));
    }
    if flag(&mut list, 0x84)? {
        return Err(CrlError::Unusable("it is indirect: it lists certificates of other issuers"));
    }
    if flag(&mut list, 0x85)? {
        return Err(CrlError::Unusable("it covers only attribute certificates"));
    }
    list.end(WHAT)?;
    if only_users && only_authorities {
        return Err(CrlError::Unusable("it covers only users and only CAs, hence nothing"));
    }
    Ok(Scope { only_users, only_authorities, point })
}

/// The names in the contents of a DistributionPointName; a relative one is completed with the issuer's name.
fn point_names(contents: &[u8], issuer: &Name) -> Result<Vec<GeneralName>, DerError> {
    let mut choice = Der::new(contents);
    let element = choice.any("distribution point")?;
    choice.end("distribution point")?;
    match element.tag {
        0xa0 => GeneralName::parse_all(Der::new(element.body)),
        0xa1 => {
            let name = issuer.below(&der::element(der::SET, element.body))?;
            Ok(vec![GeneralName::Directory(Box::new(name))])
        }
        _ => Err(DerError("distribution point")),
    }
}

/// The names of a certificate's distribution points (RFC 5280 section 4.2.1.13) that hold lists of this issuer for all
/// reasons.
fn points_of(value: &[u8], issuer: &Name) -> Result<Vec<GeneralName>, DerError> {
    const WHAT: &str = "distribution point";
    let mut list = der::only(value, der::SEQUENCE, WHAT)?;
    let mut found = Vec::new();
    while !list.is_empty() {
        let mut point = list.enter(der::SEQUENCE, WHAT)?;
        let name = point.optional(0xa0, WHAT)?;
        let some_reasons = point.optional(0x81, WHAT)?.is_some();
        let others = match point.optional(0xa2, WHAT)? {
            Some(issuers) => GeneralName::parse_all(Der::new(issuers.body))?
                .iter()
                .all(|n| !matches!(n, GeneralName::Directory(name) if **name == *issuer)),
            None => false,
        };
        point.end(WHAT)?;
        if let Some(name) = name.filter(|_| !some_reasons && !others) {
            found.extend(point_names(name.body, issuer)?);
        }
    }
    Ok(found)
}
