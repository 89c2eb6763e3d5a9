//! Keys and signatures that OpenSSL makes, judged by us: every kind that certificates of the grid have.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use credential::cert::Cert;
use credential::{key, pem, split_pem};
use harness::pki::build::{Certificate, Sign, dn};
use identity::Refusal;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn curve(nid: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(nid).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// Nothing but a name in it, so that its signature stands at the end of few bytes.
fn self_signed(key: &PKey<Private>, sign: Sign) -> Vec<u8> {
    let name = dn(&[("CN", "somebody")]);
    let made = Certificate { extensions: Vec::new(), sign, ..Certificate::person(&name, &name, key) };
    made.der(key).unwrap()
}

fn sha2() -> [Sign; 3] {
    [Sign::Sha2(256), Sign::Sha2(384), Sign::Sha2(512)]
}

/// The last byte belongs to the signature, the one 20 before the end too.
fn is_good_and_its_forgeries_are_not(der: &[u8], other: &Cert, what: &str) {
    let cert = Cert::parse(der).unwrap();
    assert!(cert.is_signed_by(&cert), "{what}: a good signature is refused");
    assert!(!cert.is_signed_by(other), "{what}: good under a key that did not make it");
    for place in [der.len() - 1, der.len() - 20] {
        let mut forged = der.to_vec();
        forged[place] ^= 1;
        assert!(Cert::parse(&forged).is_ok_and(|c| !c.is_signed_by(&cert)), "{what}: forged at {place}");
    }
    let name = der.windows(8).position(|w| w == b"somebody").unwrap();
    let mut renamed = der.to_vec();
    renamed[name] = b'S';
    assert!(!Cert::parse(&renamed).unwrap().is_signed_by(&cert), "{what}: its contents were altered");
}

#[test]
fn every_kind_of_signature_is_told_from_a_forgery() {
    let other = Cert::parse(&self_signed(&rsa(2048), Sign::Sha2(256))).unwrap();
    for (bits, digests) in
        [(1024, [sha2()[0], sha2()[2]].to_vec()), (2048, sha2().to_vec()), (4096, sha2().to_vec())]
    {
        let key = rsa(bits);
        for digest in digests {
            let what = format!("RSA {bits}, {:?}", digest);
            is_good_and_its_forgeries_are_not(&self_signed(&key, digest), &other, &what);
        }
    }
    for nid in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1] {
        let (key, sibling) = (curve(nid), curve(nid));
        let sibling = Cert::parse(&self_signed(&sibling, Sign::Sha2(256))).unwrap();
        for digest in sha2() {
            let what = format!("{:?}, {:?}", nid.short_name(), digest);
            is_good_and_its_forgeries_are_not(&self_signed(&key, digest), &sibling, &what);
        }
    }
    let ed = PKey::generate_ed25519().unwrap();
    is_good_and_its_forgeries_are_not(&self_signed(&ed, Sign::Sha2(256)), &other, "Ed25519");
}

#[test]
fn other_kinds_are_read_and_never_good() {
    for key in [curve(Nid::SECP224R1), curve(Nid::BRAINPOOL_P256R1), PKey::generate_ed448().unwrap()] {
        let cert = Cert::parse(&self_signed(&key, Sign::Sha2(256))).unwrap();
        assert!(!cert.is_signed_by(&cert) && cert.key.strength().is_none(), "{:?}", key.id());
    }
    let sha1 = Cert::parse(&self_signed(&rsa(2048), Sign::Sha1)).unwrap();
    assert!(sha1.is_signed_by(&sha1), "SHA-1 is judged by the rules for certificates, not here");
    let md5 = Cert::parse(&self_signed(&rsa(2048), Sign::Md5)).unwrap();
    assert!(!md5.is_signed_by(&md5));
}

fn check(text: &[u8], cert: &Cert) -> Result<bool, Refusal> {
    let blocks = split_pem(text).unwrap();
    key::check(&blocks, cert, true).map(|block| block.is_some())
}

#[test]
fn a_private_key_is_its_certificate_s_in_every_format() {
    let kinds = [
        (rsa(2048), rsa(2048)),
        (rsa(1024), rsa(1024)),
        (curve(Nid::X9_62_PRIME256V1), curve(Nid::X9_62_PRIME256V1)),
        (curve(Nid::SECP384R1), curve(Nid::SECP384R1)),
        (curve(Nid::SECP521R1), curve(Nid::SECP521R1)),
        (PKey::generate_ed25519().unwrap(), PKey::generate_ed25519().unwrap()),
    ];
    for (mine, foreign) in kinds {
        let cert = Cert::parse(&self_signed(&mine, Sign::Sha2(256))).unwrap();
        let formats = |key: &PKey<Private>| {
            let mut texts = vec![key.private_key_to_pem_pkcs8().unwrap()];
            texts.extend(key.rsa().ok().map(|k| k.private_key_to_pem().unwrap()));
            texts.extend(key.ec_key().ok().map(|k| k.private_key_to_pem().unwrap()));
            texts
        };
        for text in formats(&mine) {
            assert_eq!(check(&text, &cert), Ok(true), "{:?}", mine.id());
        }
        for text in formats(&foreign) {
            assert!(check(&text, &cert).unwrap_err().reason.contains("does not belong"), "{:?}", mine.id());
        }
        let public = pem::encode("PRIVATE KEY", &mine.public_key_to_der().unwrap());
        assert!(check(public.as_bytes(), &cert).unwrap_err().reason.contains("cannot be read"));
    }
}
