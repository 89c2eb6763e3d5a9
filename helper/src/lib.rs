//! What `glexec` and its two unprivileged helpers say to each other: one frame there, one frame back.
//!
//! `glexec`, the helpers `glexec-verify` and `glexec-map`, and `site-policy`, which asks them the same, may use this crate.
//! It is linked into the setuid program: it holds no `unsafe`, opens nothing, and never forgives a malformed frame. The
//! walls that a helper builds around itself are a crate of their own (`helper/cell`), which `glexec` must not link.
#![forbid(unsafe_code)]

mod frame;

pub use frame::{FrameError, MAX_CREDENTIAL, MAX_REPLY, MAX_REQUEST, frame_length};

use frame::{Reader, Writer, to_id, to_text};
use identity::{ChainRules, Mapping, Refusal, RefusalKind, Service, VerifiedIdentity, one_line};
use std::path::PathBuf;
use std::time::Duration;

/// `glexec` to `glexec-verify`: judge this credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyRequest {
    /// The proxy file's bytes, untouched.
    pub credential: Vec<u8>,
    /// `[trust] ca_dir`.
    pub ca_dir: PathBuf,
    /// `[trust] voms_dir`.
    pub voms_dir: PathBuf,
    /// `[trust] require_crl`.
    pub require_crl: bool,
    /// `[trust] max_proxy_lifetime`.
    pub max_proxy_lifetime: Duration,
    /// `[trust] allow_limited`.
    pub allow_limited: bool,
    /// `[trust]` `allow_legacy`, `allow_sha1`, `min_rsa_bits`, `min_proxy_rsa_bits`.
    pub rules: ChainRules,
    /// False for callers in `omission_private_key_white_list`.
    pub require_key: bool,
    /// The time to judge by, seconds since the epoch.
    pub now: u64,
}

/// `glexec-verify` to `glexec`.
pub type VerifyReply = Result<VerifiedIdentity, Refusal>;

/// `glexec` to `glexec-map`: which account is this identity?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapRequest {
    /// Protocol.
    pub service: Service,
    /// Endpoints to try in turn until one answers.
    pub endpoints: Vec<String>,
    /// Certificate and key that authenticate this host to the service, PEM.
    pub host_credential: Vec<u8>,
    /// CA directory to judge the service's certificate by.
    pub ca_dir: PathBuf,
    /// For the whole conversation, all endpoints together.
    pub timeout: Duration,
    /// This host's fully qualified name.
    pub host: String,
    /// Who asks to be mapped.
    pub identity: VerifiedIdentity,
}

/// `glexec-map` to `glexec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapReply {
    /// The service named an account. What it left out is looked up in `passwd(5)`.
    Mapped(Mapping),
    /// The service knows the question and says no: final.
    Denied(String),
    /// No service answered in a way that can be used: the caller may try again.
    Unavailable(String),
}

const KIND_VERIFY_REQUEST: u8 = 1;
const KIND_VERIFY_REPLY: u8 = 2;
const KIND_MAP_REQUEST: u8 = 3;
const KIND_MAP_REPLY: u8 = 4;

impl VerifyRequest {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(1, &self.credential);
        w.path(2, &self.ca_dir);
        w.path(3, &self.voms_dir);
        w.number(4, u64::from(self.require_crl));
        w.number(5, self.max_proxy_lifetime.as_secs());
        w.number(6, u64::from(self.allow_limited));
        w.number(7, u64::from(self.require_key));
        w.number(8, self.now);
        w.number(9, u64::from(self.rules.allow_legacy));
        w.number(10, u64::from(self.rules.allow_sha1));
        w.number(11, u64::from(self.rules.min_rsa_bits));
        w.number(12, u64::from(self.rules.min_proxy_rsa_bits));
        w.finish(KIND_VERIFY_REQUEST)
    }

    /// Reads a whole frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut r = Reader::open(frame, KIND_VERIFY_REQUEST)?;
        let request = Self {
            credential: r.one(1)?.to_vec(),
            ca_dir: r.path(2)?,
            voms_dir: r.path(3)?,
            require_crl: r.flag(4)?,
            max_proxy_lifetime: Duration::from_secs(r.number(5)?),
            allow_limited: r.flag(6)?,
            require_key: r.flag(7)?,
            now: r.number(8)?,
            rules: ChainRules {
                allow_legacy: r.flag(9)?,
                allow_sha1: r.flag(10)?,
                min_rsa_bits: to_id(r.one(11)?)?,
                min_proxy_rsa_bits: to_id(r.one(12)?)?,
            },
        };
        r.end().map(|()| request)
    }
}

