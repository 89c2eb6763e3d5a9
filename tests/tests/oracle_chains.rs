//! Some hundred chains, each judged by us, by LCMAPS (`verify-proxy-tool`) and by Globus (`grid-cert-diagnostics`).
//!
//! Where one of them says something else than we do, `docs/credentials.md` has a row that says so and why; a difference
//! without a row fails, and so does a row that nothing shows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "oracle_chains/kinds.rs"]
mod kinds;

use credential::{Trust, identity_of_file};
use harness::needs;
use harness::pki::build::{self, Certificate, Directory, Extension, Kind, List, Sign, dn, key};
use harness::pki::{LIMITED, PCI_RFC};
use openssl::pkey::{PKey, Private};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Who accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Verdicts {
    lcmaps: bool,
    globus: bool,
    here: bool,
}

impl Verdicts {
    fn differ(self) -> bool {
        self.lcmaps != self.here || self.globus != self.here
    }
}

/// A site and a credential: plain and good until a kind spoils it.
struct Setup {
    root: Certificate,
    /// Signs what the root issues.
    root_key: PKey<Private>,
    /// Between the root and the person, root's side first; each with its key.
    between: Vec<Certificate>,
    person: Certificate,
    /// From the person's side to the leaf; all have the person's key.
    proxies: Vec<Certificate>,
    list: Option<List>,
    policy: Option<&'static str>,
    /// More files of the root's hash.
    files: Vec<(&'static str, Vec<u8>)>,
    /// The private key in the file.
    key: Option<PKey<Private>>,
    /// Changes the finished chain, leaf first.
    finish: fn(&mut Vec<Vec<u8>>),
}

const POLICY: &str = "access_id_ANYBODY pos_rights globus CA:sign cond_subjects globus '\"/C=XX/*\"'\n";

fn ca_name() -> Vec<u8> {
    dn(&[("C", "XX"), ("O", "Grid"), ("CN", "CA")])
}

fn alice_name() -> Vec<u8> {
    dn(&[("C", "XX"), ("O", "Grid"), ("CN", "Alice")])
}

impl Setup {
    fn new(kind: Kind, depth: usize) -> Self {
        let (root_key, own) = (key(kind, 0).unwrap(), key(kind, 1).unwrap());
        let root = Certificate::ca(&ca_name(), &ca_name(), &root_key);
        let person = Certificate::person(&alice_name(), &ca_name(), &own);
        let mut setup = Self {
            root,
            root_key,
            between: Vec::new(),
            person,
            proxies: Vec::new(),
            list: None,
            policy: Some(POLICY),
            files: Vec::new(),
            key: Some(own),
            finish: |_| {},
        };
        (0..depth).for_each(|_| setup.child());
        setup
    }

    /// One more plain proxy below the leaf.
    fn child(&mut self) {
        let above = self.proxies.last().unwrap_or(&self.person).subject.clone();
        let cn = (self.proxies.len() + 1).to_string();
        self.proxies.push(Certificate::proxy(&above, &cn, &self.person.key));
    }

    /// Another key of the same kind.
    fn other_key(&self) -> PKey<Private> {
        let kind = if self.root_key.rsa().is_ok() { Kind::Rsa(2048) } else { Kind::P256 };
        key(kind, 2).unwrap()
    }

    /// The leaf, which must be a proxy.
    fn leaf(&mut self) -> &mut Certificate {
        self.proxies.last_mut().unwrap()
    }

    /// The leaf with another proxyCertInfo.
    fn info(&mut self, oid: &'static str, language: &str, path_len: Option<u8>) {
        let leaf = self.leaf();
        *leaf = leaf.clone().without(PCI_RFC).with(Extension::proxy(oid, language, path_len));
    }

    /// The leaf as a proxy of GT2.
    fn legacy(&mut self, cn: &str) {
        let leaf = self.leaf();
        *leaf = leaf.clone().without(PCI_RFC);
        leaf.subject = build::below(&leaf.issuer, cn);
    }

    /// The leaf's name with another one in front, issuer included.
    fn rename_person(&mut self, name: &[u8]) {
        self.person.subject = name.to_vec();
        let depth = self.proxies.len();
        self.proxies.clear();
        (0..depth).for_each(|_| self.child());
    }

