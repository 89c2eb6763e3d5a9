//! Walking through DER by hand, for the structures that no certificate library knows (attribute certificates,
//! proxyCertInfo). Lengths and tags are judged by `asn1-rs`; this module only keeps the raw bytes at hand.

use asn1_rs::{Any, FromDer};

/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BOOLEAN.
pub const BOOLEAN: u8 = 0x01;
/// BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;

/// The bytes are not the DER that was expected here; the text says which element was sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed DER: {0}")]
pub struct DerError(pub &'static str);

/// One element: identifier octet, contents and the whole encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// Identifier octet; tags above 30 are not needed here and never equal a wanted one.
    pub tag: u8,
    /// Contents octets.
    pub body: &'a [u8],
    /// Identifier, length and contents.
    pub raw: &'a [u8],
}

/// A run of elements, read from the front.
#[derive(Debug, Clone, Copy)]
pub struct Der<'a> {
    rest: &'a [u8],
}

impl<'a> Der<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// True once everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The identifier octet of the next element.
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element, whatever it is.
    pub fn any(&mut self, what: &'static str) -> Result<Element<'a>, DerError> {
        let tag = self.peek().ok_or(DerError(what))?;
        let (rest, any) = Any::from_der(self.rest).map_err(|_| DerError(what))?;
        let raw = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        Ok(Element { tag, body: any.data, raw })
    }

    /// The next element, which must have this identifier octet.
    pub fn take(&mut self, tag: u8, what: &'static str) -> Result<Element<'a>, DerError> {
        if self.peek() != Some(tag) {
            return Err(DerError(what));
        }
        self.any(what)
    }

    /// The next element if it has this identifier octet.
    pub fn optional(&mut self, tag: u8, what: &'static str) -> Result<Option<Element<'a>>, DerError> {
        if self.peek() == Some(tag) { self.any(what).map(Some) } else { Ok(None) }
    }

    /// The contents of the next element, which must be constructed with this identifier octet.
    pub fn enter(&mut self, tag: u8, what: &'static str) -> Result<Der<'a>, DerError> {
        self.take(tag, what).map(|e| Der::new(e.body))
    }

    /// Fails when bytes are left over.
    pub fn end(&self, what: &'static str) -> Result<(), DerError> {
        if self.is_empty() { Ok(()) } else { Err(DerError(what)) }
    }
}

/// The only element of `bytes`, with nothing after it, entered.
pub fn only<'a>(bytes: &'a [u8], tag: u8, what: &'static str) -> Result<Der<'a>, DerError> {
    let mut der = Der::new(bytes);
    let inner = der.enter(tag, what)?;
    der.end(what)?;
    Ok(inner)
}

/// The encoding of an element with these contents.
pub fn element(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len().to_be_bytes();
    let significant = length.iter().position(|b| *b != 0).map_or(&[0][..], |first| &length[first..]);
    let long = u8::try_from(significant.len()).unwrap_or_default() | 0x80;
    let head = if body.len() < 0x80 { vec![tag] } else { vec![tag, long] };
    [&head, significant, body].concat()
}

/// A non-negative INTEGER that fits 32 bits.
pub fn small_number(element: Element<'_>, what: &'static str) -> Result<u32, DerError> {
    let body = element.body;
    let minimal = !(body.len() > 1 && body[0] == 0 && body[1] < 0x80);
    if body.is_empty() || body.len() > 5 || body[0] >= 0x80 || !minimal {
        return Err(DerError(what));
    }
    let value = body.iter().fold(0u64, |n, b| (n << 8) | u64::from(*b));
    u32::try_from(value).map_err(|_| DerError(what))
}

/// UTCTime or GeneralizedTime as seconds since the epoch.
pub fn time(element: Element<'_>, what: &'static str) -> Result<i64, DerError> {
    match x509_parser::time::ASN1Time::from_der(element.raw) {
        Ok((_, time)) => Ok(time.timestamp()),
        Err(_) => Err(DerError(what)),
    }
}

/// The bits of a BIT STRING that uses whole octets, as signatures do.
pub fn whole_bits<'a>(element: Element<'a>, what: &'static str) -> Result<&'a [u8], DerError> {
    match element.body.split_first() {
        Some((0, bits)) => Ok(bits),
        _ => Err(DerError(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_small_minimal_and_not_negative() {
        let number = |bytes: &[u8]| {
            let mut der = Der::new(bytes);
            small_number(der.take(INTEGER, "n")?, "n")
        };
        assert_eq!(number(&[2, 1, 0]), Ok(0));
        assert_eq!(number(&[2, 2, 0, 0x80]), Ok(128));
        assert_eq!(number(&[2, 5, 0, 255, 255, 255, 255]), Ok(u32::MAX));
        for bad in [&[2, 0][..], &[2, 1, 0x80], &[2, 2, 0, 1], &[2, 5, 1, 0, 0, 0, 0], &[4, 1, 1], &[2, 3, 1]]
        {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn indefinite_and_overlong_lengths_are_refused() {
        assert!(Der::new(&[0x30, 0x80, 0, 0]).any("x").is_err());
        assert!(Der::new(&[0x30, 0x05, 0, 0]).any("x").is_err());
        assert!(only(&[0x30, 0, 0], SEQUENCE, "x").is_err());
    }
}