/// The frame of a verdict.
pub fn encode_verify_reply(reply: &VerifyReply) -> Vec<u8> {
    let mut w = Writer::default();
    match reply {
        Ok(identity) => w.identity(identity),
        Err(refusal) => {
            w.bytes(1, &[refusal.kind as u8]);
            w.text(2, &one_line(&refusal.reason));
        }
    }
    w.finish(KIND_VERIFY_REPLY)
}

/// Reads a whole verdict; names are checked again here.
pub fn decode_verify_reply(frame: &[u8]) -> Result<VerifyReply, FrameError> {
    let mut r = Reader::open(frame, KIND_VERIFY_REPLY)?;
    let reply = match r.optional(1)? {
        Some([kind]) => {
            let kind = RefusalKind::from_byte(*kind).ok_or(FrameError::new("unknown class of refusal"))?;
            Err(Refusal { kind, reason: one_line(&r.text(2)?) })
        }
        Some(_) => return Err(FrameError::new("class of refusal is not one byte")),
        None => Ok(r.identity()?),
    };
    r.end().map(|()| reply)
}

impl MapRequest {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(1, &[self.service as u8]);
        self.endpoints.iter().for_each(|e| w.text(2, e));
        w.bytes(3, &self.host_credential);
        w.path(4, &self.ca_dir);
        w.number(5, u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX));
        w.text(6, &self.host);
        w.identity(&self.identity);
        w.finish(KIND_MAP_REQUEST)
    }

    /// Reads a whole frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut r = Reader::open(frame, KIND_MAP_REQUEST)?;
        let service = match r.one(1)? {
            [byte] => Service::ALL.into_iter().find(|s| *s as u8 == *byte),
            _ => None,
        };
        let request = Self {
            service: service.ok_or(FrameError::new("unknown mapping service"))?,
            endpoints: r.texts(2)?,
            host_credential: r.one(3)?.to_vec(),
            ca_dir: r.path(4)?,
            timeout: Duration::from_millis(r.number(5)?),
            host: r.text(6)?,
            identity: r.identity()?,
        };
        r.end().map(|()| request)
    }
}

impl MapReply {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            MapReply::Mapped(m) => {
                m.account.iter().for_each(|a| w.text(1, a));
                m.uid.iter().for_each(|n| w.number(2, u64::from(*n)));
                m.gid.iter().for_each(|n| w.number(3, u64::from(*n)));
                m.groups.iter().for_each(|n| w.number(4, u64::from(*n)));
                m.group.iter().for_each(|g| w.text(5, g));
                m.group_names.iter().for_each(|g| w.text(8, g));
            }
            MapReply::Denied(reason) => w.text(6, &one_line(reason)),
            MapReply::Unavailable(reason) => w.text(7, &one_line(reason)),
        }
        w.finish(KIND_MAP_REPLY)
    }

    /// Reads a whole frame; a mapping without a name and without a uid is malformed.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut r = Reader::open(frame, KIND_MAP_REPLY)?;
        let reply = if let Some(reason) = r.optional(6)? {
            MapReply::Denied(one_line(&to_text(reason)?))
        } else if let Some(reason) = r.optional(7)? {
            MapReply::Unavailable(one_line(&to_text(reason)?))
        } else {
            let mapping = Mapping {
                account: r.optional(1)?.map(to_text).transpose()?,
                uid: r.optional(2)?.map(to_id).transpose()?,
                gid: r.optional(3)?.map(to_id).transpose()?,
                groups: r.all(4).into_iter().map(to_id).collect::<Result<_, _>>()?,
                group: r.optional(5)?.map(to_text).transpose()?,
                group_names: r.texts(8)?,
            };
            if mapping.account.is_none() && mapping.uid.is_none() {
                return Err(FrameError::new("mapping has neither account nor uid"));
            }
            MapReply::Mapped(mapping)
        };
        r.end().map(|()| reply)
    }
}

#[cfg(test)]
mod tests;
