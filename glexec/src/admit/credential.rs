//! Reading a proxy file: opened once, with the caller's rights, checked by descriptor, locked, read once.
//!
//! The bytes are never parsed here. They go to the verifier as they are, and the same bytes become the target proxy.

use crate::admit::proxy_lock::{self, Share};
use crate::admit::request::CredentialSource;
use crate::failure::{Failure, shown};
use crate::sys::ids::AsCaller;
use helper::MAX_CREDENTIAL;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use policy::glexec_conf::Lock;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The bytes of a credential, unparsed.
pub(crate) struct Credential {
    bytes: Vec<u8>,
    digest: [u8; 32],
}

impl Credential {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: hmac_sha256::Hash::hash(&bytes), bytes }
    }

    /// As they were read.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// Reads what the variable named `variable` points to.
pub(crate) fn read(
    variable: &str,
    source: &CredentialSource,
    caller: Uid,
    lock: Lock,
) -> Result<Credential, Failure> {
    match source {
        CredentialSource::Text(text) if text.len() > MAX_CREDENTIAL => {
            Err(Failure::caller(format!("the text in {variable} is larger than {MAX_CREDENTIAL} bytes")))
        }
        CredentialSource::Text(text) => Ok(Credential::new(text.clone())),
        CredentialSource::File(path) => {
            let shown = shown(path.as_os_str());
            let _rights = AsCaller::enter(caller)?;
            let file =
                open(path, caller).map_err(|why| Failure::caller(format!("{variable}: {shown}: {why}")))?;
            let locked = proxy_lock::take(file, lock, Share::Readers);
            let locked = locked.map_err(|why| Failure::site(format!("{variable}: {shown}: {why}")))?;
            let file: &File = &locked;
            read_all(file).map_err(|why| Failure::caller(format!("{variable}: {shown}: {why}")))
        }
    }
}

fn open(path: &Path, caller: Uid) -> Result<File, String> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| match e {
        nix::errno::Errno::ELOOP => "is a symbolic link; name the file itself".to_owned(),
        e => e.desc().to_owned(),
    })?;
    let file = File::from(fd);
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("is not a regular file".into());
    }
    if meta.uid() != caller.as_raw() {
        return Err(format!(
            "belongs to uid {}, but uid {caller} calls; only your own proxy counts",
            meta.uid()
        ));
    }
    let mode = meta.mode() & 0o7777;
    if mode & !0o700 != 0 {
        return Err(format!("mode {mode:04o} lets others in; chmod 600"));
    }
    if meta.len() > MAX_CREDENTIAL as u64 {
        return Err(format!("is larger than {MAX_CREDENTIAL} bytes: not a proxy"));
    }
    Ok(file)
}

/// The size is bounded again: the file may have grown since it was checked.
fn read_all(file: &File) -> Result<Credential, String> {
    let mut bytes = Vec::new();
    file.take(MAX_CREDENTIAL as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    match bytes.len() {
        0 => Err("is empty".into()),
        n if n > MAX_CREDENTIAL => Err("grew while it was read".into()),
        _ => Ok(Credential::new(bytes)),
    }
}
