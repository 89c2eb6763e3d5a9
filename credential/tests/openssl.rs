//! Name constraints and revocation lists: OpenSSL 3 is asked beside us.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use harness::needs;
use harness::pki::build::{self, Extension, List, T61, UTF8, dn, dn_of, tlv};
use identity::RefusalKind;
use world::{World, refused};

fn email(text: &str) -> Vec<u8> {
    tlv(0x81, text.as_bytes())
}

fn host(text: &str) -> Vec<u8> {
    tlv(0x82, text.as_bytes())
}

fn uri(text: &str) -> Vec<u8> {
    tlv(0x86, text.as_bytes())
}

fn directory_name(name: &[u8]) -> Vec<u8> {
    tlv(0xa4, name)
}

#[test]
#[needs("openssl")]
fn name_constraints_answer_as_openssl_does() {
    let mut w = World::new();
    for (what, permitted, excluded, subject, alternative, error) in
        constraint_cases(&w.alice).into_iter().chain(host_cases(&w.alice))
    {
        w.alice = subject;
        w.install(&w.root().with(Extension::constraints(&permitted, &excluded)));
        let mut person = w.person();
        if !alternative.is_empty() {
            person = person.with(Extension::alternative(&alternative));
        }
        assert_eq!(w.openssl(&person, false), error, "OpenSSL, {what}");
        match error {
            0 => drop(w.alone(&person).unwrap_or_else(|e| panic!("{what}: {}", e.reason))),
            _ => refused(w.alone(&person), RefusalKind::Trust, "outside the name constraints of"),
        }
    }
}

/// What, permitted, excluded, subject, alternative names, OpenSSL's error number.
type Case = (&'static str, Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<u8>, Vec<Vec<u8>>, u32);

fn constraint_cases(alice: &[u8]) -> Vec<Case> {
    let grid = dn(&[("C", "XX"), ("O", "Grid")]);
    let shouted = dn_of(&[("C", UTF8, b"xx"), ("O", T61, b" GRID ")]);
    let other = dn(&[("C", "YY")]);
    let mail = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "Alice"), ("emailAddress", "alice@evil.org")]);
    let plain = alice.to_vec();
    let mailbox =
        tlv(0xa0, &[build::oid("1.3.6.1.5.5.7.8.9"), tlv(0xa0, &tlv(UTF8, b"a@evil.org"))].concat());
    vec![
        ("inside", vec![directory_name(&grid)], vec![], plain.clone(), vec![], 0),
        ("inside, spelt otherwise", vec![directory_name(&shouted)], vec![], plain.clone(), vec![], 0),
        ("excluded, spelt otherwise", vec![], vec![directory_name(&shouted)], plain.clone(), vec![], 48),
        ("outside", vec![directory_name(&other)], vec![], plain.clone(), vec![], 47),
        (
            "alternative name outside",
            vec![directory_name(&grid)],
            vec![],
            plain.clone(),
            vec![directory_name(&other)],
            47,
        ),
        (
            "alternative name excluded",
            vec![],
            vec![directory_name(&other)],
            plain.clone(),
            vec![directory_name(&other)],
            48,
        ),
        ("mail in the subject", vec![email("good.org")], vec![], mail.clone(), vec![], 47),
        ("mail in the subject, excluded", vec![], vec![email("evil.org")], mail.clone(), vec![], 48),
        ("no mail to judge", vec![email("good.org")], vec![], plain.clone(), vec![], 0),
        ("mail that fits", vec![email("good.org")], vec![], plain.clone(), vec![email("a@good.org")], 0),
        ("mail that does not", vec![email("good.org")], vec![], plain.clone(), vec![email("a@evil.org")], 47),
        (
            "mail of a host below",
            vec![email(".good.org")],
            vec![],
            plain.clone(),
            vec![email("a@x.good.org")],
            0,
        ),
        ("one mailbox", vec![email("a@good.org")], vec![], plain.clone(), vec![email("b@good.org")], 47),
        ("mail in another coat", vec![email("good.org")], vec![], plain.clone(), vec![mailbox], 47),
    ]
}

