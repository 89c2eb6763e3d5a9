//! The judgement as a whole: VOMS attributes, altered bytes, keys, directories, delegation.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use credential::cert::Cert;
use credential::{Trust, identity_of_file, pem, split_pem, verify_chain};
use harness::needs;
use harness::pki::{Craft, LIMITED, Pki, User, VOMS_HOST};
use identity::{Refusal, RefusalKind, VerifiedIdentity};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const VOMS: &str = "1.3.6.1.4.1.8005.100.100.5";

struct Site {
    _dir: tempfile::TempDir,
    pki: Pki,
    alice: User,
    trust: Trust,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path()).unwrap();
        let alice = pki.user("alice", "Alice Adams").unwrap();
        let trust = Trust::in_dir(&pki.ca_dir);
        Self { _dir: dir, pki, alice, trust }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pki.dir().join(name)
    }

    fn proxy(&self) -> PathBuf {
        Craft::default().below_user(&self.alice, &self.path("proxy.pem")).unwrap()
    }

    fn judge(&self, path: &Path) -> Result<VerifiedIdentity, Refusal> {
        identity_of_file(path, &self.trust, now())
    }

    fn refusal(&self, path: &Path, kind: RefusalKind, words: &str) {
        let refusal = self.judge(path).unwrap_err();
        assert_eq!(refusal.kind, kind, "{}", refusal.reason);
        assert!(refusal.reason.contains(words), "{:?} lacks {words:?}", refusal.reason);
        assert!(!refusal.reason.contains('\n'));
    }

    /// The attribute certificates of a proxy that `voms-proxy-fake` made.
    fn attributes(&self, user: &User, vo: &str, options: &[&str]) -> Vec<u8> {
        let path = self.path("voms.pem");
        let fqan = format!("/{vo}/Role=pilot");
        self.pki.voms_proxy_with(user, &path, vo, &[&fqan], options).unwrap();
        let certs = ders(&path);
        Cert::parse(&certs[0]).unwrap().voms.unwrap()
    }

    /// A proxy of the user with those attribute certificates pasted in.
    fn pasted(&self, user: &User, attributes: Vec<u8>) -> PathBuf {
        let craft = Craft { extra: vec![(VOMS, false, attributes)], ..Craft::default() };
        craft.below_user(user, &self.path("pasted.pem")).unwrap()
    }
}

fn ders(path: &Path) -> Vec<Vec<u8>> {
    pem::certificates(&split_pem(&fs::read(path).unwrap()).unwrap()).unwrap()
}

#[test]
#[needs("voms-proxy-fake")]
fn voms_attributes_count_only_for_their_holder_and_while_they_last() {
    let site = Site::new();
    let good = site.attributes(&site.alice, "cms", &["-rfc"]);
    let found = site.judge(&site.pasted(&site.alice, good.clone())).unwrap().voms.unwrap();
    assert_eq!((found.vo.as_str(), found.fqans[0].as_str()), ("cms", "/cms/Role=pilot"));
    assert_eq!(found.signer.as_str(), site.pki.voms_server().dn);
    assert_eq!(found.signer_issuer.as_str(), site.pki.ca_dn());

    let bob = site.pki.user("bob", "Bob").unwrap();
    site.refusal(&site.pasted(&bob, good.clone()), RefusalKind::Voms, "issued for another certificate");
    let expired = site.attributes(&site.alice, "cms", &["-rfc", "-pastac", "48:00", "-vomslife", "1"]);
    site.refusal(&site.pasted(&site.alice, expired), RefusalKind::Voms, "expired");
    let unknown = site.attributes(&site.alice, "atlas", &["-rfc"]);
    site.refusal(&site.pasted(&site.alice, unknown.clone()), RefusalKind::Voms, "VO atlas is not known here");
    site.pki.add_vo("atlas").unwrap();
    assert!(site.judge(&site.pasted(&site.alice, unknown)).is_ok());

    let mut altered = good.clone();
    let at = altered.windows(5).position(|w| w == b"pilot").unwrap();
    altered[at..at + 5].copy_from_slice(b"admin");
    site.refusal(&site.pasted(&site.alice, altered), RefusalKind::Voms, "altered or forged");
    let mut foreign = good.clone();
    let at = foreign.windows(4).position(|w| w == b"/cms").unwrap();
    foreign[at..at + 4].copy_from_slice(b"/lhc");
    site.refusal(&site.pasted(&site.alice, foreign), RefusalKind::Voms, "does not belong to VO cms");
    site.refusal(&site.pasted(&site.alice, b"junk".to_vec()), RefusalKind::Voms, "malformed");

    let lsc = site.pki.voms_dir.join("cms").join(format!("{VOMS_HOST}.lsc"));
    fs::write(&lsc, "/CN=another\n/CN=ca\n").unwrap();
    site.refusal(&site.pasted(&site.alice, good.clone()), RefusalKind::Voms, "does not list the server");
    fs::remove_file(&lsc).unwrap();
    site.refusal(&site.pasted(&site.alice, good.clone()), RefusalKind::Voms, "is not trusted here: no ");
    // old sites install the server's certificate instead
    fs::copy(&site.pki.voms_server().cert, site.pki.voms_dir.join("cms/server.pem")).unwrap();
    assert!(site.judge(&site.pasted(&site.alice, good)).is_ok());
}

