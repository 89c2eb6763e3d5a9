//! The hashed CA directory (`X509_CERT_DIR`): `<hash>.N` certificates, `<hash>.rN` revocation lists,
//! `<hash>.signing_policy` and `<hash>.namespaces`, under today's hash or the MD5 one of OpenSSL before 1.0.
//!
//! Only the files that a chain names are read, so that a directory of hundreds of CAs costs no more than one of a few.

use crate::cert::Cert;
use crate::name::{Name, file_hashes};
use crate::namespaces::Namespaces;
use crate::pem;
use crate::refuse;
use crate::signing_policy::SigningPolicy;
use identity::{Refusal, RefusalKind};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest certificate or policy file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Largest revocation list that is read, in bytes.
const MAX_CRL: u64 = 64 << 20;
/// `<hash>.0` to `<hash>.15` are looked at.
const MAX_SIBLINGS: usize = 16;

/// A file of revocation lists: path, and DER of the lists or why it is of no use.
pub type ListFile = (PathBuf, Result<Vec<Vec<u8>>, Refusal>);

/// An open CA directory.
#[derive(Debug)]
pub struct CaDir<'a> {
    path: &'a Path,
}

fn site(path: &Path, what: impl std::fmt::Display) -> Refusal {
    refuse(RefusalKind::Site, format!("{}: {what}", path.display()))
}

fn refuse_world_writable(path: &Path, meta: &std::fs::Metadata) -> Result<(), Refusal> {
    if meta.mode() & 0o002 != 0 {
        return Err(site(path, "everybody may write it, so it cannot be trusted; chmod o-w it"));
    }
    Ok(())
}

/// Reads a file of at most `limit` bytes; `None` when there is none.
///
/// # Errors
/// `Site` when it cannot be read, is too large, or everybody may write it.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Refusal> {
    // without waiting: a FIFO in the directory must not keep anybody
    let opened = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(path, &e)),
    };
    let meta = file.metadata().map_err(|e| site(path, e))?;
    refuse_world_writable(path, &meta)?;
    if !meta.is_file() {
        return Err(site(path, "is not a file; remove it"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(limit)).unwrap_or_default());
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| site(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(site(path, format_args!("is larger than {limit} bytes; replace it")));
    }
    Ok(Some(bytes))
}

/// The verifier may not follow links to everywhere, see `Confinement` in `docs/credentials.md`.
fn unreadable(path: &Path, e: &std::io::Error) -> Refusal {
    let link = std::fs::read_link(path).ok().filter(|_| e.kind() == ErrorKind::PermissionDenied);
    let remedy = match link {
        Some(to) => {
            format!("make {} readable, and keep it below this directory, /usr/share or /cvmfs", to.display())
        }
        None => "make it readable".into(),
    };
    site(path, format_args!("cannot be opened ({e}); {remedy}"))
}

/// Reads every certificate of a PEM or DER file.
pub(crate) fn read_certificates(path: &Path) -> Result<Option<Vec<Cert>>, Refusal> {
    let Some(bytes) = read(path, MAX_FILE)? else {
        return Ok(None);
    };
    let ders = contents(path, bytes, pem::Block::is_certificate, "certificate")?;
    let certs = ders.iter().map(|der| Cert::parse(der)).collect::<Result<_, _>>();
    certs.map(Some).map_err(|e| site(path, format_args!("{}; install the file again", e.reason)))
}

/// Reads every revocation list of a PEM or DER file, as DER.
pub(crate) fn read_lists(path: &Path) -> Result<Vec<Vec<u8>>, Refusal> {
    let bytes = read(path, MAX_CRL)?.unwrap_or_default();
    contents(path, bytes, |b| b.label == "X509 CRL", "revocation list")
}

/// The DER in a file: itself, or its PEM blocks of that kind, at least one.
fn contents(
    path: &Path,
    bytes: Vec<u8>,
    wanted: fn(&pem::Block) -> bool,
    what: &str,
) -> Result<Vec<Vec<u8>>, Refusal> {
    if bytes.first() == Some(&0x30) {
        return Ok(vec![bytes]);
    }
    let blocks = pem::blocks(&bytes).map_err(|e| site(path, format_args!("{e}; install the file again")))?;
    let found: Vec<_> = blocks.into_iter().filter(wanted).map(|b| b.der).collect();
    if found.is_empty() {
        let seen = looks_like(&bytes);
        return Err(site(path, format_args!("holds no {what} ({seen}); install the file again")));
    }
    Ok(found)
}

/// What a file that is neither PEM nor DER seems to be, for messages.
fn looks_like(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "the file is empty, as after a full disk",
        [0x1f, 0x8b, ..] => "the file is compressed with gzip",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, ..] | [0, b'-', ..] => "the text is UTF-16",
        _ if bytes.iter().all(|b| *b == 0) => "the file is all zeros, as after a crash",
        _ if bytes.contains(&0) => "the file holds zero bytes: it is binary, or UTF-16",
        _ if bytes.trim_ascii_start().starts_with(b"<") => "the file is a web page",
        _ => "the file is neither PEM nor DER",
    }
}

