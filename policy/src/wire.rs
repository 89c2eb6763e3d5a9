//! The frames between `glexec` and its two unprivileged children.
//!
//! A frame is `PLT1`, one byte of kind, the body's length (u32, big endian) and the body. A body is a run of
//! fields: one byte of tag, a length (u32, big endian), that many bytes. Unknown tags, repeated scalars,
//! lengths that do not fit and bytes left over are errors: root reads these frames, so it forgives nothing.

use crate::identity::{Dn, Fqan, VerifiedIdentity, VomsAttributes};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Largest credential that is read, in bytes; a chain of ten certificates has about 20 KiB.
pub const MAX_CREDENTIAL: usize = 256 * 1024;
/// Largest frame that a child reads from `glexec`, in bytes.
pub const MAX_REQUEST: usize = 2 * MAX_CREDENTIAL;
/// Largest frame that `glexec` reads from a child, in bytes.
pub const MAX_REPLY: usize = 2 * MAX_CREDENTIAL;

const MAGIC: &[u8; 4] = b"PLT1";
const HEADER: usize = 9;

/// Why a frame was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError(&'static str);

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed frame: {}", self.0)
    }
}

impl std::error::Error for WireError {}

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
    /// False for callers in `omission_private_key_white_list`.
    pub require_key: bool,
    /// The time to judge by, seconds since the epoch.
    pub now: u64,
}

/// Why a credential was refused: the class decides the exit code, the text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class.
    pub kind: RefusalKind,
    /// One line: what is wrong, where, and what to do.
    pub reason: String,
}

/// The classes of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Not a PEM chain with its key: the caller handed over the wrong file.
    Malformed = 1,
    /// A certificate of the chain has expired, or is not valid yet.
    Expired = 2,
    /// The private key is missing or belongs to another certificate.
    Key = 3,
    /// The chain breaks RFC 3820 or RFC 5280: signature, names, path length, usage.
    Chain = 4,
    /// No trusted CA, signing policy violated, revoked, or CRL missing or stale.
    Trust = 5,
    /// Lives longer than the site allows, or limited where that is not allowed.
    Policy = 6,
    /// The VOMS attribute certificate is not acceptable.
    Voms = 7,
    /// The verifier itself cannot work: CA directory unreadable, library failure.
    Site = 8,
}

impl RefusalKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use RefusalKind::*;
        [Malformed, Expired, Key, Chain, Trust, Policy, Voms, Site].into_iter().find(|k| *k as u8 == byte)
    }
}

/// `glexec-verify` to `glexec`.
pub type VerifyReply = Result<VerifiedIdentity, Refusal>;

/// The protocol that a mapping service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// XACML over SOAP, answers with an account name (`mapping-protocols.md` 1).
    Gums = 1,
    /// XACML over SOAP, answers with numbers.
    Scas = 2,
    /// Argus PEP daemon, Hessian.
    Argus = 3,
    /// GUMS 1.5 JSON.
    Json = 4,
}

impl Service {
    /// Every service, in the order of the documentation.
    pub const ALL: [Service; 4] = [Service::Gums, Service::Scas, Service::Argus, Service::Json];

    /// The name in `policy.toml` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Service::Gums => "gums",
            Service::Scas => "scas",
            Service::Argus => "argus",
            Service::Json => "json",
        }
    }
}

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