#[test]
#[needs("voms-proxy-fake")]
fn a_user_cannot_vouch_for_attributes_with_an_own_certificate() {
    let site = Site::new();
    let (cert, key) = (site.alice.cert.to_str().unwrap(), site.alice.key.to_str().unwrap());
    let own = site.attributes(&site.alice, "cms", &["-rfc", "-hostcert", cert, "-hostkey", key]);
    site.refusal(&site.pasted(&site.alice, own), RefusalKind::Voms, "does not list the server");
}

/// Whatever bit is changed anywhere in proxy or end-entity certificate, the chain is not accepted any more.
#[test]
fn no_altered_byte_is_accepted() {
    let site = Site::new();
    let chain = ders(&site.proxy());
    assert!(verify_chain(&chain, &site.trust, now()).is_ok());
    for cert in 0..2 {
        for at in 0..chain[cert].len() {
            let mut altered = chain.clone();
            altered[cert][at] ^= 1 << (at % 8);
            let verdict = verify_chain(&altered, &site.trust, now());
            assert!(verdict.is_err(), "certificate {cert}, byte {at} of {}", chain[cert].len());
        }
    }
}

#[test]
fn cut_and_shuffled_chains_do_not_panic() {
    let site = Site::new();
    let chain = ders(&site.proxy());
    for length in 0..chain[0].len() {
        assert!(verify_chain(&[chain[0][..length].to_vec(), chain[1].clone()], &site.trust, now()).is_err());
    }
    let text = fs::read(site.proxy()).unwrap();
    for length in (0..text.len() - 40).step_by(7) {
        fs::write(site.path("cut.pem"), &text[..length]).unwrap();
        assert!(site.judge(&site.path("cut.pem")).is_err(), "{length} bytes");
    }
    assert!(verify_chain(&[], &site.trust, now()).is_err());
    let reversed: Vec<_> = chain.iter().rev().cloned().collect();
    // a TLS peer proves the key of the first certificate, so then Alice herself speaks
    assert_eq!(verify_chain(&reversed, &site.trust, now()).unwrap().subject.as_str(), site.alice.dn);
}

#[test]
fn the_private_key_must_really_be_the_leafs() {
    let site = Site::new();
    let (proxy, out) = (site.proxy(), site.path("forged.pem"));
    let blocks = split_pem(&fs::read(&proxy).unwrap()).unwrap();
    let key = openssl::rsa::Rsa::private_key_from_der(&blocks[1].der).unwrap();
    // a "private" key that anybody can write from the certificate: its modulus, everything else made up
    let other = openssl::rsa::Rsa::generate(2048).unwrap();
    let (own, foreign) = (key.n().to_vec(), other.n().to_vec());
    let mut forged = other.private_key_to_der().unwrap();
    let at = forged.windows(foreign.len()).position(|w| w == foreign).unwrap();
    forged[at..at + own.len()].copy_from_slice(&own);
    let certs: Vec<String> = ders(&proxy).iter().map(|d| pem::encode("CERTIFICATE", d)).collect();
    let with = |key: String| format!("{}{key}{}", certs[0], certs[1]);
    fs::write(&out, with(pem::encode("RSA PRIVATE KEY", &forged))).unwrap();
    site.refusal(&out, RefusalKind::Key, "does not belong to");
    let whole = openssl::pkey::PKey::from_rsa(key).unwrap();
    let cipher = openssl::symm::Cipher::aes_128_cbc();
    let encrypted = whole.private_key_to_pem_pkcs8_passphrase(cipher, b"secret").unwrap();
    fs::write(&out, with(String::from_utf8(encrypted).unwrap())).unwrap();
    site.refusal(&out, RefusalKind::Key, "encrypted");
    let twice = pem::encode("RSA PRIVATE KEY", &blocks[1].der);
    fs::write(&out, with(format!("{twice}{twice}"))).unwrap();
    site.refusal(&out, RefusalKind::Key, "more than one");
}

