//! Our verdict on proxies of every kind beside that of LCMAPS's own `verify-proxy-tool`.
//!
//! Where the two differ on purpose the case says so and why; any other difference fails.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use credential::{Trust, identity_of_file};
use delegation::KeyKind;
use harness::needs;
use harness::pki::build::Sign;
use harness::pki::{Craft, INDEPENDENT, LIMITED, PCI_DRAFT, Pki, User, tampered};
use identity::RefusalKind::{self, Chain, Expired, Key, Policy, Trust as Untrusted};
use identity::{Refusal, VerifiedIdentity};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a case must lead to.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// Both accept.
    Accepted,
    /// Both refuse; ours is of this class.
    Refused(RefusalKind),
    /// LCMAPS accepts, we refuse with this class, for this reason.
    Stricter(RefusalKind, &'static str),
}
use Expect::{Accepted, Refused, Stricter};

struct Bench {
    _dir: tempfile::TempDir,
    pki: Pki,
    alice: User,
    trust: Trust,
    wrong: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path()).unwrap();
        let alice = pki.user("alice", "Alice Adams").unwrap();
        let trust = Trust {
            ca_dir: pki.ca_dir.clone(),
            voms_dir: pki.voms_dir.clone(),
            require_crl: false,
            max_proxy_lifetime: Duration::from_secs(7 * 86_400),
            allow_limited: true,
            rules: identity::ChainRules { allow_legacy: true, ..identity::ChainRules::default() },
        };
        Self { _dir: dir, pki, alice, trust, wrong: Vec::new(), counts: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pki.dir().join(format!("{name}.pem"))
    }

    fn ours(&self, proxy: &Path) -> Result<VerifiedIdentity, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        identity_of_file(proxy, &self.trust, now)
    }

    fn theirs(&self, proxy: &Path) -> (bool, String) {
        let mut command = Command::new("verify-proxy-tool");
        command.arg(proxy).env("X509_CERT_DIR", &self.pki.ca_dir);
        let ran = command.output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        match ran.status.code() {
            Some(0) => (true, said),
            Some(2) => (false, said),
            other => panic!("verify-proxy-tool {}: {other:?} {said}", proxy.display()),
        }
    }

    fn compare(&mut self, name: &'static str, proxy: &Path, expect: Expect) {
        let ours = self.ours(proxy).map(|i| i.subject.to_string());
        let (theirs, said) = self.theirs(proxy);
        let good = match (expect, &ours, theirs) {
            (Accepted, Ok(_), true) => true,
            (Refused(kind), Err(refusal), false) => refusal.kind == kind,
            (Stricter(kind, _), Err(refusal), true) => refusal.kind == kind,
            _ => false,
        };
        if let Stricter(_, why) = expect {
            println!("stricter than LCMAPS: {name}: {why}");
        }
        if !good {
            self.wrong
                .push(format!("{name}: expected {expect:?}\n  ours: {ours:?}\n  LCMAPS: {theirs} {said}"));
        }
        let class = match expect {
            Accepted => "accepted",
            Refused(_) => "refused",
            Stricter(..) => "stricter",
        };
        *self.counts.entry(class).or_default() += 1;
    }

    fn craft(&mut self, name: &'static str, craft: Craft, expect: Expect) {
        let path = craft.below_user(&self.alice, &self.path(name)).unwrap();
        self.compare(name, &path, expect);
    }

    fn craft_below(&mut self, name: &'static str, parent: &str, craft: Craft, expect: Expect) {
        let path = craft.below_proxy(&self.path(parent), &self.path(name)).unwrap();
        self.compare(name, &path, expect);
    }

    /// No case may be wrong, and none may have been lost.
    fn finish(self, least: usize) {
        let total: usize = self.counts.values().sum();
        println!("{total} kinds compared: {:?}", self.counts);
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(total >= least, "only {total} kinds were compared");
    }
}

