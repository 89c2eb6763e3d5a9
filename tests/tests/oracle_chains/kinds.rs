//! The kinds of chains: what is odd about each.

use super::*;
use harness::pki::build::{BMP, T61, UTF8, dn_of, tlv};
use harness::pki::{INDEPENDENT, INHERIT_ALL, PCI_DRAFT};

/// A name, which is the row's in the table, and what it does to a plain setup.
pub type Named = (&'static str, fn(&mut Setup));

const DAY: i64 = 86_400;
const POINT: &str = "http://ca.example.org/a.crl";

/// Every kind.
pub fn all() -> impl Iterator<Item = Named> {
    proxies().into_iter().chain(people()).chain(authorities()).chain(lists()).chain(files())
}

fn proxies() -> Vec<Named> {
    vec![
        ("plain", |_| {}),
        ("limited proxy", |s| s.info(PCI_RFC, LIMITED, None)),
        ("path length that suffices", |s| {
            s.info(PCI_RFC, INHERIT_ALL, Some(1));
            s.child();
        }),
        ("path length used up", |s| {
            s.info(PCI_RFC, INHERIT_ALL, Some(0));
            s.child();
        }),
        ("full proxy below a limited one", |s| {
            s.info(PCI_RFC, LIMITED, None);
            s.child();
        }),
        ("limited proxy below a limited one", |s| {
            s.info(PCI_RFC, LIMITED, None);
            s.child();
            s.info(PCI_RFC, LIMITED, None);
        }),
        ("independent proxy", |s| s.info(PCI_RFC, INDEPENDENT, None)),
        ("policy language anyLanguage", |s| s.info(PCI_RFC, "1.3.6.1.5.5.7.21.0", None)),
        ("unknown policy language", |s| s.info(PCI_RFC, "1.2.3.4", None)),
        ("draft (GT3) proxy", |s| {
            s.proxies.truncate(1);
            s.info(PCI_DRAFT, INHERIT_ALL, None);
        }),
        ("legacy (GT2) proxy", |s| {
            s.proxies.truncate(1);
            s.legacy("proxy");
        }),
        ("RFC 3820 proxy below a legacy one", |s| {
            s.proxies.truncate(1);
            s.legacy("proxy");
            s.child();
        }),
        ("RFC 3820 proxy below a draft one", |s| {
            s.proxies.truncate(1);
            s.info(PCI_DRAFT, INHERIT_ALL, None);
            s.child();
        }),
        ("proxy of another name", |s| s.leaf().subject = dn(&[("C", "XX"), ("CN", "Bob"), ("CN", "1")])),
        ("proxyCertInfo that is not critical", |s| {
            let leaf = s.leaf();
            leaf.extensions.iter_mut().filter(|e| e.0 == PCI_RFC).for_each(|e| e.1 = false);
        }),
        ("alternative names in a proxy", |s| {
            let leaf = s.leaf();
            *leaf = leaf.clone().with(Extension::alternative(&[tlv(0x82, b"a.example.org")]));
        }),
        ("proxy that claims to be a CA", |s| {
            let leaf = s.leaf();
            *leaf = leaf.clone().with(Extension::basic(true, None));
        }),
        ("unknown critical extension in a proxy", |s| {
            let leaf = s.leaf();
            *leaf = leaf.clone().with(Extension("1.2.3.4", true, vec![5, 0]));
        }),
        ("expired proxy", |s| *s.leaf() = s.leaf().clone().valid(-7200, -3600)),
        ("proxy of tomorrow", |s| *s.leaf() = s.leaf().clone().valid(DAY, 2 * DAY)),
        ("proxy that lives longer than max_proxy_lifetime", |s| {
            *s.leaf() = s.leaf().clone().valid(-300, 20 * DAY);
        }),
        ("proxy below a re-encoded name", |s| {
            let wide = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
            s.proxies.truncate(1);
            let spelt = dn_of(&[("C", T61, b"xx"), ("O", T61, b"GRID "), ("CN", BMP, &wide("Alice"))]);
            s.leaf().issuer = spelt;
        }),
        ("altered signature", |s| {
            s.finish = |chain| {
                let last = chain[0].len() - 3;
                chain[0][last] ^= 1;
            }
        }),
        ("issuer left out", |s| s.finish = |chain| drop(chain.remove(1))),
        ("no private key", |s| s.key = None),
        ("another's private key", |s| s.key = Some(key(Kind::Rsa(2048), 7).unwrap())),
    ]
}

fn people() -> Vec<Named> {
    vec![
        ("expired person", |s| s.person = s.person.clone().valid(-9 * DAY, -DAY)),
        ("person of tomorrow", |s| s.person = s.person.clone().valid(DAY, 9 * DAY)),
        ("mail address in the name", |s| {
            s.rename_person(&dn(&[
                ("C", "XX"),
                ("O", "Grid"),
                ("CN", "Eve"),
                ("emailAddress", "e@example.org"),
            ]));
        }),
        ("name in UTF-8", |s| s.rename_person(&dn(&[("C", "XX"), ("CN", "Jürgen Łukasiewicz")]))),
        ("name in Latin-1", |s| s.rename_person(&dn_of(&[("C", UTF8, b"XX"), ("CN", T61, b"J\xfcrgen")]))),
        ("slash in the name", |s| s.rename_person(&dn(&[("C", "XX"), ("CN", "host/wn.example.org")]))),
        ("keyUsage without digitalSignature", |s| s.person = s.person.clone().with(Extension::usage(0x20))),
        ("no keyUsage", |s| s.person = s.person.clone().without("2.5.29.15")),
        ("extKeyUsage without clientAuth", |s| {
            s.person = s.person.clone().with(Extension::extended(&["1.3.6.1.5.5.7.3.1"]));
        }),
        ("extKeyUsage with clientAuth", |s| {
            s.person = s.person.clone().with(Extension::extended(&["1.3.6.1.5.5.7.3.2"]));
        }),
        ("nsCertType without clients", |s| s.person = s.person.clone().with(netscape(0x40))),
        ("nsCertType with clients", |s| s.person = s.person.clone().with(netscape(0xa0))),
        ("critical CRL distribution points", |s| {
            let Extension(oid, _, value) = Extension::point(POINT);
            s.person = s.person.clone().with(Extension(oid, true, value));
        }),
        ("unknown critical extension", |s| {
            s.person = s.person.clone().with(Extension("1.2.3.4", true, vec![5, 0]));
        }),
        ("unknown extension", |s| s.person = s.person.clone().with(Extension("1.2.3.4", false, vec![5, 0]))),
        ("person of X.509 version 1", |s| s.person = s.person.clone().version_1()),
        ("person signed with SHA-1", |s| s.person = s.person.clone().signed(Sign::Sha1)),
        ("person signed with SHA-512", |s| s.person = s.person.clone().signed(Sign::Sha2(512))),
        ("RSA key of 1024 bits", |s| {
            s.person.key = key(Kind::Rsa(1024), 1).unwrap();
            s.key = Some(s.person.key.clone());
            s.proxies.clear();
        }),
        ("key on another curve", |s| {
            s.person.key = key(Kind::Brainpool, 1).unwrap();
            s.key = Some(s.person.key.clone());
            s.proxies.clear();
        }),
        ("person who acts as a CA", |s| {
            let other = s.other_key();
            let name = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "Bob")]);
            s.between = vec![s.person.clone()];
            s.person = Certificate::person(&name, &s.person.subject.clone(), &other);
            s.key = Some(other);
            s.rename_person(&name);
        }),
    ]
}

