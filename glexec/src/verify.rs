//! Asking `glexec-verify` what a credential is worth.

use crate::audit::{self, Rule};
use crate::child;
use crate::config::Config;
use crate::credential::Credential;
use crate::failure::Failure;
use crate::sys::process;
use policy::identity::{Caller, VerifiedIdentity};
use policy::judge::Denial;
use policy::wire::{self, VerifyRequest};
use std::time::Duration;

/// A chain is judged in milliseconds; a CA directory on a slow network file system takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The identity in the credential, as the unprivileged verifier found it.
pub(crate) fn verify(
    config: &Config,
    caller: &Caller,
    credential: &Credential,
) -> Result<VerifiedIdentity, Failure> {
    let trust = &config.policy.trust;
    // The verifier reads the directory by name, so nobody but root may be able to change it.
    audit::open(&trust.ca_dir, Rule::DIRECTORY)?;
    if audit::exists(&trust.voms_dir) {
        audit::open(&trust.voms_dir, Rule::DIRECTORY)?;
    }
    let may_omit = |name| config.conf.omission_private_key_white_list.iter().any(|p| p.matches(name));
    let request = VerifyRequest {
        credential: credential.bytes().to_vec(),
        ca_dir: trust.ca_dir.clone(),
        voms_dir: trust.voms_dir.clone(),
        require_crl: trust.require_crl,
        max_proxy_lifetime: trust.max_proxy_lifetime,
        allow_limited: trust.allow_limited,
        require_key: !caller.name.as_ref().is_some_and(may_omit),
        now: process::unix_ns() / 1_000_000_000,
    };
    let answer = child::exchange("glexec-verify", config.child_ids, &request.encode(), PATIENCE)?;
    match wire::decode_verify_reply(&answer) {
        Ok(Ok(identity)) => Ok(identity),
        Ok(Err(refusal)) => Err(Denial::Credential(refusal).into()),
        Err(error) => Err(Failure::site(format!("glexec-verify: {error}"))),
    }
}