#[test]
fn directories_that_anybody_may_write_are_not_trusted() {
    let site = Site::new();
    let proxy = site.proxy();
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(&site.pki.ca_dir, 0o777);
    site.refusal(&proxy, RefusalKind::Site, "everybody may write it");
    set(&site.pki.ca_dir, 0o755);
    let policy = fs::read_dir(&site.pki.ca_dir).unwrap().flatten().map(|e| e.path());
    for path in policy.filter(|p| p.extension().is_some_and(|e| e == "signing_policy")) {
        set(&path, 0o666);
    }
    site.refusal(&proxy, RefusalKind::Site, "everybody may write it");
}

#[test]
fn a_delegated_proxy_is_accepted_and_as_limited_as_it_should_be() {
    let site = Site::new();
    let issuer = fs::read(site.proxy()).unwrap();
    let hour = Duration::from_secs(3600);
    let (key, request) = delegation::new_request().unwrap();
    for limited in [false, true] {
        let chain = delegation::sign(&request, &issuer, hour, limited).unwrap();
        assert!(!chain.contains("PRIVATE"));
        let out = site.path("delegated.pem");
        credential::write_private(&out, &delegation::join(&chain, &key).unwrap()).unwrap();
        let found = site.judge(&out).unwrap();
        assert_eq!((found.subject.as_str(), found.limited), (site.alice.dn.as_str(), limited));
        assert!(found.not_after <= now() + 3600 && found.not_after > now() + 3500);
        assert_eq!(split_pem(&fs::read(&out).unwrap()).unwrap().len(), 4);
    }
    let month = delegation::sign(&request, &issuer, Duration::from_secs(30 * 86_400), false).unwrap();
    let ends = verify_chain(&ders_of(&month), &site.trust, now()).unwrap().not_after;
    assert!(ends <= now() + 12 * 3600, "the issuer's end caps the proxy's");
    let limited = Craft { language: LIMITED, ..Craft::default() };
    let limited = limited.below_user(&site.alice, &site.path("limited.pem")).unwrap();
    let chain = delegation::sign(&request, fs::read(limited).unwrap(), hour, false).unwrap();
    assert!(verify_chain(&ders_of(&chain), &site.trust, now()).unwrap().limited);
    let (other_key, _) = delegation::new_request().unwrap();
    assert!(delegation::join(&chain, &other_key).is_err());
}

fn ders_of(text: &str) -> Vec<Vec<u8>> {
    pem::certificates(&split_pem(text.as_bytes()).unwrap()).unwrap()
}

#[test]
fn delegation_refuses_what_would_be_refused_later() {
    let site = Site::new();
    let hour = Duration::from_secs(3600);
    let (_, request) = delegation::new_request().unwrap();
    let spent = Craft { path_len: Some(0), ..Craft::default() };
    let legacy = Craft { pci: None, cn: "proxy".to_owned(), ..Craft::default() };
    let expired = Craft { from: -7200, to: -3600, ..Craft::default() };
    for (craft, words) in [(spent, "path length"), (legacy, "RFC 3820"), (expired, "expired")] {
        let issuer = craft.below_user(&site.alice, &site.path("issuer.pem")).unwrap();
        let error = delegation::sign(&request, fs::read(issuer).unwrap(), hour, false).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let issuer = fs::read(site.proxy()).unwrap();
    let mut der = split_pem(request.as_bytes()).unwrap()[0].der.clone();
    let end = der.len() - 1;
    der[end] ^= 1;
    let forged = pem::encode("CERTIFICATE REQUEST", &der);
    let error = delegation::sign(forged, &issuer, hour, false).unwrap_err();
    assert!(error.to_string().contains("not signed with its own key"), "{error}");
    assert!(delegation::sign("nonsense", &issuer, hour, false).is_err());
    assert!(delegation::sign(&request, "nonsense", hour, false).is_err());
}
