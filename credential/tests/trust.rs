//! Chains and the files of a CA directory, made byte by byte: who must be refused, who must not be turned away.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use credential::{Trust, verify_chain};
use harness::pki::build::{
    self, BMP, Certificate, Extension, Kind, List, Sign, T61, UTF8, dn, dn_of, key, tlv,
};
use harness::pki::{LIMITED, PCI_RFC};
use identity::RefusalKind;
use world::{World, alice_key, ca_key, now, other_key, refused};

const PART_A: &str = "http://ca.example.org/a.crl";

fn email(text: &str) -> Vec<u8> {
    tlv(0x81, text.as_bytes())
}

#[test]
fn reasons_for_a_list_s_refusal_are_the_real_ones() {
    let w = World::new();
    let rsa = key(Kind::Rsa(2048), 0).unwrap();
    for (what, list, words) in [
        (
            "SHA-1",
            List { sign: Sign::Sha1, ..List::new(&w.ca) },
            "signed by ECDSA with SHA-1, which is not accepted",
        ),
        ("no end", List { to: None, ..List::new(&w.ca) }, "has no nextUpdate"),
        ("another CA's", List::new(&w.alice), "it is the list of /C=XX/O=Grid/CN=Alice"),
    ] {
        w.revoke(&list);
        refused(w.alone(&w.person()), RefusalKind::Trust, words);
        assert!(
            !w.alone(&w.person()).unwrap_err().reason.contains("run fetch-crl") || what == "another CA's"
        );
    }
    w.directory.revoke(&w.ca, &List::new(&w.ca).der(&rsa).unwrap()).unwrap();
    refused(w.alone(&w.person()), RefusalKind::Trust, "not signed by this CA");
    w.install(&w.root().with(Extension::usage(0x04)));
    w.revoke(&List::new(&w.ca));
    refused(w.alone(&w.person()), RefusalKind::Trust, "keyUsage lacks cRLSign");
}

/// What a full disk, a proxy's error page and a careless script leave in place of a file.
fn broken(whole: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let wide: Vec<u8> =
        std::str::from_utf8(whole).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        ("empty", Vec::new()),
        ("HTML", b"<html><body>502 Bad Gateway</body></html>\n".to_vec()),
        ("gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]),
        ("NUL", vec![0; 4096]),
        ("UTF-16", wide.clone()),
        ("UTF-16 with a mark", [vec![0xff, 0xfe], wide].concat()),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("Latin-1", b"Z\xfcrich".to_vec()),
    ]
}

#[test]
fn a_broken_file_of_the_ca_directory_refuses_and_is_named() {
    let w = World::new();
    w.revoke(&List::new(&w.ca));
    w.directory.put(&w.ca, ".namespaces", b"TO Issuer SELF PERMIT Subject \".*\"\n").unwrap();
    assert!(w.alone(&w.person()).is_ok());
    for ending in [".r0", ".0", ".signing_policy", ".namespaces"] {
        let path = w.directory.file(&w.ca, ending);
        let whole = std::fs::read(&path).unwrap();
        for (what, bytes) in broken(&whole) {
            std::fs::write(&path, bytes).unwrap();
            let refusal = w.alone(&w.person()).expect_err(&format!("{ending}, {what}"));
            assert_eq!(refusal.kind, RefusalKind::Site, "{ending}, {what}: {}", refusal.reason);
            assert!(refusal.reason.contains(path.to_str().unwrap()), "{ending}, {what}: {}", refusal.reason);
            assert!(!refusal.reason.contains("make a new proxy"), "{ending}, {what}: {}", refusal.reason);
        }
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        refused(w.alone(&w.person()), RefusalKind::Site, "is not a file");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, whole).unwrap();
    }
    assert!(w.alone(&w.person()).is_ok());
}

#[test]
fn a_good_file_beside_a_broken_one_is_enough() {
    let w = World::new();
    let root = w.root().der(&ca_key()).unwrap();
    w.directory.put(&w.ca, ".0", b"").unwrap();
    w.directory.put(&w.ca, ".1", &root).unwrap();
    w.directory.put(&w.ca, ".r0", b"<html>").unwrap();
    w.directory.put(&w.ca, ".r1", &List::new(&w.ca).der(&ca_key()).unwrap()).unwrap();
    assert!(w.alone(&w.person()).is_ok());
    let list = List::new(&w.ca).revoking(&w.person().serial);
    w.directory.put(&w.ca, ".r7", &list.der(&ca_key()).unwrap()).unwrap();
    refused(w.alone(&w.person()), RefusalKind::Trust, "revoked");
}

