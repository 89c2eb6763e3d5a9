//! `[ports]` as it stands in the file, and what it means.

use super::Finding;
use super::values::*;
use crate::file::{Enforce, PortsPolicy, same_host};
use crate::ports::PortRange;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ports {
    #[serde(deserialize_with = "some_port_range")]
    range: Option<PortRange>,
    per_payload: Spanned<u16>,
    default: Spanned<u16>,
    #[serde(deserialize_with = "duration")]
    quarantine: Duration,
    enforce: Option<Spanned<EnforceWord>>,
    loopback: Spanned<bool>,
    hostname: String,
    hosts: BTreeMap<String, Spanned<String>>,
    variables: Option<Vec<String>>,
    opener: Spanned<String>,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            range: None,
            per_payload: Spanned::new(0..0, 10),
            default: Spanned::new(0..0, 0),
            quarantine: Duration::from_secs(60),
            enforce: None,
            loopback: Spanned::new(0..0, true),
            hostname: String::new(),
            hosts: BTreeMap::new(),
            variables: None,
            opener: Spanned::new(0..0, String::new()),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EnforceWord {
    Flag(bool),
    Text(String),
}

impl Ports {
    /// A range is there to be kept: without a word it is, where the host has the means.
    fn enforce(&self) -> Result<Enforce, Finding> {
        let wanted = match self.enforce.as_ref().map(|word| (word.span(), word.get_ref())) {
            None => return Ok(if self.range.is_some() { Enforce::WherePossible } else { Enforce::Off }),
            Some((_, EnforceWord::Flag(false))) => return Ok(Enforce::Off),
            Some((span, EnforceWord::Flag(true))) => (span, Enforce::WherePossible),
            Some((span, EnforceWord::Text(text))) if text == "require" => (span, Enforce::Required),
            Some((span, EnforceWord::Text(text))) => {
                return Err((span, format!("enforce is {text:?}; write true, false or \"require\"")));
            }
        };
        match (wanted, self.range) {
            ((_, enforce), Some(_)) => Ok(enforce),
            ((span, _), None) => {
                Err((span, "enforce has no effect without range; add range, or remove enforce".into()))
            }
        }
    }

    /// Where the border is opened for leases. Without TLS nobody knows who answers, so that is for this host only.
    fn opener(&self) -> Result<Option<String>, Finding> {
        let (span, url) = (self.opener.span(), self.opener.get_ref().as_str());
        if url.is_empty() {
            return Ok(None);
        }
        let bad = |what: &str| Err((span.clone(), format!("opener is {url:?}: {what}")));
        let loopback = |rest: &str| {
            let host = rest.split('/').next().unwrap_or_default();
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            matches!(host, "localhost" | "127.0.0.1" | "[::1]")
        };
        let (rest, good) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (rest, true),
            (_, Some(rest)) => (rest, loopback(rest)),
            (None, None) => ("", false),
        };
        if !good {
            return bad("write https://HOST:PORT/sites/SITE (http:// for localhost only)");
        }
        let odd = |c: char| c.is_whitespace() || c.is_control() || "?#@\\\"<>".contains(c);
        if rest.is_empty() || rest.starts_with('/') || rest.contains(odd) {
            return bad("write a host, and no login, query or blanks: https://HOST:PORT/sites/SITE");
        }
        if self.range.is_none() {
            return bad("it has no effect without range; add range, or remove opener");
        }
        Ok(Some(url.trim_end_matches('/').to_owned()))
    }
}

impl Ports {
    pub(super) fn check(self) -> Result<PortsPolicy, Finding> {
        let (enforce, loopback) = (self.enforce()?, *self.loopback.get_ref());
        let opener = self.opener()?;
        if !loopback && enforce == Enforce::Off {
            let reason =
                "loopback = false has no effect without enforce; add range and enforce, or remove loopback";
            return Err((self.loopback.span(), reason.into()));
        }
        let per_payload = *self.per_payload.get_ref();
        let room = self.range.map_or(usize::MAX, PortRange::count);
        if per_payload == 0 || usize::from(per_payload) > room {
            return Err((
                self.per_payload.span(),
                "per_payload must be at least 1 and fit into range".into(),
            ));
        }
        let default = *self.default.get_ref();
        if usize::from(default) > room {
            return Err((self.default.span(), "default must fit into range".into()));
        }
        let mut hosts: BTreeMap<String, PortRange> = BTreeMap::new();
        for (host, share) in self.hosts {
            let range = PortRange::parse(share.get_ref()).map_err(|e| (share.span(), e.to_string()))?;
            let Some(whole) = self.range else {
                return Err((
                    share.span(),
                    format!("the share of {host} has no [ports] range to lie in; add it"),
                ));
            };
            if !whole.covers(range) {
                let what = format!("the share of {host}, {range}, leaves [ports] range, {whole}");
                return Err((share.span(), what));
            }
            if let Some(other) = hosts.keys().find(|other| same_host(other, &host)) {
                return Err((share.span(), format!("{host} and {other} are one host; give it one share")));
            }
            if let Some((other, its)) = hosts.iter().find(|(_, other)| other.meets(range)) {
                let what = format!("the shares of {host}, {range}, and {other}, {its}, overlap");
                return Err((share.span(), what));
            }
            if range.count() < usize::from(per_payload) {
                let what = format!(
                    "the share of {host}, {range}, has no room for a block of per_payload = {per_payload}"
                );
                return Err((share.span(), what));
            }
            hosts.insert(host, range);
        }
        let hostname = (!self.hostname.is_empty()).then_some(self.hostname);
        let (range, quarantine) = (self.range, self.quarantine);
        Ok(PortsPolicy {
            range,
            per_payload,
            default,
            quarantine,
            hostname,
            hosts,
            variables: self.variables,
            opener,
            enforce,
            loopback,
        })
    }
}
