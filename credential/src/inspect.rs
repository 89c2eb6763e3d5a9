//! What the verifier would object to in a site's CA and VOMS directories, before a user meets it.
//!
//! The files are read and judged by the same code as for a verdict, each on its own: here all of them, there only those that
//! a chain names.

use crate::cadir::{self, CaDir};
use crate::cert::Cert;
use crate::chain::judge_key;
use crate::name::file_hashes;
use crate::revocation;
use crate::verdict::Trust;
use crate::voms::lsc;
use identity::Refusal;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How much an objection matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Somebody is refused because of it.
    Error,
    /// Nobody is refused, yet it is hardly what the site wants.
    Warning,
}

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// Which file or directory.
    pub path: PathBuf,
    /// How much it matters.
    pub weight: Weight,
    /// What is wrong and what to do, one line, without the path.
    pub reason: String,
}

/// Everything that is wrong with the files of the two directories, sorted by path; `now` in seconds since the epoch.
pub fn inspect(trust: &Trust, now: i64) -> Vec<Objection> {
    let mut found = Vec::new();
    match CaDir::open(&trust.ca_dir) {
        Err(refusal) => note(&mut found, &trust.ca_dir, refusal),
        Ok(dir) => ca_files(&dir, trust, now, &mut found),
    }
    voms_files(&trust.voms_dir, &mut found);
    found.sort_by(|a, b| (&a.path, a.weight, &a.reason).cmp(&(&b.path, b.weight, &b.reason)));
    found.dedup();
    found
}

fn objection(found: &mut Vec<Objection>, path: &Path, weight: Weight, reason: impl Into<String>) {
    let reason = identity::one_line(&reason.into());
    found.push(Objection { path: path.to_owned(), weight, reason });
}

/// A refusal names the path itself where the verifier says it.
fn note(found: &mut Vec<Objection>, path: &Path, refusal: Refusal) {
    let prefix = format!("{}: ", path.display());
    let reason = refusal.reason.replacen(&prefix, "", 1);
    objection(found, path, Weight::Error, reason);
}

/// The kinds of files of a CA directory by their ending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Certificate,
    List,
    Policy,
    Namespaces,
}

/// Hash and kind of `<8 hex>.<ending>`; `None` for files that no verifier reads.
fn kind(path: &Path) -> Option<(String, Kind)> {
    let name = path.file_name()?.to_str()?;
    let (hash, ending) = name.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let kind = match ending {
        "signing_policy" => Kind::Policy,
        "namespaces" => Kind::Namespaces,
        list if list.strip_prefix('r').is_some_and(digits) => Kind::List,
        number if digits(number) => Kind::Certificate,
        _ => return None,
    };
    let hashed = hash.len() == 8 && hash.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    hashed.then(|| (hash.to_owned(), kind))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths
}

fn ca_files(dir: &CaDir<'_>, trust: &Trust, now: i64, found: &mut Vec<Objection>) {
    let files: Vec<_> = entries(dir.path()).into_iter().filter_map(|p| Some((kind(&p)?, p))).collect();
    let mut cas: BTreeMap<String, Vec<Cert>> = BTreeMap::new();
    for ((hash, _), path) in files.iter().filter(|((_, kind), _)| *kind == Kind::Certificate) {
        readable(path, found);
        match cadir::read_certificates(path) {
            Err(refusal) => note(found, path, refusal),
            Ok(certs) => {
                for cert in certs.into_iter().flatten() {
                    certificate(path, hash, &cert, trust, now, found);
                    cas.entry(hash.clone()).or_default().push(cert);
                }
            }
        }
    }
    for ((hash, kind), path) in &files {
        if *kind == Kind::Certificate {
            continue;
        }
        readable(path, found);
        let mine = cas.get(hash).map_or(&[][..], Vec::as_slice);
        match kind {
            Kind::List => lists(path, mine, trust, now, found),
            _ => match mine.first() {
                Some(ca) => names(dir, path, *kind, ca, found),
                None => objection(found, path, Weight::Warning, "belongs to no installed CA; remove it"),
            },
        }
    }
    for (hash, certs) in &cas {
        let policy = dir.path().join(format!("{hash}.signing_policy"));
        if !files.iter().any(|((h, kind), _)| h == hash && *kind == Kind::Policy)
            && certs.iter().all(|ca| matches!(dir.signing_policy(ca), Ok(None)))
        {
            let what =
                "does not exist: who has a certificate of this CA is refused; install the CA's whole package";
            objection(found, &policy, Weight::Error, what);
        }
        let has_list = files.iter().any(|((h, kind), _)| h == hash && *kind == Kind::List);
        if trust.require_crl && !has_list {
            let what = "does not exist, and [trust] require_crl is set; run fetch-crl";
            objection(found, &dir.path().join(format!("{hash}.r0")), Weight::Error, what);
        }
    }
}

