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
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::x509::{X509Builder, X509Name, X509NameBuilder};

    fn name(parts: &[(&str, &str)]) -> X509Name {
        let mut name = X509NameBuilder::new().expect("a name");
        parts.iter().for_each(|(kind, text)| name.append_entry_by_text(kind, text).expect("a part"));
        name.build()
    }

    fn certificate(subject: &X509Name, issuer: &X509Name) -> Vec<u8> {
        let key = PKey::generate_ed25519().expect("a key");
        let mut builder = X509Builder::new().expect("a certificate");
        builder.set_subject_name(subject).expect("a subject");
        builder.set_issuer_name(issuer).expect("an issuer");
        builder.set_pubkey(&key).expect("a public key");
        builder.set_not_before(&Asn1Time::days_from_now(0).expect("now")).expect("a beginning");
        builder.set_not_after(&Asn1Time::days_from_now(1).expect("tomorrow")).expect("an end");
        builder.sign(&key, MessageDigest::null()).expect("a signature");
        builder.build().to_pem().expect("PEM")
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