#[test]
fn only_files_that_the_chain_names_are_read() {
    let w = World::new();
    w.revoke(&List::new(&w.ca));
    for n in 0..300u32 {
        for ending in ["0", "r0", "signing_policy", "namespaces"] {
            let path = w.directory.path().join(format!("{:08x}.{ending}", n * 7919 + 1));
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        }
    }
    assert!(w.alone(&w.person()).is_ok());
}

#[test]
fn of_several_certificates_of_a_ca_the_valid_one_counts() {
    let w = World::new();
    let day = 86_400;
    let (old, future) = (w.root().valid(-9 * day, -day), w.root().valid(day, 9 * day));
    let put = |ending: &str, cert: &Certificate| {
        w.directory.put(&w.ca, ending, &cert.der(&ca_key()).unwrap()).unwrap();
    };
    for first in [&old, &future] {
        put(".0", first);
        put(".1", &w.root());
        assert!(w.alone(&w.person()).is_ok());
        std::fs::remove_file(w.directory.file(&w.ca, ".1")).unwrap();
        assert_eq!(w.alone(&w.person()).unwrap_err().kind, RefusalKind::Trust);
    }
    put(".0", &w.root());
    // the same as intermediate, in the credential and in the directory
    let sub = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "Sub CA")]);
    let sub_cert = Certificate::ca(&sub, &w.ca, &other_key());
    let person = Certificate::person(&w.alice, &sub, &alice_key()).der(&other_key()).unwrap();
    let policy = b"access_id_ANYBODY pos_rights globus CA:sign cond_subjects globus '\"/C=XX/*\"'";
    w.directory.put(&sub, ".signing_policy", policy).unwrap();
    let [old, new] = [sub_cert.clone().valid(-9 * day, -day), sub_cert].map(|c| c.der(&ca_key()).unwrap());
    assert!(w.judge(&[person.clone(), old.clone(), new.clone()]).is_ok());
    assert_eq!(w.judge(&[person.clone(), old.clone()]).unwrap_err().kind, RefusalKind::Trust);
    w.directory.put(&sub, ".0", &old).unwrap();
    assert!(w.judge(&[person.clone(), new.clone()]).is_ok());
    w.directory.put(&sub, ".1", &new).unwrap();
    assert!(w.judge(&[person]).is_ok());
}

#[test]
fn the_link_between_two_keys_of_a_ca_is_no_forgery() {
    let w = World::new();
    let new_key = other_key();
    // the new key, certified with the old one
    let link = Certificate::ca(&w.ca, &w.ca, &new_key).serial(&[7]);
    let person = w.person().der(&new_key).unwrap();
    let linked = link.der(&ca_key()).unwrap();
    assert!(w.judge(&[person.clone(), linked.clone()]).is_ok());
    w.revoke(&List::new(&w.ca));
    assert!(w.judge(&[person.clone(), linked.clone()]).is_ok(), "the old key's list is the CA's");
    w.directory.revoke(&w.ca, &List::new(&w.ca).der(&new_key).unwrap()).unwrap();
    assert!(w.judge(&[person.clone(), linked.clone()]).is_ok(), "the new key's list as well");
    w.directory.revoke(&w.ca, &List::new(&w.ca).revoking(&[0x10, 1]).der(&new_key).unwrap()).unwrap();
    refused(w.judge(&[person.clone(), linked]), RefusalKind::Trust, "revoked");
    // a root of the same name that the credential brings along proves nothing
    let own_root = Certificate::ca(&w.ca, &w.ca, &new_key).der(&new_key).unwrap();
    let forged = w.judge(&[person.clone(), own_root]);
    refused(forged, RefusalKind::Chain, "altered or forged");
    refused(w.judge(&[person]), RefusalKind::Chain, "altered or forged");
}