/// A user's RSA proxy, delegated to the queue and from there to a worker node, with every mixture of keys.
#[test]
#[needs("verify-proxy-tool", "grid-proxy-init", "voms-proxy-fake")]
fn delegated_proxies_with_ecdsa_keys_are_accepted_by_both() {
    let mut b = Bench::new();
    let user = b.pki.grid_proxy(&b.alice, &b.path("user"), &["-rfc"]).unwrap();
    for (name, kinds) in [
        ("rsa-ecdsa", [KeyKind::Rsa2048, KeyKind::EcdsaP256]),
        ("ecdsa-rsa", [KeyKind::EcdsaP256, KeyKind::Rsa2048]),
        ("ecdsa-ecdsa", [KeyKind::EcdsaP256, KeyKind::EcdsaP256]),
    ] {
        let mut credential = fs::read_to_string(&user).unwrap();
        for kind in kinds {
            let (key, request) = delegation::new_request_for(kind).unwrap();
            let chain = delegation::sign(&request, &credential, Duration::from_secs(3600), false).unwrap();
            credential = delegation::join(chain, key).unwrap();
        }
        let path = b.path(name);
        fs::write(&path, credential).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        b.compare(name, &path, Accepted);
    }
    b.finish(3);
}

fn plain() -> Craft {
    Craft::default()
}

