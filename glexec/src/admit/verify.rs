//! Asking `glexec-verify` what a credential is worth.

use crate::admit::audit::{self, Rule};
use crate::admit::cache::Cache;
use crate::admit::child;
use crate::admit::config::Config;
use crate::failure::Failure;
use helper::VerifyRequest;
use identity::VerifiedIdentity;
use policy::decide::Call;
use policy::judge::Denial;
use std::time::Duration;

/// A chain is judged in milliseconds; a CA directory on a slow network file system takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The identity in the credential, as the unprivileged verifier found it, now or within `cache_ttl`.
pub(crate) fn verify(config: &Config, call: &Call<'_>) -> Result<VerifiedIdentity, Failure> {
    let trust = &config.policy.trust;
    // The verifier reads the directories by name, so nobody but root may be able to change them.
    let ca_dir = audit::open(&trust.ca_dir, Rule::DIRECTORY)?;
    let voms_dir = match audit::exists(&trust.voms_dir) {
        true => Some(audit::open(&trust.voms_dir, Rule::DIRECTORY)?),
        false => None,
    };
    let request = request(call);
    let trusted: Vec<_> = std::iter::once(&ca_dir).chain(&voms_dir).collect();
    let ttl = config.policy.mapping.cache_ttl;
    let cache = Cache::for_verdict(&request, call.digest, &trusted, ttl);
    if let Some(Ok(Ok(identity))) = cache.get().map(|frame| helper::decode_verify_reply(&frame)) {
        return Ok(identity);
    }
    let answer = child::exchange("glexec-verify", config.child_ids, &request.encode(), PATIENCE)?;
    match helper::decode_verify_reply(&answer) {
        Ok(Ok(identity)) => {
            // Root compares the digest before it believes a verdict, so it does before it keeps one.
            if identity.digest == *call.digest {
                cache.put(&answer, &identity);
            }
            Ok(identity)
        }
        Ok(Err(refusal)) => Err(Denial::Credential(refusal).into()),
        Err(error) => Err(Failure::site(format!("glexec-verify: {error}"))),
    }
}

fn request(call: &Call<'_>) -> VerifyRequest {
    let trust = &call.policy.trust;
    VerifyRequest {
        credential: call.credential.to_vec(),
        ca_dir: trust.ca_dir.clone(),
        voms_dir: trust.voms_dir.clone(),
        require_crl: trust.require_crl,
        max_proxy_lifetime: trust.max_proxy_lifetime,
        allow_limited: trust.allow_limited,
        rules: trust.rules,
        require_key: call.requires_key(),
        now: call.now,
    }
}
