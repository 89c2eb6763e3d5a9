//! The credential that authenticates this host to a mapping service.

use identity::Dn;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameRef};

/// Why a credential cannot be used: one line with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("host credential: {0}")]
pub struct BadCredential(String);

/// A certificate chain, leaf first, and the key of the leaf. A proxy will do.
#[derive(Clone)]
pub struct HostCredential {
    /// Certificates, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// Key of the leaf, PKCS#8 PEM.
    pub key: Vec<u8>,
    /// Subject of the end-entity certificate, RFC 2253 order.
    pub rfc2253: String,
    /// Subject of the end-entity certificate.
    pub subject: Dn,
    /// Its issuer.
    pub issuer: Dn,
    common_name: String,
}

impl HostCredential {
    /// Reads certificates and one unencrypted key from PEM, in any order but leaf first among the certificates.
    pub fn parse(pem: &[u8]) -> Result<Self, BadCredential> {
        let bad = |what: &str| {
            BadCredential(format!("{what}; give the PEM of the certificate, its key and its chain"))
        };
        let certs = X509::stack_from_pem(pem).map_err(|_| bad("holds a damaged certificate"))?;
        let leaf = certs.first().ok_or_else(|| bad("holds no certificate"))?;
        // The callback keeps OpenSSL from asking for a pass phrase on the terminal.
        let key = PKey::<Private>::private_key_from_pem_callback(pem, |_| Ok(0))
            .map_err(|_| bad("holds no private key, or an encrypted one"))?;
        if !leaf.public_key().is_ok_and(|public| public.public_eq(&key)) {
            return Err(bad("its key belongs to another certificate"));
        }
        let person = end_entity(&certs);
        Ok(Self {
            chain: certs
                .iter()
                .map(|c| c.to_der())
                .collect::<Result<_, _>>()
                .map_err(|_| bad("cannot be encoded"))?,
            key: key.private_key_to_pem_pkcs8().map_err(|_| bad("its key cannot be encoded"))?,
            rfc2253: rfc2253(person.subject_name()),
            subject: one_line(person.subject_name()).ok_or_else(|| bad("has no usable subject"))?,
            issuer: one_line(person.issuer_name()).ok_or_else(|| bad("has no usable issuer"))?,
            common_name: last_common_name(person.subject_name()),
        })
    }

    /// Whether this is the certificate of the host itself: its common name is the host's name, perhaps after the
    /// name of a service and a slash.
    pub fn names_host(&self, host: &str) -> bool {
        let name = self.common_name.rsplit('/').next().unwrap_or_default();
        !name.is_empty() && name.eq_ignore_ascii_case(host)
    }
}

/// Subject of the end-entity certificate of a PEM chain, in the order of RFC 2253; `None` when there is none.
pub(crate) fn end_entity_rfc2253(pem: &[u8]) -> Option<String> {
    let certs = X509::stack_from_pem(pem).ok().filter(|certs| !certs.is_empty())?;
    Some(rfc2253(end_entity(&certs).subject_name()))
}

/// A name in slash form, turned into the order of RFC 2253. A slash starts a component only before `KEY=`: values
/// such as `host/wn1` hold slashes, too.
pub(crate) fn reverse_slash_form(name: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for piece in name.split('/').skip(1) {
        let key = piece.split_once('=').map_or("", |(key, _)| key);
        let starts = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.');
        match parts.last_mut() {
            Some(last) if !starts => {
                last.push('/');
                last.push_str(piece);
            }
            _ => parts.push(piece.to_owned()),
        }
    }
    parts.reverse();
    parts.join(",")
}

/// The first certificate that is no proxy of the next one: a proxy's subject is its issuer's and one more CN.
fn end_entity(certs: &[X509]) -> &X509 {
    let is_proxy = |cert: &X509, signer: &X509| {
        let (name, above) = (entries(cert.subject_name()), entries(signer.subject_name()));
        let issued = entries(cert.issuer_name()) == above;
        issued
            && name.len() == above.len() + 1
            && name.starts_with(&above)
            && name.last().is_some_and(|e| e.0 == "CN")
    };
    let mut n = 0;
    while n + 1 < certs.len() && is_proxy(&certs[n], &certs[n + 1]) {
        n += 1;
    }
    &certs[n]
}

/// Short names (or dotted numbers) and values, in the order of the certificate.
fn entries(name: &X509NameRef) -> Vec<(String, Vec<u8>)> {
    let one = |entry: &openssl::x509::X509NameEntryRef| {
        let object = entry.object();
        let short = match object.nid() {
            Nid::UNDEF => object.to_string(),
            nid => nid.short_name().map_or_else(|_| object.to_string(), str::to_owned),
        };
        (short, entry.data().as_slice().to_vec())
    };
    name.entries().map(one).collect()
}

/// The form of `X509_NAME_oneline(3)`: `/C=..`, bytes outside printable ASCII as `\xHH`.
fn one_line(name: &X509NameRef) -> Option<Dn> {
    let text: String =
        entries(name).iter().map(|(key, value)| format!("/{key}={}", printable(value))).collect();
    Dn::parse(&text).ok()
}

fn rfc2253(name: &X509NameRef) -> String {
    let special = |c: char| matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
    let escape = |value: &[u8]| -> String {
        let text = String::from_utf8_lossy(value).into_owned();
        text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
    };
    let parts: Vec<_> =
        entries(name).iter().rev().map(|(key, value)| format!("{key}={}", escape(value))).collect();
    parts.join(",")
}

fn printable(value: &[u8]) -> String {
    let one = |b: &u8| {
        if (0x20..=0x7e).contains(b) { char::from(*b).to_string() } else { format!("\\x{b:02X}") }
    };
    value.iter().map(one).collect()
}

fn last_common_name(name: &X509NameRef) -> String {
    let last = entries(name).into_iter().rfind(|(key, _)| key == "CN");
    last.map(|(_, value)| String::from_utf8_lossy(&value).into_owned()).unwrap_or_default()
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
