//! PEM text: the blocks of a proxy file, certificates first to last, and its private key.

use crate::refuse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::{Refusal, RefusalKind};

/// More certificates than this are not read; real chains have fewer than ten.
pub const MAX_CERTIFICATES: usize = 32;

/// One `-----BEGIN label-----` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The label.
    pub label: String,
    /// The decoded body; encrypted when `headers` is true.
    pub der: Vec<u8>,
    /// The block has RFC 1421 headers such as `Proc-Type: 4,ENCRYPTED`.
    pub headers: bool,
}

impl Block {
    /// Whether this is a certificate, in today's or OpenSSL's old spelling.
    pub fn is_certificate(&self) -> bool {
        matches!(self.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE")
    }

    /// Whether this is a private key of any kind.
    pub fn is_private_key(&self) -> bool {
        self.label.ends_with("PRIVATE KEY")
    }

    /// Whether this is a private key that nobody can use without its passphrase.
    pub fn is_encrypted(&self) -> bool {
        self.headers || self.label.starts_with("ENCRYPTED")
    }
}

/// A text that is no PEM: the line and what is wrong. What to do depends on whose text it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct PemError {
    line: usize,
    what: String,
}

impl From<PemError> for Refusal {
    /// As a fault of the credential that somebody presents.
    fn from(error: PemError) -> Self {
        let remedy = "make a new proxy (grid-proxy-init, voms-proxy-init)";
        refuse(RefusalKind::Malformed, format!("credential, {error}; {remedy}"))
    }
}

fn malformed(line: usize, what: &str) -> PemError {
    PemError { line, what: what.to_owned() }
}

fn boundary<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.strip_prefix("-----")?.strip_prefix(word)?.strip_prefix(' ')?.strip_suffix("-----")
}

/// Takes the PEM text of a credential apart, see [`blocks`].
///
/// # Errors
/// `Malformed` with the line.
pub fn split_pem(text: &[u8]) -> Result<Vec<Block>, Refusal> {
    Ok(blocks(text)?)
}

/// Takes a PEM text apart. Text between blocks is skipped, as OpenSSL does, whatever its encoding.
///
/// # Errors
/// For blocks that are cut off, nested, mislabelled or not base64.
pub fn blocks(text: &[u8]) -> Result<Vec<Block>, PemError> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String, bool)> = None;
    let mut count = 0;
    for line in text.split(|b| *b == b'\n') {
        count += 1;
        let line = std::str::from_utf8(line).unwrap_or("\u{fffd}").trim_end();
        if let Some(label) = boundary(line, "BEGIN") {
            if open.is_some() {
                return Err(malformed(count, "a PEM block begins inside another one"));
            }
            open = Some((label.to_owned(), String::new(), false));
        } else if let Some(label) = boundary(line, "END") {
            let (begun, body, headers) = open.take().ok_or_else(|| malformed(count, "END without BEGIN"))?;
            if begun != label {
                return Err(malformed(count, "BEGIN and END have different labels"));
            }
            // an encrypted body is of no use, so it need not decode
            let der = STANDARD.decode(&body).or_else(|e| if headers { Ok(Vec::new()) } else { Err(e) });
            let der = der.map_err(|_| malformed(count, "the block is not base64"))?;
            blocks.push(Block { label: begun, der, headers });
        } else if let Some((_, body, headers)) = &mut open {
            *headers |= line.contains(':');
            if !line.contains(':') {
                body.push_str(line.trim_start());
            }
        }
    }
    match open {
        Some((label, ..)) => {
            Err(malformed(count, &format!("the {label} block has no END, the file is cut off")))
        }
        None => Ok(blocks),
    }
}

/// The DER of every certificate, in order.
pub fn certificates(blocks: &[Block]) -> Result<Vec<Vec<u8>>, Refusal> {
    let found: Vec<Vec<u8>> = blocks.iter().filter(|b| b.is_certificate()).map(|b| b.der.clone()).collect();
    if found.is_empty() {
        let reason = "credential holds no PEM certificate; point to a proxy file, not to a key or request";
        return Err(refuse(RefusalKind::Malformed, reason));
    }
    if found.len() > MAX_CERTIFICATES {
        let reason =
            format!("credential holds {} certificates, at most {MAX_CERTIFICATES} are read", found.len());
        return Err(refuse(RefusalKind::Malformed, reason));
    }
    Ok(found)
}

/// Writes one block with lines of 64 characters.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for chunk in body.as_bytes().chunks(64) {
        text.extend(chunk.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_a_round_trip_and_foreign_text() {
        let text =
            format!("subject=x\n{}junk\r\n{}", encode("CERTIFICATE", &[7; 100]), encode("PRIVATE KEY", b"k"));
        let blocks = split_pem(text.replace('\n', "\r\n").as_bytes()).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].der, [7; 100]);
        assert!(blocks[1].is_private_key() && !blocks[1].is_encrypted());
    }

    #[test]
    fn cut_nested_and_mislabelled_blocks_name_the_line() {
        let whole = encode("CERTIFICATE", &[1; 90]);
        let cut = split_pem(&whole.as_bytes()[..60]).unwrap_err();
        assert!(cut.reason.contains("cut off"), "{}", cut.reason);
        for bad in [
            "-----BEGIN A-----\n-----BEGIN A-----\n",
            "-----END A-----\n",
            "-----BEGIN A-----\nAA==\n-----END B-----\n",
            "-----BEGIN A-----\n!!\n-----END A-----\n",
        ] {
            assert_eq!(split_pem(bad.as_bytes()).unwrap_err().kind, RefusalKind::Malformed, "{bad}");
        }
    }

    #[test]
    fn an_encrypted_key_is_recognised_in_both_styles() {
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(split_pem(old.as_bytes()).unwrap()[0].is_encrypted());
        assert!(split_pem(encode("ENCRYPTED PRIVATE KEY", b"x").as_bytes()).unwrap()[0].is_encrypted());
    }
}