#[test]
fn critical_extensions_that_everybody_understands_are_understood() {
    let w = World::new();
    let critical = |Extension(oid, _, value)| Extension(oid, true, value);
    let netscape = |bits| Extension("2.16.840.1.113730.1.1", true, tlv(3, &[0, bits]));
    for extension in [
        critical(Extension::point(PART_A)),
        netscape(0xb0),
        critical(Extension::extended(&["1.3.6.1.5.5.7.3.2"])),
        critical(Extension::alternative(&[email("a@x.org")])),
        Extension("2.5.29.32", true, tlv(0x30, &tlv(0x30, &build::oid("1.2.3.4")))),
    ] {
        let person = w.person().with(extension.clone());
        assert!(w.alone(&person).is_ok(), "{extension:?}: {:?}", w.alone(&person));
    }
    refused(w.alone(&w.person().with(netscape(0x40))), RefusalKind::Chain, "does not allow clients");
    let odd = Extension("1.2.3.4", true, vec![5, 0]);
    refused(w.alone(&w.person().with(odd)), RefusalKind::Chain, "critical extension 1.2.3.4 is unknown");
    for extension in [
        Extension("2.5.29.54", true, tlv(2, &[0])),
        Extension("2.5.29.36", true, tlv(0x30, &tlv(0x81, &[0]))),
        critical(Extension::point(PART_A)),
        netscape(0x07),
    ] {
        w.install(&w.root().with(extension.clone()));
        assert!(w.alone(&w.person()).is_ok(), "CA, {extension:?}");
    }
    w.install(&w.root().with(Extension("2.5.29.36", true, tlv(0x30, &tlv(0x80, &[0])))));
    refused(w.alone(&w.person()), RefusalKind::Site, "demands certificate policies");
}

#[test]
fn names_in_another_encoding_are_the_same_names() {
    let w = World::new();
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    for (what, spelt) in [
        ("T61", dn_of(&[("C", T61, b"XX"), ("O", T61, b"Grid"), ("CN", T61, b"Alice")])),
        ("BMP", dn_of(&[("C", BMP, &wide("XX")), ("O", BMP, &wide("Grid")), ("CN", BMP, &wide("Alice"))])),
        ("case and blanks", dn(&[("C", "xx"), ("O", " GRID"), ("CN", "aLICE ")])),
    ] {
        let person = w.person().der(&ca_key()).unwrap();
        let mut proxy = Certificate::proxy(&w.alice, "1", &other_key());
        proxy.issuer = spelt.clone();
        assert!(w.judge(&[proxy.der(&alice_key()).unwrap(), person.clone()]).is_ok(), "{what}, issuer");
        proxy.subject = build::below(&spelt, "1");
        let identity = w.judge(&[proxy.der(&alice_key()).unwrap(), person]).unwrap();
        assert_eq!(identity.subject.as_str(), "/C=XX/O=Grid/CN=Alice", "{what}: the CA's spelling counts");
    }
    let mut person = w.person();
    person.issuer = dn_of(&[("C", T61, b"xx"), ("O", UTF8, b"GRID"), ("CN", T61, b"CA")]);
    w.revoke(&List { issuer: dn(&[("C", "XX"), ("O", "grid"), ("CN", "ca")]), ..List::new(&w.ca) });
    assert!(w.alone(&person).is_ok());
}

#[test]
fn installed_roots_need_not_say_that_they_are_cas() {
    let w = World::new();
    for (what, root) in [
        ("version 1", w.root().version_1()),
        ("no basicConstraints", w.root().without("2.5.29.19")),
        ("MD5 on itself", Certificate { sign: Sign::Md5, key: key(Kind::Rsa(2048), 0).unwrap(), ..w.root() }),
    ] {
        let signer = root.key.clone();
        w.directory.trust(&w.ca, &root.der(&signer).unwrap()).unwrap();
        let verdict = w.judge(&[w.person().der(&signer).unwrap()]);
        assert!(verdict.is_ok(), "{what}: {verdict:?}");
    }
    for root in
        [w.root().with(Extension::basic(false, None)), w.root().without("2.5.29.19").without("2.5.29.15")]
    {
        w.install(&root);
        refused(w.alone(&w.person()), RefusalKind::Chain, "which is no CA");
    }
    w.install(&w.root());
    // what the credential brings along must say it
    let sub = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "Sub CA")]);
    let person = Certificate::person(&w.alice, &sub, &alice_key()).der(&other_key()).unwrap();
    let silent = Certificate::ca(&sub, &w.ca, &other_key()).without("2.5.29.19").der(&ca_key()).unwrap();
    refused(w.judge(&[person, silent]), RefusalKind::Chain, "which is no CA");
    refused(w.alone(&w.person().version_1()), RefusalKind::Chain, "no X.509 version 3");
}