fn host_cases(alice: &[u8]) -> Vec<Case> {
    let machine = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "wn.evil.org")]);
    let plain = alice.to_vec();
    let upn = tlv(0xa0, &[build::oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xa0, &tlv(UTF8, b"alice"))].concat());
    let address = |bytes: &[u8]| tlv(0x87, bytes);
    vec![
        ("host that fits", vec![host("good.org")], vec![], plain.clone(), vec![host("wn.good.org")], 0),
        ("host that does not", vec![host("good.org")], vec![], plain.clone(), vec![host("wngood.org")], 47),
        ("host excluded", vec![], vec![host("evil.org")], plain.clone(), vec![host("WN.evil.org")], 48),
        ("host as common name", vec![host("good.org")], vec![], machine.clone(), vec![], 47),
        ("all hosts excluded", vec![], vec![host("")], plain.clone(), vec![host("wn.good.org")], 48),
        ("URI that fits", vec![uri("good.org")], vec![], plain.clone(), vec![uri("https://good.org:1/x")], 0),
        (
            "URI that does not",
            vec![uri("good.org")],
            vec![],
            plain.clone(),
            vec![uri("https://evil.org/good.org")],
            47,
        ),
        (
            "address inside",
            vec![address(&[10, 0, 0, 0, 255, 0, 0, 0])],
            vec![],
            plain.clone(),
            vec![address(&[10, 1, 2, 3])],
            0,
        ),
        (
            "address outside",
            vec![address(&[10, 0, 0, 0, 255, 0, 0, 0])],
            vec![],
            plain.clone(),
            vec![address(&[11, 1, 2, 3])],
            47,
        ),
        (
            "other forms without a constraint",
            vec![email("good.org")],
            vec![],
            plain.clone(),
            vec![upn.clone()],
            0,
        ),
        ("a constraint on an odd form", vec![upn.clone()], vec![], plain.clone(), vec![upn], 51),
        ("an odd form that nobody has", vec![tlv(0x88, &[0x2a])], vec![], plain.clone(), vec![], 0),
    ]
}

const PART_A: &str = "http://ca.example.org/a.crl";
/// In place of an error number: OpenSSL 3.0 takes a delta for a whole list, which RFC 5280 section 5.2.4 forbids.
const DELTA: u32 = 1000;
const PART_B: &str = "http://ca.example.org/b.crl";

#[test]
#[needs("openssl")]
fn a_list_that_covers_a_part_says_nothing_of_the_rest() {
    let w = World::new();
    let flag = |tag: u8| tlv(tag, &[0xff]);
    let (mine, theirs) =
        (w.person().with(Extension::point(PART_A)), w.person().with(Extension::point(PART_B)));
    let of = |uri, flags: &[u8]| List::new(&w.ca).with(Extension::issuing_point(uri, flags));
    let delta = List::new(&w.ca).with(Extension("2.5.29.27", true, tlv(2, &[1])));
    let quiet_delta = List::new(&w.ca).with(Extension("2.5.29.27", false, tlv(2, &[1])));
    let odd = List::new(&w.ca).with(Extension("1.2.3.4", true, vec![5, 0]));
    let harmless = List::new(&w.ca).with(Extension("1.2.3.4", false, vec![5, 0]));
    let entry = |extension| List { entries: vec![(vec![9], vec![extension])], ..List::new(&w.ca) };
    let reason = Extension("2.5.29.21", false, vec![0x0a, 1, 1]);
    for (what, person, list, error) in [
        ("complete", &mine, List::new(&w.ca), 0),
        ("its own part", &mine, of(Some(PART_A), &[]), 0),
        ("another part", &theirs, of(Some(PART_A), &[]), 44),
        ("a part, and no point in the certificate", &w.person(), of(Some(PART_A), &[]), 44),
        ("users", &mine, of(None, &flag(0x81)), 0),
        ("CAs", &mine, of(None, &flag(0x82)), 44),
        ("attribute certificates", &mine, of(None, &flag(0x85)), 44),
        ("indirect", &mine, of(None, &flag(0x84)), 44),
        ("some reasons", &mine, of(None, &tlv(0x83, &[1, 0x40])), 44),
        ("delta", &mine, delta, DELTA),
        ("delta that is not critical", &mine, quiet_delta, DELTA),
        ("unknown critical extension", &mine, odd, 36),
        ("unknown extension", &mine, harmless, 0),
        ("unknown critical extension of an entry", &mine, entry(Extension("1.2.3.4", true, vec![5, 0])), 36),
        ("entry with a reason", &mine, entry(reason), 0),
        ("revoked", &mine, List::new(&w.ca).revoking(&mine.serial), 23),
        ("revoked in its part", &mine, of(Some(PART_A), &[]).revoking(&mine.serial), 23),
        ("out of date", &mine, List { to: Some(-60), ..List::new(&w.ca) }, 12),
        ("of tomorrow", &mine, List { from: 4000, ..List::new(&w.ca) }, 11),
    ] {
        w.revoke(&list);
        // OpenSSL finds no list where it takes none for one
        let theirs = w.openssl(person, true);
        assert!(theirs == error || error == DELTA || (error == 44 && theirs == 3), "{what}: {theirs}");
        match (error, w.alone(person)) {
            (0, verdict) => drop(verdict.unwrap_or_else(|e| panic!("{what}: {}", e.reason))),
            (23, verdict) => refused(verdict, RefusalKind::Trust, "revoked by its CA"),
            (_, verdict) => refused(verdict, RefusalKind::Trust, ".r0: "),
        }
    }
}