/// What a mapping source said about the account: at least a name or a uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Account name.
    pub account: Option<String>,
    /// Numeric uid.
    pub uid: Option<u32>,
    /// Numeric primary gid.
    pub gid: Option<u32>,
    /// Numeric secondary gids.
    pub groups: Vec<u32>,
    /// Primary group by name (the `account` obligation of GUMS 1.5).
    pub group: Option<String>,
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
        w.finish(KIND_VERIFY_REQUEST)
    }

    /// Reads a whole frame.
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
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
pub fn decode_verify_reply(frame: &[u8]) -> Result<VerifyReply, WireError> {
    let mut r = Reader::open(frame, KIND_VERIFY_REPLY)?;
    let reply = match r.optional(1)? {
        Some([kind]) => {
            let kind = RefusalKind::from_byte(*kind).ok_or(WireError("unknown class of refusal"))?;
            Err(Refusal { kind, reason: one_line(&r.text(2)?) })
        }
        Some(_) => return Err(WireError("class of refusal is not one byte")),
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
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::open(frame, KIND_MAP_REQUEST)?;
        let service = match r.one(1)? {
            [byte] => Service::ALL.into_iter().find(|s| *s as u8 == *byte),
            _ => None,
        };
        let request = Self {
            service: service.ok_or(WireError("unknown mapping service"))?,
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
            }
            MapReply::Denied(reason) => w.text(6, &one_line(reason)),
            MapReply::Unavailable(reason) => w.text(7, &one_line(reason)),
        }
        w.finish(KIND_MAP_REPLY)
    }

    /// Reads a whole frame; a mapping without a name and without a uid is malformed.
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
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
            };
            if mapping.account.is_none() && mapping.uid.is_none() {
                return Err(WireError("mapping has neither account nor uid"));
            }
            MapReply::Mapped(mapping)
        };
        r.end().map(|()| reply)
    }
}

/// Whether `bytes` start a frame, and how long it is in all; `None` while the header is incomplete.
pub fn frame_length(bytes: &[u8], limit: usize) -> Result<Option<usize>, WireError> {
    let Some(header) = bytes.get(..HEADER) else {
        return Ok(None);
    };
    if &header[..4] != MAGIC {
        return Err(WireError("wrong magic"));
    }
    let body = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
    if body > limit {
        return Err(WireError("longer than the limit"));
    }
    Ok(Some(HEADER + body))
}

/// Makes any text fit one log line: control characters and non-ASCII become `\xHH`, 500 characters at most.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(500));
    for byte in text.bytes() {
        let width = if matches!(byte, 0x20..=0x7e) { 1 } else { 4 };
        // The end counts after escaping: a line that passes through here again stays as it is.
        if line.len() + width > 500 {
            break;
        }
        match byte {
            0x20..=0x7e => line.push(char::from(byte)),
            other => line.push_str(&format!("\\x{other:02X}")),
        }
    }
    line
}

fn to_text(bytes: &[u8]) -> Result<String, WireError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError("text is not UTF-8"))
}

fn to_number(bytes: &[u8]) -> Result<u64, WireError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| WireError("number is not eight bytes"))
}

fn to_id(bytes: &[u8]) -> Result<u32, WireError> {
    u32::try_from(to_number(bytes)?).map_err(|_| WireError("id does not fit 32 bits"))
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, tag: u8, value: &[u8]) {
        let length = u32::try_from(value.len()).expect("fields are bounded by the credential's size");
        self.0.push(tag);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    fn text(&mut self, tag: u8, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    fn path(&mut self, tag: u8, value: &std::path::Path) {
        use std::os::unix::ffi::OsStrExt;
        self.bytes(tag, value.as_os_str().as_bytes());
    }

    fn number(&mut self, tag: u8, value: u64) {
        self.bytes(tag, &value.to_be_bytes());
    }

    fn identity(&mut self, identity: &VerifiedIdentity) {
        self.text(32, identity.subject.as_str());
        self.text(33, identity.issuer.as_str());
        self.text(34, &identity.serial);
        self.number(35, identity.not_after);
        self.number(36, u64::from(identity.limited));
        self.bytes(37, &identity.digest);
        self.bytes(38, &identity.chain_pem);
        if let Some(voms) = &identity.voms {
            self.text(40, &voms.vo);
            voms.fqans.iter().for_each(|f| self.text(41, f.as_str()));
            self.text(42, voms.signer.as_str());
            self.text(43, voms.signer_issuer.as_str());
            self.number(44, voms.not_after);
        }
    }

    fn finish(self, kind: u8) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("frames are bounded by the credential's size");
        [MAGIC, &[kind][..], &length.to_be_bytes(), &self.0].concat()
    }
}

