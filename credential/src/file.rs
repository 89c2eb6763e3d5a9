//! Judges a proxy file with its private key, and writes secrets into files that only their owner can read.

use crate::refuse;
use crate::verdict::{Trust, verify};
use helper::{MAX_CREDENTIAL, VerifyRequest};
use identity::{Refusal, RefusalKind, VerifiedIdentity};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Judges the proxy file at `path` with its private key, `now` in seconds since the epoch.
pub fn identity_of_file(path: &Path, trust: &Trust, now: u64) -> Result<VerifiedIdentity, Refusal> {
    let mut credential = Vec::new();
    let read = File::open(path).and_then(|f| f.take(MAX_CREDENTIAL as u64 + 1).read_to_end(&mut credential));
    read.map_err(|e| {
        let reason = format!("{}: cannot be read ({e}); make a proxy or set X509_USER_PROXY", path.display());
        refuse(RefusalKind::Malformed, reason)
    })?;
    if credential.len() > MAX_CREDENTIAL {
        let reason = format!("{}: larger than {MAX_CREDENTIAL} bytes, not a proxy", path.display());
        return Err(refuse(RefusalKind::Malformed, reason));
    }
    verify(&VerifyRequest {
        credential,
        ca_dir: trust.ca_dir.clone(),
        voms_dir: trust.voms_dir.clone(),
        require_crl: trust.require_crl,
        max_proxy_lifetime: trust.max_proxy_lifetime,
        allow_limited: trust.allow_limited,
        rules: trust.rules,
        require_key: true,
        now,
    })
}

/// Writes a secret: a new file of mode 0600 beside `path`, synced, then renamed onto it. Readers see the old or the new
/// text and nobody else reads either.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let (temporary, mut file) = create_beside(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let moved = written.and_then(|()| std::fs::rename(&temporary, path));
    if moved.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    moved
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path names no file"))?;
    for _ in 0..16 {
        let mut random = [0; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{:016x}", u64::from_be_bytes(random)));
        let temporary = path.with_file_name(temporary);
        match File::options().write(true).create_new(true).mode(0o600).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for a temporary file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_file_is_replaced_whole_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.pem");
        std::fs::write(&path, "old").unwrap();
        write_private(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_private(&link, "secret").unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
        assert!(write_private(&dir.path().join("absent/x"), "secret").is_err());
    }
}