    fn write(&self, dir: &Path) -> PathBuf {
        let directory = Directory::new(&dir.join("certificates")).unwrap();
        let root = self.root.der(&self.root_key).unwrap();
        let name = ca_name();
        directory.put(&name, ".0", build::pem("CERTIFICATE", &root).as_bytes()).unwrap();
        for ca in [&name].into_iter().chain(self.between.iter().map(|c| &c.subject)) {
            if let Some(policy) = self.policy {
                directory.put(ca, ".signing_policy", policy.as_bytes()).unwrap();
            }
        }
        if let Some(list) = &self.list {
            directory.revoke(&name, &list.der(&self.root_key).unwrap()).unwrap();
        }
        for (ending, bytes) in &self.files {
            directory.put(&name, ending, bytes).unwrap();
        }
        let mut signer = &self.root_key;
        let mut chain = Vec::new();
        for cert in self.between.iter().chain([&self.person]).chain(&self.proxies) {
            chain.insert(0, cert.der(signer).unwrap());
            signer = &cert.key;
        }
        (self.finish)(&mut chain);
        let certs: String = chain.iter().map(|der| build::pem("CERTIFICATE", der)).collect();
        let text = match &self.key {
            Some(key) => build::credential(&chain, key).unwrap(),
            None => certs,
        };
        let path = dir.join("proxy.pem");
        credential::write_private(&path, &text).unwrap();
        path
    }
}

fn judge(dir: &Path, proxy: &Path) -> (Verdicts, String) {
    let certificates = dir.join("certificates");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let ours = identity_of_file(proxy, &Trust::in_dir(&certificates), now);
    let mut tool = Command::new("verify-proxy-tool");
    let lcmaps = tool.arg(proxy).env("X509_CERT_DIR", &certificates).output().unwrap();
    let mut tool = Command::new("grid-cert-diagnostics");
    let globus =
        tool.arg("-c").arg(proxy).env("X509_CERT_DIR", &certificates).env("HOME", dir).output().unwrap();
    let globus = String::from_utf8_lossy(&globus.stdout).into_owned();
    let verdicts = Verdicts {
        lcmaps: lcmaps.status.success(),
        globus: globus.contains("trust chain... ok"),
        here: ours.is_ok(),
    };
    let said = format!(
        "  here: {:?}\n  LCMAPS: {}",
        ours.map(|i| i.subject.to_string()).map_err(|e| e.reason),
        String::from_utf8_lossy(&lcmaps.stderr)
            .lines()
            .filter(|l| l.contains("rror"))
            .collect::<Vec<_>>()
            .join(" | ")
    );
    (verdicts, said)
}

/// The rows of the table: kind, what LCMAPS, Globus and we do.
fn table() -> BTreeMap<String, Verdicts> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/credentials.md")).unwrap();
    let (_, section) = text.split_once("## Differences to LCMAPS and Globus").expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|l| l.starts_with("| ")).skip(1);
    let verdict = |word: &str| match word {
        "accepted" => true,
        "refused" => false,
        other => panic!("the table says {other:?}, not accepted or refused"),
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert!(
            cells.len() == 5 && cells[4].len() > 10,
            "a row has five cells, the last one the reason: {line}"
        );
        let verdicts =
            Verdicts { lcmaps: verdict(cells[1]), globus: verdict(cells[2]), here: verdict(cells[3]) };
        (cells[0].to_owned(), verdicts)
    };
    rows.map(row).collect()
}

#[test]
#[needs("verify-proxy-tool", "grid-cert-diagnostics")]
fn every_difference_to_lcmaps_and_globus_stands_in_the_table() {
    let table = table();
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<&str, Verdicts> = BTreeMap::new();
    let mut count = 0;
    for (name, spoil) in kinds::all() {
        for kind in [Kind::Rsa(2048), Kind::P256] {
            for depth in 1..=3 {
                let dir = tempfile::tempdir().unwrap();
                let mut setup = Setup::new(kind, depth);
                spoil(&mut setup);
                let (verdicts, said) = judge(dir.path(), &setup.write(dir.path()));
                count += 1;
                let row = table.get(name).copied();
                let expected =
                    row.unwrap_or(Verdicts { lcmaps: verdicts.here, globus: verdicts.here, ..verdicts });
                if verdicts != expected
                    || seen.insert(name, verdicts).is_some_and(|before| before != verdicts)
                {
                    wrong.push(format!(
                        "{name}, {kind:?}, {depth} proxies: {verdicts:?}, table {row:?}\n{said}"
                    ));
                }
            }
        }
    }
    let stale = table.iter().filter(|(name, _)| !seen.get(name.as_str()).is_some_and(|v| v.differ()));
    wrong.extend(stale.map(|(name, _)| format!("the table has a row {name:?} that nothing shows")));
    let refused = seen.values().filter(|v| !v.here).count();
    println!("{count} chains of {} kinds, {refused} kinds refused, {} differ", seen.len(), table.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 300 && refused >= 20 && seen.len() - refused >= 20, "{count} chains, {refused} refused");
}