#[test]
fn weak_algorithms_are_refused_by_their_name_unless_the_site_takes_them() {
    let w = World::new();
    let rsa = key(Kind::Rsa(2048), 0).unwrap();
    let root = Certificate { key: rsa.clone(), ..w.root() };
    w.directory.trust(&w.ca, &root.der(&rsa).unwrap()).unwrap();
    let signed = |sign| w.person().signed(sign).der(&rsa).unwrap();
    refused(
        w.judge(&[signed(Sign::Sha1)]),
        RefusalKind::Chain,
        "signed by RSA with SHA-1, which is not accepted",
    );
    let lenient = |rules: fn(&mut identity::ChainRules)| {
        let mut trust = Trust::in_dir(w.directory.path());
        rules(&mut trust.rules);
        trust
    };
    assert!(verify_chain(&[signed(Sign::Sha1)], &lenient(|r| r.allow_sha1 = true), now()).is_ok());
    let md5 = verify_chain(&[signed(Sign::Md5)], &lenient(|r| r.allow_sha1 = true), now());
    refused(md5, RefusalKind::Chain, "signed by RSA with MD5, which is not accepted");
    for bits in [256, 384, 512] {
        assert!(w.judge(&[signed(Sign::Pss(bits))]).is_ok(), "PSS with SHA-{bits}");
    }
    let long = verify_chain(&[signed(Sign::Sha2(256))], &lenient(|r| r.min_rsa_bits = 3072), now());
    refused(long, RefusalKind::Chain, "RSA key of 2048 bits is too short; this site wants 3072");
    let curve = Certificate { key: key(Kind::Brainpool, 0).unwrap(), ..w.person() };
    refused(
        w.judge(&[curve.der(&rsa).unwrap()]),
        RefusalKind::Chain,
        "is of a kind that is not supported here",
    );
    let proxy = Certificate::proxy(&w.alice, "1", &other_key()).der(&curve.key).unwrap();
    let verdict = w.judge(&[proxy, curve.der(&rsa).unwrap()]);
    refused(verdict, RefusalKind::Chain, "its signature cannot be checked: elliptic curve");
    let legacy = Certificate::proxy(&w.alice, "proxy", &other_key()).without(PCI_RFC);
    let chain = [legacy.der(&alice_key()).unwrap(), signed(Sign::Sha2(256))];
    refused(w.judge(&chain), RefusalKind::Policy, "legacy (GT2) proxy, which this site does not take");
    assert!(verify_chain(&chain, &lenient(|r| r.allow_legacy = true), now()).is_ok());
}

#[test]
fn namespaces_are_enforced_beside_the_signing_policy() {
    let w = World::new();
    for (text, good) in [
        ("TO Issuer \"/C=XX/O=Grid/CN=CA\" PERMIT Subject \"/C=XX/O=Grid/.*\"", true),
        ("TO Issuer \"/C=XX/O=Grid/CN=CA\" PERMIT Subject \"/C=XX/O=Lab/.*\"", false),
        ("TO Issuer SELF PERMIT Subject \".*\"\nTO Issuer SELF DENY Subject \".*/CN=Alice\"", false),
    ] {
        w.directory.put(&w.ca, ".namespaces", text.as_bytes()).unwrap();
        match w.alone(&w.person()) {
            Ok(_) => assert!(good, "{text}"),
            verdict => refused(verdict, RefusalKind::Trust, ".namespaces does not let"),
        }
    }
}