fn netscape(bits: u8) -> Extension {
    Extension("2.16.840.1.113730.1.1", true, tlv(3, &[0, bits]))
}

fn key_id(key: &PKey<Private>) -> Vec<u8> {
    openssl::sha::sha1(&key.public_key_to_der().unwrap()).to_vec()
}

fn subject_key(key: &PKey<Private>) -> Extension {
    Extension("2.5.29.14", false, tlv(4, &key_id(key)))
}

fn authority_key(key: &PKey<Private>) -> Extension {
    Extension("2.5.29.35", false, tlv(0x30, &tlv(0x80, &key_id(key))))
}

/// A CA between the root and the person.
fn sub(s: &mut Setup, change: impl Fn(Certificate) -> Certificate) {
    let name = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "Sub CA")]);
    s.between = vec![change(Certificate::ca(&name, &ca_name(), &s.other_key()))];
    s.person.issuer = name;
}

fn constrained(s: &mut Setup, permitted: &[Vec<u8>], excluded: &[Vec<u8>]) {
    s.root = s.root.clone().with(Extension::constraints(permitted, excluded));
}

fn authorities() -> Vec<Named> {
    vec![
        ("CA between", |s| sub(s, |c| c)),
        ("expired CA between", |s| sub(s, |c| c.valid(-9 * DAY, -DAY))),
        ("CA between without basicConstraints", |s| sub(s, |c| c.without("2.5.29.19"))),
        ("CA between without keyCertSign", |s| sub(s, |c| c.with(Extension::usage(0x02)))),
        ("path length of the root used up", |s| {
            s.root = s.root.clone().with(Extension::basic(true, Some(0)));
            sub(s, |c| c);
        }),
        ("link certificate", |s| {
            let (old, new) = (s.root_key.clone(), s.other_key());
            let link = Certificate::ca(&ca_name(), &ca_name(), &new).serial(&[7]);
            s.between = vec![link.with(subject_key(&new)).with(authority_key(&old))];
            s.root = s.root.clone().with(subject_key(&old));
            s.person = s.person.clone().with(authority_key(&new));
        }),
        ("expired root", |s| s.root = s.root.clone().valid(-9 * DAY, -DAY)),
        ("root of X.509 version 1", |s| s.root = s.root.clone().version_1()),
        ("root without basicConstraints", |s| s.root = s.root.clone().without("2.5.29.19")),
        ("root without basicConstraints and keyUsage", |s| {
            s.root = s.root.clone().without("2.5.29.19").without("2.5.29.15");
        }),
        ("root that says it is no CA", |s| s.root = s.root.clone().with(Extension::basic(false, None))),
        ("root signed with SHA-1", |s| s.root = s.root.clone().signed(Sign::Sha1)),
        ("unknown root", |s| s.person.issuer = dn(&[("C", "XX"), ("CN", "Nobody's CA")])),
        ("within the name constraints", |s| {
            constrained(s, &[tlv(0xa4, &dn(&[("C", "xx"), ("O", "grid")]))], &[tlv(0x82, b"example.org")]);
        }),
        ("outside the name constraints", |s| constrained(s, &[tlv(0xa4, &dn(&[("C", "YY")]))], &[])),
        ("excluded by name constraints", |s| {
            constrained(s, &[], &[tlv(0xa4, &dn(&[("C", "xx"), ("O", " GRID")]))])
        }),
    ]
}