/// The verifier runs as an account of its own.
fn readable(path: &Path, found: &mut Vec<Objection>) {
    if let Ok(meta) = std::fs::metadata(path)
        && meta.mode() & 0o004 == 0
    {
        objection(found, path, Weight::Error, "glexec-verify reads it as account glexec; chmod a+r");
    }
}

fn certificate(path: &Path, hash: &str, cert: &Cert, trust: &Trust, now: i64, found: &mut Vec<Objection>) {
    if !file_hashes(&cert.subject).iter().any(|h| h == hash) {
        let right = &file_hashes(&cert.subject)[0];
        let what = format!("nobody finds it: the hash of its name is {right}; call it {right}.0");
        objection(found, path, Weight::Warning, what);
    }
    if !cert.is_authority() && !cert.is_anchor() {
        objection(found, path, Weight::Error, "is not a CA's certificate; install the right one");
    }
    if now > cert.not_after {
        objection(found, path, Weight::Warning, "has expired; update the CA's package, or remove it");
    }
    if let Err(refusal) = judge_key(cert, trust) {
        note(found, path, refusal);
    }
}

fn lists(path: &Path, cas: &[Cert], trust: &Trust, now: i64, found: &mut Vec<Objection>) {
    match cadir::read_lists(path) {
        Err(refusal) => note(found, path, refusal),
        Ok(lists) => match cas.first() {
            None => objection(found, path, Weight::Warning, "belongs to no installed CA; remove it"),
            Some(ca) => {
                for refusal in
                    lists.iter().filter_map(|der| revocation::inspect(path, der, ca, cas, trust, now))
                {
                    let reason = refusal.reason.rsplit_once(&format!("{}: ", path.display()));
                    let reason = reason.map_or(refusal.reason.as_str(), |(_, reason)| reason);
                    objection(found, path, Weight::Error, reason);
                }
            }
        },
    }
}

/// A signing policy or namespaces file: readable, and about its CA.
fn names(dir: &CaDir<'_>, path: &Path, kind: Kind, ca: &Cert, found: &mut Vec<Objection>) {
    let name = ca.subject.as_str();
    let about = match kind {
        Kind::Policy => dir.signing_policy(ca).map(|read| read.map(|(at, p)| (at, p.permits(name, name)))),
        _ => dir.namespaces(ca).map(|read| read.map(|(at, n)| (at, n.permits(name, name)))),
    };
    match about {
        Err(refusal) => note(found, path, refusal),
        Ok(Some((at, None))) if at == path => {
            let what =
                format!("has no entry for its CA {name}: its users are refused; reinstall its package");
            objection(found, path, Weight::Error, what);
        }
        Ok(_) => {}
    }
}

fn voms_files(voms_dir: &Path, found: &mut Vec<Objection>) {
    for path in entries(voms_dir) {
        if path.is_dir() {
            entries(&path).iter().for_each(|file| voms_file(file, found));
        } else {
            voms_file(&path, found);
        }
    }
}

fn voms_file(path: &Path, found: &mut Vec<Objection>) {
    let read = match path.extension().and_then(|e| e.to_str()) {
        Some("lsc") => cadir::read(path, 1 << 20).and_then(|bytes| {
            let lists = lsc::parse(&bytes.unwrap_or_default());
            lists.map(drop).map_err(|e| crate::refuse(identity::RefusalKind::Site, e.to_string()))
        }),
        Some("pem") => cadir::read_certificates(path).map(drop),
        _ => return,
    };
    readable(path, found);
    if let Err(refusal) = read {
        note(found, path, refusal);
    }
}
