//! Answers of the children, kept for `[mapping] cache_ttl`: one job means many calls with one and the same proxy.
//!
//! Only what permits is kept, never a refusal or an error, and bans are looked at before anything kept is used. The key
//! is every input of the answer. Files lie in `/run/glexec/cache`, belong to root, and go with the next boot. Removing
//! them is always safe: `rm /run/glexec/cache/*` makes the next call ask again.

use crate::session::store::RUN_DIR;
use crate::sys::process;
use helper::{MapRequest, VerifyRequest};
use identity::VerifiedIdentity;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whoever has a proxy can make any number of others, and the directory lies in memory.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The place of one answer.
pub(crate) struct Cache {
    file: PathBuf,
    ttl: Duration,
}

impl Cache {
    /// The place for the verdict on a credential: the same bytes, judged by the same rules, in the same directories.
    ///
    /// A directory's time of change stands for its content: tools that fetch revocation lists rename new ones into it.
    pub(crate) fn for_verdict(
        request: &VerifyRequest,
        digest: &[u8; 32],
        trusted: &[&fs::File],
        ttl: Duration,
    ) -> Self {
        let relevant = VerifyRequest { credential: digest.to_vec(), now: 0, ..request.clone() };
        let mut key = relevant.encode();
        for directory in trusted {
            let stamp = directory
                .metadata()
                .map(|m| [m.dev(), m.ino(), m.mtime().cast_unsigned(), m.mtime_nsec().cast_unsigned()]);
            key.extend(stamp.unwrap_or_default().iter().flat_map(|n| n.to_be_bytes()));
        }
        Self::named("verdict", &key, ttl)
    }

    /// The place for the answer of a mapping service: everything it may depend on, but for secrets and time limits.
    pub(crate) fn for_mapping(request: &MapRequest, ttl: Duration) -> Self {
        let mut relevant = request.clone();
        relevant.host_credential = Vec::new();
        relevant.timeout = Duration::ZERO;
        relevant.identity.digest = [0; 32];
        relevant.identity.chain_pem = Vec::new();
        relevant.identity.not_after = 0;
        if let Some(voms) = &mut relevant.identity.voms {
            voms.not_after = 0;
        }
        Self::named("mapping", &relevant.encode(), ttl)
    }

    fn named(kind: &str, key: &[u8], ttl: Duration) -> Self {
        let digest = record::text::hex(&hmac_sha256::Hash::hash(key));
        Self { file: Path::new(RUN_DIR).join("cache").join(format!("{kind}-{digest}")), ttl }
    }

    /// The kept frame, if it is still good.
    pub(crate) fn get(&self) -> Option<Vec<u8>> {
        let bytes = fs::read(&self.file).ok()?;
        let (expiry, frame) = bytes.split_first_chunk::<8>()?;
        let (expiry, now) = (u64::from_be_bytes(*expiry), process::boottime_ns());
        // An entry that would live longer than the policy allows comes from an older, laxer policy.
        let fresh = now < expiry && expiry - now <= nanos(self.ttl);
        fresh.then(|| frame.to_vec())
    }

    /// Keeps a frame, no longer than the credential lives. Failing to do so only costs time, so it is not an error.
    pub(crate) fn put(&self, frame: &[u8], identity: &VerifiedIdentity) {
        let ends = identity.voms.as_ref().map_or(identity.not_after, |v| v.not_after.min(identity.not_after));
        let left = Duration::from_secs(ends.saturating_sub(process::unix_ns() / 1_000_000_000));
        let lives = self.ttl.min(left);
        if !lives.is_zero() {
            let expiry = process::boottime_ns() + nanos(lives);
            let _ = self.write(&[&expiry.to_be_bytes(), frame].concat());
        }
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let dir = self.file.parent().ok_or(std::io::ErrorKind::NotFound)?;
        fs::DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR)?;
        fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
        if remove_expired(dir).saturating_add(bytes.len() as u64) > MAX_BYTES {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let temporary = self.file.with_extension(std::process::id().to_string());
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, &self.file)
    }
}

/// Keeps the directory small; it is looked through only when something new is written. Returns the size
/// of those that stay.
fn remove_expired(dir: &Path) -> u64 {
    let now = process::boottime_ns();
    let mut stay = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let mut expiry = [0; 8];
        let read = fs::File::open(entry.path()).and_then(|mut file| file.read_exact(&mut expiry));
        if read.is_err() || u64::from_be_bytes(expiry) <= now {
            let _ = fs::remove_file(entry.path());
        } else {
            stay += entry.metadata().map_or(0, |meta| meta.len());
        }
    }
    stay
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
