//! Under which name this pilot registers: what the site's record calls the pilot's owner.

use openssl::x509::{X509, X509NameRef};

/// The subject of the certificate behind the proxies of a PEM, in one line; `None` when none can be read.
pub(crate) fn of(pem: &[u8]) -> Option<String> {
    let chain = X509::stack_from_pem(pem).ok()?;
    // A proxy is named as its issuer, and one name more.
    let is_proxy = |certificate: &&X509| {
        let (subject, issuer) = (parts(certificate.subject_name()), parts(certificate.issuer_name()));
        subject.len() == issuer.len() + 1 && subject.starts_with(&issuer)
    };
    let own = chain.iter().find(|certificate| !is_proxy(certificate))?;
    Some(parts(own.subject_name()).iter().map(|part| format!("/{part}")).collect())
}

fn parts(name: &X509NameRef) -> Vec<String> {
    let part = |entry: &openssl::x509::X509NameEntryRef| {
        let kind = entry.object().nid().short_name().unwrap_or("?");
        // What cannot stand in an environment variable is not passed on; the site's record escapes all the rest.
        format!("{kind}={}", String::from_utf8_lossy(entry.data().as_slice()).replace('\0', ""))
    };
    name.entries().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::pki::build::{self, Certificate, Kind, dn as name};

    fn certificate(subject: &[u8], issuer: &[u8]) -> Vec<u8> {
        let key = build::key(Kind::P256, 0).expect("a key");
        let der = Certificate::person(subject, issuer, &key).der(&key).expect("a certificate");
        build::pem("CERTIFICATE", &der).into_bytes()
    }

    #[test]
    fn the_name_behind_the_proxies_is_told() {
        let ca = name(&[("DC", "org"), ("CN", "CA")]);
        let pilot = name(&[("DC", "org"), ("OU", "Robots"), ("CN", "pilot 1")]);
        let proxy = name(&[("DC", "org"), ("OU", "Robots"), ("CN", "pilot 1"), ("CN", "77")]);
        let pem = [certificate(&proxy, &pilot), certificate(&pilot, &ca)].concat();
        assert_eq!(of(&pem).as_deref(), Some("/DC=org/OU=Robots/CN=pilot 1"));
        assert_eq!(of(&certificate(&pilot, &ca)).as_deref(), Some("/DC=org/OU=Robots/CN=pilot 1"));
        assert_eq!(of(b"no certificate"), None);
    }
}
