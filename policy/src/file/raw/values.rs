//! Values that stand behind several keys, each parsed where it is read, so that an error has its line and column.

use crate::callers::CallerPattern;
use crate::file::{Isolation, NestedPolicy, TargetProxy};
use crate::ports::PortRange;
use serde::{Deserialize, Deserializer, de::Error};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    identity::duration::parse(&String::deserialize(d)?).map_err(D::Error::custom)
}

pub(super) fn spanned_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Spanned<Duration>, D::Error> {
    let text = Spanned::<String>::deserialize(d)?;
    let duration = identity::duration::parse(text.get_ref()).map_err(D::Error::custom)?;
    Ok(Spanned::new(text.span(), duration))
}

/// RSA keys that the verifier can compute with.
pub(super) fn rsa_bits<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    let bits = u32::deserialize(d)?;
    if (1024..=8192).contains(&bits) { Ok(bits) } else { Err(D::Error::custom("use 1024 to 8192 bits")) }
}

pub(super) fn absolute<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(d)?;
    if path.is_absolute() { Ok(path) } else { Err(D::Error::custom("the path must be absolute")) }
}

pub(super) fn some_absolute<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
    absolute(d).map(Some)
}

pub(super) fn some_port_range<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PortRange>, D::Error> {
    PortRange::parse(&String::deserialize(d)?).map(Some).map_err(D::Error::custom)
}

pub(super) fn each_caller<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<CallerPattern>, D::Error> {
    let list = Vec::<String>::deserialize(d)?;
    list.iter().map(|s| CallerPattern::parse(s).map_err(D::Error::custom)).collect()
}

pub(super) fn isolation<'de, D: Deserializer<'de>>(d: D) -> Result<Isolation, D::Error> {
    session_or_account(d, "isolate", Isolation::Session, Isolation::Account)
}

pub(super) fn target_proxy<'de, D: Deserializer<'de>>(d: D) -> Result<TargetProxy, D::Error> {
    session_or_account(d, "target_proxy", TargetProxy::Session, TargetProxy::Account)
}

fn session_or_account<'de, D: Deserializer<'de>, T>(
    d: D,
    key: &str,
    session: T,
    account: T,
) -> Result<T, D::Error> {
    match String::deserialize(d)?.as_str() {
        "session" => Ok(session),
        "account" => Ok(account),
        other => Err(D::Error::custom(format!("{key} is {other:?}; write \"session\" or \"account\""))),
    }
}

pub(super) fn nested<'de, D: Deserializer<'de>>(d: D) -> Result<Spanned<NestedPolicy>, D::Error> {
    let word = Spanned::<String>::deserialize(d)?;
    let meant = |nested| Ok(Spanned::new(word.span(), nested));
    match word.get_ref().as_str() {
        "refuse" => meant(NestedPolicy::Refuse),
        "kill" => meant(NestedPolicy::Kill),
        other => Err(D::Error::custom(format!("nested is {other:?}; write \"refuse\" or \"kill\""))),
    }
}