struct Reader<'a> {
    fields: Vec<(u8, &'a [u8])>,
}

impl<'a> Reader<'a> {
    fn open(frame: &'a [u8], kind: u8) -> Result<Self, WireError> {
        let length =
            frame_length(frame, MAX_REQUEST.max(MAX_REPLY))?.ok_or(WireError("shorter than its header"))?;
        if frame.len() != length {
            return Err(WireError("length does not match"));
        }
        if frame[4] != kind {
            return Err(WireError("wrong kind"));
        }
        let mut rest = &frame[HEADER..];
        let mut fields = Vec::new();
        while let [tag, a, b, c, d, tail @ ..] = rest {
            let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let value = tail.get(..size).ok_or(WireError("field runs over the end"))?;
            fields.push((*tag, value));
            rest = &tail[size..];
        }
        if !rest.is_empty() {
            return Err(WireError("bytes left over"));
        }
        Ok(Self { fields })
    }

    fn all(&mut self, tag: u8) -> Vec<&'a [u8]> {
        let found = self.fields.iter().filter(|(t, _)| *t == tag).map(|(_, v)| *v).collect();
        self.fields.retain(|(t, _)| *t != tag);
        found
    }

    fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, WireError> {
        match self.all(tag).as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(WireError("field stands twice")),
        }
    }

    fn one(&mut self, tag: u8) -> Result<&'a [u8], WireError> {
        self.optional(tag)?.ok_or(WireError("field is missing"))
    }

    fn text(&mut self, tag: u8) -> Result<String, WireError> {
        to_text(self.one(tag)?)
    }

    fn texts(&mut self, tag: u8) -> Result<Vec<String>, WireError> {
        self.all(tag).into_iter().map(to_text).collect()
    }

    fn path(&mut self, tag: u8) -> Result<PathBuf, WireError> {
        use std::os::unix::ffi::OsStrExt;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(self.one(tag)?)))
    }

    fn number(&mut self, tag: u8) -> Result<u64, WireError> {
        to_number(self.one(tag)?)
    }

    fn flag(&mut self, tag: u8) -> Result<bool, WireError> {
        match self.number(tag)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError("flag is neither 0 nor 1")),
        }
    }

    fn dn(&mut self, tag: u8) -> Result<Dn, WireError> {
        Dn::parse(&self.text(tag)?).map_err(|_| WireError("DN is malformed"))
    }

    fn identity(&mut self) -> Result<VerifiedIdentity, WireError> {
        let serial = self.text(34)?;
        if serial.len() > 64 || !serial.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(WireError("serial is not hex"));
        }
        Ok(VerifiedIdentity {
            subject: self.dn(32)?,
            issuer: self.dn(33)?,
            serial,
            not_after: self.number(35)?,
            limited: self.flag(36)?,
            digest: self.one(37)?.try_into().map_err(|_| WireError("digest is not 32 bytes"))?,
            chain_pem: self.one(38)?.to_vec(),
            voms: self.voms()?,
        })
    }

    fn voms(&mut self) -> Result<Option<VomsAttributes>, WireError> {
        let Some(vo) = self.optional(40)? else {
            return Ok(None);
        };
        let fqan = |text: String| Fqan::parse(&text).map_err(|_| WireError("FQAN is malformed"));
        let fqans = self.texts(41)?.into_iter().map(fqan).collect::<Result<Vec<_>, _>>()?;
        if fqans.is_empty() {
            return Err(WireError("attributes without FQAN"));
        }
        let vo = to_text(vo)?;
        if fqans.iter().any(|f| f.vo() != vo) {
            return Err(WireError("FQAN of another VO"));
        }
        Ok(Some(VomsAttributes {
            vo,
            fqans,
            signer: self.dn(42)?,
            signer_issuer: self.dn(43)?,
            not_after: self.number(44)?,
        }))
    }

    fn end(self) -> Result<(), WireError> {
        if self.fields.is_empty() { Ok(()) } else { Err(WireError("unknown field")) }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
