use super::*;
use harness::pki::build::{self, Certificate, Kind, dn};
use std::sync::atomic::{AtomicU32, Ordering};

fn key() -> PKey<Private> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    build::key(Kind::P256, NEXT.fetch_add(1, Ordering::Relaxed)).unwrap()
}

fn certificate(subject: &[(&str, &str)], issuer: &[(&str, &str)], key: &PKey<Private>) -> X509 {
    let made = Certificate { extensions: Vec::new(), ..Certificate::person(&dn(subject), &dn(issuer), key) };
    X509::from_der(&made.der(key).unwrap()).unwrap()
}

const CA: &[(&str, &str)] = &[("DC", "org"), ("CN", "CA")];

#[test]
fn a_host_certificate_names_its_host() {
    let key = key();
    let subject = [("DC", "org"), ("O", "a, b"), ("CN", "host/wn1.example.org")];
    let pem =
        [key.private_key_to_pem_pkcs8().unwrap(), certificate(&subject, CA, &key).to_pem().unwrap()].concat();
    let credential = HostCredential::parse(&pem).unwrap();
    assert_eq!(credential.subject.as_str(), "/DC=org/O=a, b/CN=host/wn1.example.org");
    assert_eq!(credential.rfc2253, "CN=host/wn1.example.org,O=a\\, b,DC=org");
    assert_eq!(credential.issuer.as_str(), "/DC=org/CN=CA");
    assert!(credential.names_host("WN1.example.org"));
    assert!(
        !credential.names_host("wn2.example.org")
            && !credential.names_host("")
            && !credential.names_host("example.org")
    );
}

#[test]
fn a_proxy_is_named_after_its_person() {
    let (key, person_key) = (key(), key());
    let person = [("DC", "org"), ("CN", "Alice")];
    let proxy = [("DC", "org"), ("CN", "Alice"), ("CN", "1234")];
    let pem = [
        certificate(&proxy, &person, &key).to_pem().unwrap(),
        key.private_key_to_pem_pkcs8().unwrap(),
        certificate(&person, CA, &person_key).to_pem().unwrap(),
    ]
    .concat();
    let credential = HostCredential::parse(&pem).unwrap();
    assert_eq!((credential.subject.as_str(), credential.chain.len()), ("/DC=org/CN=Alice", 2));
}

#[test]
fn useless_credentials_are_refused_with_the_reason() {
    let key = key();
    let cert = certificate(&[("CN", "a")], CA, &key).to_pem().unwrap();
    let pem = key.private_key_to_pem_pkcs8().unwrap();
    let other = super::tests::key().private_key_to_pem_pkcs8().unwrap();
    let locked =
        key.private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"secret").unwrap();
    for (bytes, why) in [
        (vec![], "no certificate"),
        (b"nonsense".to_vec(), "no certificate"),
        (pem.clone(), "no certificate"),
        (cert.clone(), "no private key"),
        ([cert.clone(), other].concat(), "another certificate"),
        ([cert.clone(), locked].concat(), "encrypted"),
    ] {
        let error = HostCredential::parse(&bytes).err().map(|e| e.to_string()).unwrap();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn bytes_outside_ascii_are_escaped() {
    let key = key();
    let pem = [
        certificate(&[("O", "x"), ("CN", "J\u{fc}rgen")], CA, &key).to_pem().unwrap(),
        key.private_key_to_pem_pkcs8().unwrap(),
    ]
    .concat();
    assert_eq!(HostCredential::parse(&pem).unwrap().subject.as_str(), "/O=x/CN=J\\xC3\\xBCrgen");
}
