//! Answers of mapping services, kept for `[mapping] cache_ttl`.
//!
//! Only mappings are kept, never a refusal or an error; bans are looked at before the cache. The key is every input of
//! the decision. Files lie in `/run/glexec/cache`, belong to root, and go with the next boot. Removing them is always
//! safe: `rm /run/glexec/cache/*` makes the next call ask again.

use crate::session::RUN_DIR;
use crate::sys::process;
use policy::wire::{MapReply, MapRequest, Mapping};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The place of one answer.
pub(crate) struct Cache {
    file: PathBuf,
    lives: Duration,
}

impl Cache {
    /// The place for the answer to this request; it never outlives the credential.
    pub(crate) fn for_request(request: &MapRequest, ttl: Duration) -> Self {
        let identity = &request.identity;
        let ends = identity.voms.as_ref().map_or(identity.not_after, |v| v.not_after.min(identity.not_after));
        let left = Duration::from_secs(ends.saturating_sub(process::unix_ns() / 1_000_000_000));
        let file = Path::new(RUN_DIR).join("cache").join(crate::recording::hex(&key(request)));
        Self { file, lives: ttl.min(left) }
    }

    /// The kept mapping, if it is still good.
    pub(crate) fn get(&self) -> Option<Mapping> {
        let bytes = fs::read(&self.file).ok()?;
        let (expiry, frame) = bytes.split_first_chunk::<8>()?;
        let expiry = u64::from_be_bytes(*expiry);
        let now = process::boottime_ns();
        // An entry that would live longer than the policy allows comes from an older, laxer policy.
        let fresh = now < expiry && expiry - now <= nanos(self.lives);
        match MapReply::decode(frame) {
            Ok(MapReply::Mapped(mapping)) if fresh => Some(mapping),
            _ => None,
        }
    }

    /// Keeps a mapping. Failing to do so only costs time, so it is not an error.
    pub(crate) fn put(&self, mapping: &Mapping) {
        if self.lives.is_zero() {
            return;
        }
        let expiry = process::boottime_ns() + nanos(self.lives);
        let frame = MapReply::Mapped(mapping.clone()).encode();
        let _ = self.write(&[&expiry.to_be_bytes()[..], &frame].concat());
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let dir = self.file.parent().ok_or(std::io::ErrorKind::NotFound)?;
        fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
        let temporary = self.file.with_extension(std::process::id().to_string());
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, &self.file)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Everything the answer may depend on, except secrets and time limits.
fn key(request: &MapRequest) -> [u8; 32] {
    let mut relevant = request.clone();
    relevant.host_credential = Vec::new();
    relevant.timeout = Duration::ZERO;
    relevant.identity.digest = [0; 32];
    relevant.identity.chain_pem = Vec::new();
    relevant.identity.not_after = 0;
    if let Some(voms) = &mut relevant.identity.voms {
        voms.not_after = 0;
    }
    hmac_sha256::Hash::hash(&relevant.encode())
}