fn lists() -> Vec<Named> {
    fn list(s: &mut Setup, change: impl Fn(List) -> List) {
        s.list = Some(change(List::new(&ca_name())));
    }
    vec![
        ("revocation list", |s| list(s, |l| l.revoking(&[9]))),
        ("revoked", |s| {
            let serial = s.person.serial.clone();
            list(s, |l| l.revoking(&serial));
        }),
        ("revocation list out of date", |s| list(s, |l| List { to: Some(-60), ..l })),
        ("revocation list of tomorrow", |s| list(s, |l| List { from: DAY, to: Some(2 * DAY), ..l })),
        ("revocation list without nextUpdate", |s| list(s, |l| List { to: None, ..l })),
        ("revocation list signed with SHA-1", |s| list(s, |l| List { sign: Sign::Sha1, ..l })),
        ("revocation list for a part, which is named", |s| {
            s.person = s.person.clone().with(Extension::point(POINT));
            list(s, |l| l.with(Extension::issuing_point(Some(POINT), &[])));
        }),
        ("revocation list for another part", |s| {
            list(s, |l| l.with(Extension::issuing_point(Some(POINT), &[])))
        }),
        ("revocation list for CAs only", |s| {
            list(s, |l| l.with(Extension::issuing_point(None, &tlv(0x82, &[0xff]))));
        }),
        ("revocation list that is a delta", |s| {
            list(s, |l| l.with(Extension("2.5.29.27", true, tlv(2, &[1]))))
        }),
        ("unknown critical extension in a list", |s| {
            list(s, |l| l.with(Extension("1.2.3.4", true, vec![5, 0])))
        }),
        ("unknown critical extension in an entry", |s| {
            let entry = (vec![9], vec![Extension("1.2.3.4", true, vec![5, 0])]);
            list(s, |l| List { entries: vec![entry.clone()], ..l });
        }),
    ]
}

fn files() -> Vec<Named> {
    vec![
        ("empty revocation list", |s| s.files.push((".r0", Vec::new()))),
        ("web page as revocation list", |s| s.files.push((".r0", b"<html>502</html>\n".to_vec()))),
        ("no signing policy", |s| s.policy = None),
        ("outside the signing policy", |s| {
            s.policy =
                Some("access_id_ANYBODY pos_rights globus CA:sign cond_subjects globus '\"/C=YY/*\"'\n");
        }),
        ("signing policy without conditions", |s| {
            s.policy = Some("access_id_CA X509 '/C=XX/O=Grid/CN=CA'\npos_rights globus CA:sign\n");
        }),
        ("outside the namespaces", |s| {
            s.files.push((".namespaces", b"TO Issuer SELF PERMIT Subject \"/C=YY/.*\"\n".to_vec()));
        }),
        ("expired .0 beside a valid .1", |s| {
            let valid = s.root.der(&s.root_key).unwrap();
            s.root = s.root.clone().valid(-9 * DAY, -DAY);
            s.files.push((".1", build::pem("CERTIFICATE", &valid).into_bytes()));
        }),
    ]
}
