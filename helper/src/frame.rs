//! How a frame is written and read.
//!
//! A frame is `PLT1`, one byte of kind, the body's length (u32, big endian) and the body. A body is a run of
//! fields: one byte of tag, a length (u32, big endian), that many bytes. Unknown tags, repeated scalars,
//! lengths that do not fit and bytes left over are errors: root reads these frames, so it forgives nothing.

use identity::{Dn, Fqan, VerifiedIdentity, VomsAttributes};
use std::fmt;
use std::path::PathBuf;

/// Largest credential that is read, in bytes; a chain of ten certificates has about 20 KiB.
pub const MAX_CREDENTIAL: usize = 256 * 1024;
/// Largest frame that a child reads from `glexec`, in bytes.
pub const MAX_REQUEST: usize = 2 * MAX_CREDENTIAL;
/// Largest frame that `glexec` reads from a child, in bytes.
pub const MAX_REPLY: usize = 2 * MAX_CREDENTIAL;

pub(crate) const MAGIC: &[u8; 4] = b"PLT1";
const HEADER: usize = 9;

/// Why a frame was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameError(&'static str);

impl FrameError {
    pub(crate) const fn new(why: &'static str) -> Self {
        Self(why)
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed frame: {}", self.0)
    }
}

impl std::error::Error for FrameError {}

/// Whether `bytes` start a frame, and how long it is in all; `None` while the header is incomplete.
pub fn frame_length(bytes: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(header) = bytes.get(..HEADER) else {
        return Ok(None);
    };
    if &header[..4] != MAGIC {
        return Err(FrameError("wrong magic"));
    }
    let body = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
    if body > limit {
        return Err(FrameError("longer than the limit"));
    }
    Ok(Some(HEADER + body))
}

pub(crate) fn to_text(bytes: &[u8]) -> Result<String, FrameError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| FrameError("text is not UTF-8"))
}

pub(crate) fn to_number(bytes: &[u8]) -> Result<u64, FrameError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| FrameError("number is not eight bytes"))
}

pub(crate) fn to_id(bytes: &[u8]) -> Result<u32, FrameError> {
    u32::try_from(to_number(bytes)?).map_err(|_| FrameError("id does not fit 32 bits"))
}

#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn bytes(&mut self, tag: u8, value: &[u8]) {
        let length = u32::try_from(value.len()).expect("fields are bounded by the credential's size");
        self.0.push(tag);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, tag: u8, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    pub(crate) fn path(&mut self, tag: u8, value: &std::path::Path) {
        use std::os::unix::ffi::OsStrExt;
        self.bytes(tag, value.as_os_str().as_bytes());
    }

    pub(crate) fn number(&mut self, tag: u8, value: u64) {
        self.bytes(tag, &value.to_be_bytes());
    }

    pub(crate) fn identity(&mut self, identity: &VerifiedIdentity) {
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

    pub(crate) fn finish(self, kind: u8) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("frames are bounded by the credential's size");
        [MAGIC, &[kind][..], &length.to_be_bytes(), &self.0].concat()
    }
}

pub(crate) struct Reader<'a> {
    fields: Vec<(u8, &'a [u8])>,
}

impl<'a> Reader<'a> {
    pub(crate) fn open(frame: &'a [u8], kind: u8) -> Result<Self, FrameError> {
        let length =
            frame_length(frame, MAX_REQUEST.max(MAX_REPLY))?.ok_or(FrameError("shorter than its header"))?;
        if frame.len() != length {
            return Err(FrameError("length does not match"));
        }
        if frame[4] != kind {
            return Err(FrameError("wrong kind"));
        }
        let mut rest = &frame[HEADER..];
        let mut fields = Vec::new();
        while let [tag, a, b, c, d, tail @ ..] = rest {
            let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let value = tail.get(..size).ok_or(FrameError("field runs over the end"))?;
            fields.push((*tag, value));
            rest = &tail[size..];
        }
        if !rest.is_empty() {
            return Err(FrameError("bytes left over"));
        }
        Ok(Self { fields })
    }

    pub(crate) fn all(&mut self, tag: u8) -> Vec<&'a [u8]> {
        let found = self.fields.iter().filter(|(t, _)| *t == tag).map(|(_, v)| *v).collect();
        self.fields.retain(|(t, _)| *t != tag);
        found
    }

    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, FrameError> {
        match self.all(tag).as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(FrameError("field stands twice")),
        }
    }

    pub(crate) fn one(&mut self, tag: u8) -> Result<&'a [u8], FrameError> {
        self.optional(tag)?.ok_or(FrameError("field is missing"))
    }

    pub(crate) fn text(&mut self, tag: u8) -> Result<String, FrameError> {
        to_text(self.one(tag)?)
    }

    pub(crate) fn texts(&mut self, tag: u8) -> Result<Vec<String>, FrameError> {
        self.all(tag).into_iter().map(to_text).collect()
    }

    pub(crate) fn path(&mut self, tag: u8) -> Result<PathBuf, FrameError> {
        use std::os::unix::ffi::OsStrExt;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(self.one(tag)?)))
    }

    pub(crate) fn number(&mut self, tag: u8) -> Result<u64, FrameError> {
        to_number(self.one(tag)?)
    }

    pub(crate) fn flag(&mut self, tag: u8) -> Result<bool, FrameError> {
        match self.number(tag)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError("flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn dn(&mut self, tag: u8) -> Result<Dn, FrameError> {
        Dn::parse(&self.text(tag)?).map_err(|_| FrameError("DN is malformed"))
    }

    pub(crate) fn identity(&mut self) -> Result<VerifiedIdentity, FrameError> {
        let serial = self.text(34)?;
        if serial.len() > 64 || !serial.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(FrameError("serial is not hex"));
        }
        Ok(VerifiedIdentity {
            subject: self.dn(32)?,
            issuer: self.dn(33)?,
            serial,
            not_after: self.number(35)?,
            limited: self.flag(36)?,
            digest: self.one(37)?.try_into().map_err(|_| FrameError("digest is not 32 bytes"))?,
            chain_pem: self.one(38)?.to_vec(),
            voms: self.voms()?,
        })
    }

    pub(crate) fn voms(&mut self) -> Result<Option<VomsAttributes>, FrameError> {
        let Some(vo) = self.optional(40)? else {
            return Ok(None);
        };
        let fqan = |text: String| Fqan::parse(&text).map_err(|_| FrameError("FQAN is malformed"));
        let fqans = self.texts(41)?.into_iter().map(fqan).collect::<Result<Vec<_>, _>>()?;
        if fqans.is_empty() {
            return Err(FrameError("attributes without FQAN"));
        }
        let vo = to_text(vo)?;
        if fqans.iter().any(|f| f.vo() != vo) {
            return Err(FrameError("FQAN of another VO"));
        }
        Ok(Some(VomsAttributes {
            vo,
            fqans,
            signer: self.dn(42)?,
            signer_issuer: self.dn(43)?,
            not_after: self.number(44)?,
        }))
    }

    pub(crate) fn end(self) -> Result<(), FrameError> {
        if self.fields.is_empty() { Ok(()) } else { Err(FrameError("unknown field")) }
    }
}
