//! Ban files: one name a line, in quotes where it holds blanks, with wildcards.
//!
//! A ban that bans nobody is worse than an error. So a name means everybody who can be meant by it: every spelling
//! of the name, with escapes or without, and every character that a byte of another encoding may stand for. Where it is not
//! clear what the name is, the file is refused.

use super::{Line, MapfileError, lines, wildcard_match};
use identity::{Dn, Fqan, loose_forms};

/// A parsed file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BanFile(Vec<Ban>);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    line: usize,
    key: Vec<u8>,
    /// The key, once for each way to read bytes that are not UTF-8, each in the two forms of [`loose_forms`].
    patterns: Vec<[Vec<u8>; 2]>,
}

impl BanFile {
    /// Parses a whole file.
    ///
    /// # Errors
    /// For a quote that is never closed, for text after a name without quotes, and for what is no text at all.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, MapfileError> {
        let text = text.as_ref();
        if let Some(at) = text.iter().position(|c| *c == 0) {
            let line = 1 + text[..at].iter().filter(|c| **c == b'\n').count();
            let reason = "a NUL byte: this is no text, or UTF-16; save it as UTF-8".into();
            return Err(MapfileError { line, reason });
        }
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        lines(text).map(|line| line.and_then(Ban::of)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a DN is banned.
    pub fn lists_dn(&self, dn: &Dn) -> bool {
        let forms = loose_forms(dn.as_str());
        self.0.iter().any(|ban| ban.hits(dn.as_str(), &forms))
    }

    /// Whether an FQAN is banned. `/Role=NULL` and `/Capability=NULL` at its end say nothing, so they may be left out.
    pub fn lists_fqan(&self, fqan: &Fqan) -> bool {
        let short = without_null(fqan.as_str().as_bytes());
        let hit = |ban: &Ban| {
            wildcard_match(&ban.key, fqan.as_str())
                || wildcard_match(&ban.key, short)
                || wildcard_match(without_null(&ban.key), short)
        };
        self.0.iter().any(hit)
    }

    /// Each line, for those who look whether it means anybody.
    pub fn bans(&self) -> &[Ban] {
        &self.0
    }
}

impl Ban {
    fn of(line: Line<'_>) -> Result<Self, MapfileError> {
        // LCMAPS takes a line of a grid-mapfile as a ban, too; then the name stands in quotes and an account follows.
        if !line.quoted && line.accounts().next().is_some() {
            let reason = "text after the name; put the name in quotes if the text belongs to it: \"/C=XX/CN=First Last\"";
            return Err(MapfileError { line: line.number, reason: reason.into() });
        }
        let patterns = readings(line.key).iter().map(loose_forms).collect();
        Ok(Self { line: line.number, key: line.key.to_vec(), patterns })
    }

    /// Counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// As it is written, without quotes.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether the line bans this DN.
    pub fn means(&self, dn: &Dn) -> bool {
        self.hits(dn.as_str(), &loose_forms(dn.as_str()))
    }