#[test]
fn chains_of_32_certificates_are_judged_and_longer_ones_are_not() {
    let w = World::new();
    for (proxies, good) in [(31, true), (32, false)] {
        let mut chain = vec![w.person().der(&ca_key()).unwrap()];
        let mut name = w.alice.clone();
        for n in 0..proxies {
            let cn = n.to_string();
            chain.insert(0, Certificate::proxy(&name, &cn, &alice_key()).der(&alice_key()).unwrap());
            name = build::below(&name, &cn);
        }
        assert_eq!(w.judge(&chain).is_ok(), good, "{proxies} proxies");
    }
    // the same with CAs, one below the other
    let mut pool = Vec::new();
    let mut issuer = (w.ca.clone(), ca_key());
    for n in 0..12 {
        let name = dn(&[("C", "XX"), ("CN", &format!("CA {n}"))]);
        let own = key(Kind::P256, 10 + n).unwrap();
        pool.push(Certificate::ca(&name, &issuer.0, &own).der(&issuer.1).unwrap());
        let policy = b"access_id_ANYBODY pos_rights globus CA:sign cond_subjects globus '\"*\"'";
        w.directory.put(&name, ".signing_policy", policy).unwrap();
        issuer = (name, own);
    }
    let person = Certificate::person(&w.alice, &issuer.0, &alice_key()).der(&issuer.1).unwrap();
    pool.insert(0, person);
    assert!(w.judge(&pool).is_ok(), "{:?}", w.judge(&pool));
}

/// Many certificates of one name and key would make a search without bound take for ever.
#[test]
fn a_maze_of_cas_ends() {
    let w = World::new();
    let ring = dn(&[("C", "XX"), ("CN", "Ring")]);
    let person = Certificate::person(&w.alice, &ring, &alice_key()).der(&other_key()).unwrap();
    let rings = (0..31).map(|n| Certificate::ca(&ring, &ring, &other_key()).serial(&[n + 1]));
    let mut chain: Vec<_> = rings.map(|c| c.der(&other_key()).unwrap()).collect();
    chain.insert(0, person);
    assert!(w.judge(&chain).is_err());
    let two = dn(&[("C", "XX"), ("CN", "Two")]);
    let circle = |n: u8, subject: &[u8], issuer: &[u8]| {
        Certificate::ca(subject, issuer, &other_key()).serial(&[n + 1]).der(&other_key()).unwrap()
    };
    let mut chain: Vec<_> =
        (0..31).map(|n| if n % 2 == 0 { circle(n, &ring, &two) } else { circle(n, &two, &ring) }).collect();
    chain.insert(0, Certificate::person(&w.alice, &ring, &alice_key()).der(&other_key()).unwrap());
    assert!(w.judge(&chain).is_err());
}