/// Whether the file is called `<8 hex digits>.<number>`.
fn is_certificate(path: &Path) -> bool {
    let part =
        |p: Option<&std::ffi::OsStr>| p.and_then(|p| p.to_str()).map(str::to_owned).unwrap_or_default();
    let (stem, number) = (part(path.file_stem()), part(path.extension()));
    let hashed = stem.len() == 8 && stem.bytes().all(|c| c.is_ascii_hexdigit());
    hashed && !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())
}

/// For messages about a text file.
fn seen(bytes: &[u8]) -> &'static str {
    match looks_like(bytes) {
        "the file is neither PEM nor DER" => "it is cut, or of another kind",
        other => other,
    }
}

impl<'a> CaDir<'a> {
    /// Looks at the directory itself.
    ///
    /// # Errors
    /// `Site` when it is missing, not a directory, or everybody may write it.
    pub fn open(path: &'a Path) -> Result<Self, Refusal> {
        let meta = std::fs::metadata(path);
        let meta = meta.map_err(|e| {
            site(path, format_args!("CA directory cannot be read ({e}); check [trust] ca_dir"))
        })?;
        if !meta.is_dir() {
            return Err(site(path, "CA directory is not a directory; check [trust] ca_dir"));
        }
        refuse_world_writable(path, &meta)?;
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.path
    }

    /// The installed certificates of that name, and what is wrong with the first of their files that is of no use.
    pub fn named(&self, name: &Name) -> (Vec<Cert>, Option<Refusal>) {
        let mut found: Vec<Cert> = Vec::new();
        let mut trouble = None;
        for path in self.numbered(name, "") {
            match read_certificates(&path) {
                Err(refusal) => trouble = trouble.or(Some(refusal)),
                Ok(certs) => {
                    for cert in certs.into_iter().flatten().filter(|c| c.subject == *name) {
                        if !found.iter().any(|f| f.der == cert.der) {
                            found.push(cert);
                        }
                    }
                }
            }
        }
        (found, trouble)
    }

    /// Every installed certificate as DER, each once; files that cannot be read are left out.
    pub fn all(&self) -> Result<Vec<Vec<u8>>, Refusal> {
        let entries = std::fs::read_dir(self.path).map_err(|e| site(self.path, e))?;
        let mut paths: Vec<PathBuf> =
            entries.flatten().map(|e| e.path()).filter(|p| is_certificate(p)).collect();
        paths.sort();
        let mut found: Vec<Vec<u8>> = Vec::new();
        for cert in paths.iter().filter_map(|p| read_certificates(p).ok().flatten()).flatten() {
            if !found.contains(&cert.der) {
                found.push(cert.der);
            }
        }
        Ok(found)
    }

    /// Where the issuer of this certificate is looked for first, for messages.
    pub fn expected_file(&self, cert: &Cert) -> PathBuf {
        self.path.join(format!("{:08x}.0", cert.issuer.hash()))
    }

    /// The signing policy of a CA and where it stands; `None` when there is none.
    pub fn signing_policy(&self, ca: &Cert) -> Result<Option<(PathBuf, SigningPolicy)>, Refusal> {
        self.about(ca, "signing_policy", |bytes| SigningPolicy::parse(bytes).map_err(|e| e.to_string()))
    }

    /// The namespaces of a CA and where they stand; `None` when there are none.
    pub fn namespaces(&self, ca: &Cert) -> Result<Option<(PathBuf, Namespaces)>, Refusal> {
        self.about(ca, "namespaces", |bytes| Namespaces::parse(bytes).map_err(|e| e.to_string()))
    }

    fn about<T>(
        &self,
        ca: &Cert,
        kind: &str,
        parse: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Option<(PathBuf, T)>, Refusal> {
        for hash in file_hashes(&ca.subject) {
            let path = self.path.join(format!("{hash}.{kind}"));
            if let Some(bytes) = read(&path, MAX_FILE)? {
                let parsed = parse(&bytes);
                let parsed = parsed.map_err(|e| {
                    site(&path, format_args!("{e} ({}); install the file again", seen(&bytes)))
                })?;
                return Ok(Some((path, parsed)));
            }
        }
        Ok(None)
    }

    /// The files of a CA's revocation lists.
    pub fn crls(&self, ca: &Cert) -> Vec<ListFile> {
        self.numbered(&ca.subject, "r").into_iter().map(|path| (path.clone(), read_lists(&path))).collect()
    }

    /// The files `<hash>.<kind>N` that exist; those under the old hash only if there are none under the new one. A gap in
    /// the numbers ends nothing: a list behind it may be the one that revokes.
    fn numbered(&self, name: &Name, kind: &str) -> Vec<PathBuf> {
        let hashes = file_hashes(name);
        let of = |hash: &String| -> Vec<PathBuf> {
            let path = |n: usize| self.path.join(format!("{hash}.{kind}{n}"));
            (0..MAX_SIBLINGS).map(path).filter(|p| p.symlink_metadata().is_ok()).collect()
        };
        hashes.iter().map(of).find(|paths| !paths.is_empty()).unwrap_or_default()
    }
}