#[test]
#[needs("verify-proxy-tool", "grid-proxy-init", "voms-proxy-fake")]
fn proxies_of_the_real_tools_are_accepted_by_both() {
    let mut b = Bench::new();
    let kinds: [(&'static str, &[&str]); 6] = [
        ("rfc", &["-rfc"]),
        ("rfc-limited", &["-rfc", "-limited"]),
        ("rfc-path-length", &["-rfc", "-path-length", "3"]),
        ("draft", &["-draft"]),
        ("legacy", &["-old"]),
        ("legacy-limited", &["-old", "-limited"]),
    ];
    for (name, options) in kinds {
        let path = b.pki.grid_proxy(&b.alice, &b.path(name), options).unwrap();
        b.compare(name, &path, Accepted);
    }
    let second = b.pki.grid_proxy_of_proxy(&b.path("rfc"), &b.path("rfc-rfc"), &["-rfc"]).unwrap();
    b.compare("rfc below rfc", &second, Accepted);
    let people: [(&'static str, &[(&str, &str)]); 3] = [
        ("email", &[("C", "XX"), ("O", "Test Grid"), ("CN", "Eve"), ("emailAddress", "eve@example.org")]),
        ("unicode", &[("C", "XX"), ("O", "Test Grid"), ("CN", "Jürgen Müller-Łukasiewicz")]),
        ("slash", &[("C", "XX"), ("O", "Test Grid"), ("CN", "host/odd.example.org")]),
    ];
    for (name, parts) in people {
        let user = b.pki.subject(name, parts, 30).unwrap();
        let path = b.pki.grid_proxy(&user, &b.path(name), &["-rfc"]).unwrap();
        b.compare(name, &path, Accepted);
    }
    let fqans = ["/cms/Role=pilot/Capability=NULL", "/cms/Role=NULL/Capability=NULL"];
    let voms = b.pki.voms_proxy(&b.alice, &b.path("voms"), "cms", &fqans).unwrap();
    b.compare("voms", &voms, Accepted);
    let found = b.ours(&voms).unwrap();
    assert_eq!(found.fqans().iter().map(|f| f.as_str()).collect::<Vec<_>>(), fqans);
    assert_eq!(found.subject.as_str(), b.alice.dn);
    assert!(
        b.ours(&b.path("legacy-limited")).unwrap().limited && b.ours(&b.path("rfc-limited")).unwrap().limited
    );
    b.finish(11);
}

#[test]
#[needs("verify-proxy-tool", "grid-proxy-init", "voms-proxy-fake")]
fn chains_that_break_the_rules_are_refused_by_both() {
    let mut b = Bench::new();
    b.craft("plain", plain(), Accepted);
    b.craft("path length 0", Craft { path_len: Some(0), ..plain() }, Accepted);
    b.craft("limited", Craft { language: LIMITED, ..plain() }, Accepted);
    b.craft("legacy", Craft { pci: None, cn: "proxy".to_owned(), ..plain() }, Accepted);
    b.craft("draft", Craft { pci: Some(PCI_DRAFT), path_len: Some(2), ..plain() }, Accepted);
    b.craft("expired", Craft { from: -7200, to: -3600, ..plain() }, Refused(Expired));
    b.craft("future", Craft { from: 3600, to: 7200, ..plain() }, Refused(Expired));
    let bob = Some(vec![("C", "XX"), ("O", "Test Grid"), ("OU", "people"), ("CN", "Bob")]);
    b.craft("another's name", Craft { base: bob, ..plain() }, Refused(Chain));
    b.craft("not critical", Craft { critical: false, ..plain() }, Refused(Chain));
    b.craft("proxyCertInfo twice", Craft { twice: true, ..plain() }, Refused(Chain));
    let both = vec![(PCI_DRAFT, true, hex::decode("300c300a06082b06010505071501").unwrap())];
    b.craft("RFC and draft at once", Craft { extra: both, ..plain() }, Refused(Chain));
    let odd = vec![("1.2.3.4.5", true, vec![5, 0])];
    b.craft("unknown critical extension", Craft { extra: odd, ..plain() }, Refused(Chain));
    let names = vec![("2.5.29.17", false, hex::decode("3003820161").unwrap())];
    b.craft("alternative names", Craft { extra: names, ..plain() }, Refused(Chain));
    b.craft_below("child of path length 0", "path length 0", plain(), Refused(Chain));
    b.craft_below("full below limited", "limited", plain(), Refused(Chain));
    b.craft_below("limited below limited", "limited", Craft { language: LIMITED, ..plain() }, Accepted);
    b.craft_below("RFC below legacy", "legacy", plain(), Refused(Chain));
    b.craft_below("RFC below draft", "draft", plain(), Refused(Chain));
    b.craft_below(
        "legacy below RFC",
        "plain",
        Craft { pci: None, cn: "proxy".into(), ..plain() },
        Refused(Chain),
    );
    b.craft_below("outlives its expired issuer", "expired", plain(), Refused(Expired));
    for back in [5, 200] {
        let path = tampered(&b.path("plain"), &b.path("tampered"), back).unwrap();
        b.compare("altered signature", &path, Refused(Chain));
    }
    b.finish(22);
}

/// The PEM blocks of a file, in order.
fn blocks(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.split_inclusive("-----\n").collect::<Vec<_>>().chunks(2).map(|c| c.concat()).collect()
}

fn write(path: PathBuf, parts: &[&str]) -> PathBuf {
    credential::write_private(&path, &parts.concat()).unwrap();
    path
}

#[test]
#[needs("verify-proxy-tool", "grid-proxy-init", "voms-proxy-fake")]
fn keys_and_trust_are_judged_alike() {
    let mut b = Bench::new();
    b.craft("plain", plain(), Accepted);
    b.craft("other", Craft { cn: "42".to_owned(), ..plain() }, Accepted);
    let (own, other) = (blocks(&b.path("plain")), blocks(&b.path("other")));
    let path = write(b.path("k1"), &[&own[0], &other[1], &own[2]]);
    b.compare("another proxy's key", &path, Refused(Key));
    let path = write(b.path("k2"), &[&own[0], &own[2]]);
    let why = "the tool warns where the LCMAPS plug-in refuses: without the key anybody could present a copied chain";
    b.compare("no key", &path, Stricter(Key, why));
    let path = write(b.path("k3"), &[&own[0], &own[1]]);
    b.compare("issuer left out", &path, Refused(Chain));
    let bare = [fs::read_to_string(&b.alice.cert).unwrap(), fs::read_to_string(&b.alice.key).unwrap()];
    let path = write(b.path("k4"), &[&bare[0], &bare[1]]);
    b.compare("end-entity certificate with its key", &path, Accepted);
    let path = b.pki.issued_by_user(&b.alice, "fake", "Bob").unwrap();
    b.compare("user as CA", &path, Refused(Chain));
    let below = plain().below_proxy(&path, &b.path("below")).unwrap();
    b.compare("proxy below a certificate made by a user", &below, Refused(Chain));
    let stranger = b.pki.stranger("mallory", "Mallory").unwrap();
    let path = plain().below_user(&stranger, &b.path("unknown")).unwrap();
    b.compare("unknown CA", &path, Refused(Untrusted));
    let old = [("C", "XX"), ("O", "Test Grid"), ("CN", "Old")];
    let old = b.pki.subject("old", &old, -10).unwrap();
    let path = plain().below_user(&old, &b.path("old-user")).unwrap();
    b.compare("proxy of an expired user", &path, Refused(Expired));
    let carol = b.pki.user("carol", "Carol").unwrap();
    let revoked = plain().below_user(&carol, &b.path("revoked")).unwrap();
    b.compare("not revoked yet", &revoked, Accepted);
    b.pki.revoke(&carol).unwrap();
    b.compare("revoked", &revoked, Refused(Untrusted));
    let good = b.path("plain");
    b.pki.publish_crl(-7200, -3600).unwrap();
    b.compare("revocation list out of date", &good, Refused(Untrusted));
    b.pki.remove_crl().unwrap();
    b.compare("no revocation list", &good, Accepted);
    b.trust.require_crl = true;
    b.compare("no revocation list, required", &good, Stricter(Untrusted, "[trust] require_crl is ours"));
    b.finish(15);
}

#[test]
#[needs("verify-proxy-tool", "grid-proxy-init", "voms-proxy-fake")]
fn where_we_are_stricter_than_lcmaps() {
    let mut b = Bench::new();
    let why = "an independent proxy carries none of its issuer's rights (RFC 3820 3.8.2)";
    b.craft("independent", Craft { language: INDEPENDENT, ..plain() }, Stricter(Chain, why));
    let why = "a policy in an unknown language may forbid anything (RFC 3820 3.8.2)";
    b.craft("unknown language", Craft { language: "1.2.3.4", ..plain() }, Stricter(Chain, why));
    b.craft("any language", Craft { language: "1.3.6.1.5.5.7.21.0", ..plain() }, Stricter(Chain, why));
    let why = "keys below 1024 bits can be factored; LCMAPS only warns";
    b.craft("short key", Craft { bits: 768, ..plain() }, Stricter(Chain, why));
    let why = "collisions of SHA-1 are practical; LCMAPS only warns";
    b.craft("SHA-1", Craft { sign: Sign::Sha1, ..plain() }, Stricter(Chain, why));
    let why = "[trust] max_proxy_lifetime is ours; LCMAPS has an option for it";
    b.craft("long lived", Craft { to: 30 * 86_400, ..plain() }, Stricter(Policy, why));
    b.trust.allow_limited = false;
    let why = "[trust] allow_limited is ours; LCMAPS has an option for it";
    b.craft("limited", Craft { language: LIMITED, ..plain() }, Stricter(Policy, why));
    let outside = b.pki.subject("outside", &[("DC", "org"), ("CN", "Outside")], 30).unwrap();
    let path = plain().below_user(&outside, &b.path("outside")).unwrap();
    b.compare("outside the signing policy", &path, Stricter(Untrusted, "LCMAPS ignores signing policies"));
    b.craft("plain", plain(), Accepted);
    for entry in fs::read_dir(&b.pki.ca_dir).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".signing_policy") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let path = b.path("plain");
    b.compare("no signing policy", &path, Stricter(Untrusted, "LCMAPS ignores signing policies"));
    b.finish(10);
}
