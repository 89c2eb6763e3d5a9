//! The hashed CA directory (`X509_CERT_DIR`): `<hash>.N` certificates, `<hash>.rN` revocation lists and
//! `<hash>.signing_policy`, under today's hash or the MD5 one of OpenSSL before 1.0.

use crate::cert::Cert;
use crate::name::{Name, file_hashes};
use crate::pem;
use crate::refuse;
use crate::signing_policy::SigningPolicy;
use identity::{Refusal, RefusalKind};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Largest certificate or policy file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Largest revocation list that is read, in bytes.
const MAX_CRL: u64 = 64 << 20;
/// `<hash>.0` to `<hash>.15` are looked at.
const MAX_SIBLINGS: usize = 16;

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
    let file = match File::open(path) {
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
    let ders = if bytes.first() == Some(&0x30) {
        vec![bytes]
    } else {
        pem::split_pem(&bytes).and_then(|b| pem::certificates(&b)).map_err(|e| site(path, e.reason))?
    };
    let certs = ders.iter().map(|der| Cert::parse(der)).collect::<Result<_, _>>();
    certs.map(Some).map_err(|e| site(path, e.reason))
}

/// Whether the file is called `<8 hex digits>.<number>`.
fn is_certificate(path: &Path) -> bool {
    let part =
        |p: Option<&std::ffi::OsStr>| p.and_then(|p| p.to_str()).map(str::to_owned).unwrap_or_default();
    let (stem, number) = (part(path.file_stem()), part(path.extension()));
    let hashed = stem.len() == 8 && stem.bytes().all(|c| c.is_ascii_hexdigit());
    hashed && !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())
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

    /// The installed certificates that have the name of this certificate's issuer.
    pub fn issuers_of(&self, cert: &Cert) -> Result<Vec<Cert>, Refusal> {
        let mut found: Vec<Cert> = Vec::new();
        for path in self.numbered(&cert.issuer, "") {
            let certs = read_certificates(&path)?.unwrap_or_default();
            let mine = certs.into_iter().filter(|c| cert.names_issuer(c));
            for candidate in mine {
                if !found.iter().any(|f| f.der == candidate.der) {
                    found.push(candidate);
                }
            }
        }
        Ok(found)
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
        for hash in file_hashes(&ca.subject) {
            let path = self.path.join(format!("{hash}.signing_policy"));
            if let Some(bytes) = read(&path, MAX_FILE)? {
                let text = String::from_utf8_lossy(&bytes);
                let policy = SigningPolicy::parse(&text).map_err(|e| site(&path, e))?;
                return Ok(Some((path, policy)));
            }
        }
        Ok(None)
    }

    /// The revocation lists of a CA as DER, each with its path.
    pub fn crls(&self, ca: &Cert) -> Result<Vec<(PathBuf, Vec<u8>)>, Refusal> {
        let mut found = Vec::new();
        for path in self.numbered(&ca.subject, "r") {
            let Some(bytes) = read(&path, MAX_CRL)? else {
                continue;
            };
            if bytes.first() == Some(&0x30) {
                found.push((path, bytes));
                continue;
            }
            let blocks = pem::split_pem(&bytes).map_err(|e| site(&path, e.reason))?;
            let lists = blocks.into_iter().filter(|b| b.label == "X509 CRL");
            found.extend(lists.map(|b| (path.clone(), b.der)));
        }
        Ok(found)
    }

    /// The files `<hash>.<kind>N` that exist; those under the old hash only if there are none under the new one.
    fn numbered(&self, name: &Name, kind: &str) -> Vec<PathBuf> {
        let hashes = file_hashes(name);
        let of = |hash: &String| -> Vec<PathBuf> {
            let path = |n: usize| self.path.join(format!("{hash}.{kind}{n}"));
            (0..MAX_SIBLINGS).map(path).take_while(|p| p.symlink_metadata().is_ok()).collect()
        };
        hashes.iter().map(of).find(|paths| !paths.is_empty()).unwrap_or_default()
    }
}