    fn hits(&self, dn: &str, forms: &[Vec<u8>; 2]) -> bool {
        let form =
            |pattern: &[Vec<u8>; 2]| pattern.iter().zip(forms).any(|(p, form)| wildcard_match(p, form));
        wildcard_match(&self.key, dn) || self.patterns.iter().any(form)
    }
}

/// The ways to read a key. A byte that is not UTF-8 is a letter of an encoding that nobody named: in a certificate
/// it is the same byte, or two or three of UTF-8.
fn readings(key: &[u8]) -> Vec<Vec<u8>> {
    if std::str::from_utf8(key).is_ok() {
        return vec![key.to_vec()];
    }
    const BEYOND_ASCII: &[u8] = b"[\x80-\xff]";
    (1..=3)
        .map(|length| {
            let mut pattern = Vec::new();
            for chunk in key.utf8_chunks() {
                pattern.extend(chunk.valid().bytes());
                chunk.invalid().iter().for_each(|_| pattern.extend(BEYOND_ASCII.repeat(length)));
            }
            pattern
        })
        .collect()
}

fn without_null(fqan: &[u8]) -> &[u8] {
    let fqan = fqan.strip_suffix(b"/Capability=NULL").unwrap_or(fqan);
    fqan.strip_suffix(b"/Role=NULL").unwrap_or(fqan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans(file: impl AsRef<[u8]>, dn: &str) -> bool {
        BanFile::parse(file).unwrap().lists_dn(&Dn::parse(dn).unwrap())
    }

    #[test]
    fn every_spelling_of_the_name_is_banned() {
        for (line, dn) in [
            ("\"/CN=host/x.org\"", "/CN=host\\/x.org"),
            ("\"/CN=host\\/x.org\"", "/CN=host\\/x.org"),
            ("/CN=A/Email=a@x.org", "/CN=A/emailAddress=a@x.org"),
            ("/CN=A/E=a@x.org", "/CN=A/emailAddress=a@x.org"),
            ("/CN=A/1.2.840.113549.1.9.1=a@x.org", "/CN=A/emailAddress=a@x.org"),
            ("/cn=A/userid=u", "/CN=A/UID=u"),
            ("\"/CN=a+b\"", "/CN=a\\+b"),
            ("\"/O=Lab\\, Ltd\"", "/O=Lab, Ltd"),
            ("\"/CN=host/*\"", "/CN=host\\/x.org"),
            ("*/Email=*@x.org", "/C=XX/CN=A/emailAddress=a@x.org"),
            ("\"/CN=J\u{fc}rgen\"", "/CN=J\\xC3\\xBCrgen"),
            ("\"/CN=J\\xc3\\xbcrgen\"", "/CN=J\\xC3\\xBCrgen"),
            ("\"/CN=Alice/CN=Bob\"", "/CN=Alice\\/CN=Bob"),
            ("\"/CN=a/UID=b\"", "/CN=a+UID=b"),
            ("\u{feff}/CN=A\r\n", "/CN=A"),
        ] {
            assert!(bans(line, dn), "{line} {dn}");
        }
        assert!(!bans("\"/CN=host/x.org\"", "/CN=host\\/y.org"));
        assert!(!bans("\"/CN=A\"", "/CN=a"));
    }

    #[test]
    fn a_byte_of_another_encoding_bans_whom_it_can_mean_and_nobody_else() {
        let file = b"# f\xfcr Leute\n\"/CN=J\xfcrgen\"\n\"/CN=Bob\"\n";
        for banned in ["/CN=J\\xC3\\xBCrgen", "/CN=J\\xFCrgen", "/CN=Bob"] {
            assert!(bans(file, banned), "{banned}");
        }
        for free in ["/CN=Jurgen", "/CN=Joergen", "/CN=Alice"] {
            assert!(!bans(file, free), "{free}");
        }
    }

    #[test]
    fn text_after_a_name_is_an_error_with_its_line() {
        let error = BanFile::parse("/CN=A\n\n/C=XX/CN=Alice Adams\n").unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.to_string().contains("in quotes"), "{error}");
        assert!(BanFile::parse("\"/C=XX/CN=Alice Adams\" # left\n/CN=A # likewise\n").is_ok());
        assert_eq!(BanFile::parse("/\0C\0N\0=\0A\0\n").unwrap_err().line, 1);
    }

    #[test]
    fn a_role_that_is_none_may_be_left_out() {
        let lists = |file: &str, fqan| BanFile::parse(file).unwrap().lists_fqan(&Fqan::parse(fqan).unwrap());
        let whole = "/cms/Role=NULL/Capability=NULL";
        for line in ["/cms", "/cms/Role=NULL", whole, "/cms*", "/c?s"] {
            assert!(lists(line, whole) && lists(line, "/cms"), "{line}");
        }
        assert!(!lists("/cms", "/cms/Role=pilot/Capability=NULL"));
        assert!(lists("/cms/Role=pilot", "/cms/Role=pilot/Capability=NULL"));
        assert!(lists("/cms/*", "/cms/Role=pilot/Capability=NULL"));
    }
}