#[test]
fn no_changed_byte_of_a_list_or_policy_turns_a_refusal_into_an_acceptance() {
    let w = World::new();
    // RSA is verified fastest
    let rsa = key(Kind::Rsa(2048), 0).unwrap();
    let root = Certificate { key: rsa.clone(), ..w.root() };
    let install = || w.directory.trust(&w.ca, &root.der(&rsa).unwrap()).unwrap();
    install();
    let person = w.person();
    let list = List::new(&w.ca).revoking(&person.serial);
    let good = list.der(&rsa).unwrap();
    let path = w.directory.revoke(&w.ca, &good).unwrap();
    let chain = [person.der(&rsa).unwrap()];
    refused(w.judge(&chain), RefusalKind::Trust, "revoked");
    for at in 0..good.len() {
        let mut altered = good.clone();
        altered[at] ^= 1 << (at % 8);
        std::fs::write(&path, &altered).unwrap();
        assert!(w.judge(&chain).is_err(), "list, byte {at}");
        if at % 5 == 0 {
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(w.judge(&chain).is_err(), "list cut at {at}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    let policy = "access_id_CA X509 '/C=XX/O=Grid/CN=CA'\npos_rights globus CA:sign\ncond_subjects globus '\"/C=XX/O=Lab/*\"'\n";
    let namespaces = "TO Issuer SELF PERMIT Subject \"/C=XX/O=Lab/.*\"\n";
    for (ending, text) in [(".signing_policy", policy), (".namespaces", namespaces)] {
        let path = w.directory.put(&w.ca, ending, text.as_bytes()).unwrap();
        for at in 0..text.len() {
            for byte in [b'*', b' ', b'#', 0xff, b'.'] {
                let mut altered = text.as_bytes().to_vec();
                altered[at] = byte;
                std::fs::write(&path, &altered).unwrap();
                let verdict = w.judge(&chain);
                // a wildcard in the place of the letters that tell the two names apart does permit more
                let wider = matches!(byte, b'*' | b'.') && text[at..].find("Lab").is_some_and(|n| n < 3);
                assert!(verdict.is_err() || wider, "{ending}, byte {at} as {byte:#x}");
            }
        }
        std::fs::remove_file(&path).unwrap();
        install();
    }
}

#[test]
fn limits_and_languages_of_proxies_hold_through_every_level() {
    let w = World::new();
    let person = w.person().der(&ca_key()).unwrap();
    let proxy = |name: &[u8], cn: &str, language: &str, path_len| {
        Certificate::proxy(name, cn, &alice_key()).with(Extension::proxy(PCI_RFC, language, path_len))
    };
    let one = build::below(&w.alice, "1");
    let inherit = "1.3.6.1.5.5.7.21.1";
    for (what, upper, lower, words) in [
        ("plain", (inherit, None), (inherit, None), None),
        ("path length 1", (inherit, Some(1)), (inherit, None), None),
        ("path length 0", (inherit, Some(0)), (inherit, None), Some("path length forbids")),
        ("limited stays limited", (LIMITED, None), (inherit, None), Some("what is limited stays limited")),
        ("limited below full", (inherit, None), (LIMITED, None), None),
        ("independent above", ("1.3.6.1.5.5.7.21.2", None), (inherit, None), Some("independent")),
        ("any language", (inherit, None), ("1.3.6.1.5.5.7.21.0", None), Some("is unknown here")),
    ] {
        let chain = [
            proxy(&one, "2", lower.0, lower.1).der(&alice_key()).unwrap(),
            proxy(&w.alice, "1", upper.0, upper.1).der(&alice_key()).unwrap(),
            person.clone(),
        ];
        match (w.judge(&chain), words) {
            (verdict, None) => assert!(verdict.is_ok(), "{what}: {verdict:?}"),
            (verdict, Some(words)) => refused(verdict, RefusalKind::Chain, words),
        }
    }
}

#[test]
fn an_inspection_names_each_file_that_a_verdict_would_fall_over() {
    use credential::inspect::{Weight, inspect};
    let w = World::new();
    let trust = Trust::in_dir(w.directory.path());
    let look = || inspect(&trust, i64::try_from(now()).unwrap());
    w.revoke(&List::new(&w.ca));
    assert_eq!(look(), []);
    let names = |path: &std::path::Path, words: &str| {
        let found = look();
        let hit = found.iter().find(|o| o.path == path && o.weight == Weight::Error);
        let hit = hit.unwrap_or_else(|| panic!("{} is not named: {found:?}", path.display()));
        assert!(hit.reason.contains(words), "{:?} lacks {words:?}", hit.reason);
        assert!(!hit.reason.contains(path.to_str().unwrap()), "{}", hit.reason);
    };
    for ending in [".r0", ".0", ".signing_policy"] {
        let path = w.directory.file(&w.ca, ending);
        let whole = std::fs::read(&path).unwrap();
        for (_, bytes) in broken(&whole) {
            std::fs::write(&path, bytes).unwrap();
            names(&path, "install the file again");
        }
        std::fs::write(&path, whole).unwrap();
        let set = |mode| {
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap()
        };
        set(0o666);
        names(&path, "everybody may write it");
        set(0o600);
        names(&path, "as account glexec");
        set(0o644);
    }
    let list = w.revoke(&List { to: Some(-60), ..List::new(&w.ca) });
    names(&list, "out of date");
    w.revoke(&List::new(&w.ca).with(Extension("1.2.3.4", true, vec![5, 0])));
    names(&list, "critical extension");
    w.revoke(&List::new(&w.ca));
    let policy = w.directory.file(&w.ca, ".signing_policy");
    std::fs::write(
        &policy,
        "access_id_CA X509 '/CN=x' pos_rights globus CA:sign cond_subjects globus '\"*\"'",
    )
    .unwrap();
    names(&policy, "no entry for its CA");
    std::fs::remove_file(&policy).unwrap();
    names(&policy, "does not exist");
    w.install(&w.root());
    let vo = trust.voms_dir.join("cms");
    std::fs::create_dir_all(&vo).unwrap();
    for (file, text) in [("a.lsc", "/CN=one\n"), ("b.lsc", ""), ("c.pem", "<html>")] {
        std::fs::write(vo.join(file), text).unwrap();
        names(&vo.join(file), if file == "c.pem" { "web page" } else { "odd number of names" });
        std::fs::remove_file(vo.join(file)).unwrap();
    }
    assert_eq!(look(), []);
}
