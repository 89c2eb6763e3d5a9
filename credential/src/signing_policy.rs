//! `.signing_policy` files: which subjects a CA may certify (Globus EACL).
//!
//! An entry is `access_id_CA X509 '<CA>'`, then `pos_rights globus CA:sign`, then
//! `cond_subjects globus '"pattern" "pattern"'`. As for Globus, a file is a run of words: lines mean nothing, `#` at the
//! begin of a word starts a comment, and `\'` inside single quotes is a quote that does not close them. Only the last
//! `*` of a pattern is a wildcard.

use identity::attribute_type;

/// One entry of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// `None` for `access_id_ANYBODY`, which means every CA.
    ca: Option<String>,
    line: usize,
    may_sign: bool,
    patterns: Vec<String>,
}

/// A parsed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningPolicy {
    entries: Vec<Entry>,
}

/// A line that cannot be read: its number and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct PolicyError {
    line: usize,
    what: &'static str,
}

/// A word and the line where it begins.
struct Word {
    line: usize,
    text: String,
}

impl SigningPolicy {
    /// Reads the bytes of a file. Bytes beyond ASCII become `\xHH`, the form in which names are compared.
    ///
    /// # Errors
    /// For everything that is not such a file, empty ones included, and for statements that are unknown here: rights that
    /// were taken away must not be skipped in silence.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let text = printable(bytes);
        let words = words(&text)?;
        let mut words = words.iter().map(|w| (w.line, w.text.as_str()));
        let mut entries: Vec<Entry> = Vec::new();
        while let Some((line, word)) = words.next() {
            let fail = |what| PolicyError { line, what };
            let mut next = || words.next().map(|(_, text)| text);
            match word {
                "access_id_CA" => match (next(), next()) {
                    (Some("X509"), Some(ca)) => entries.push(Entry::of(Some(ca.to_owned()), line)),
                    _ => return Err(fail("use access_id_CA X509 '<subject of the CA>'")),
                },
                "access_id_ANYBODY" => entries.push(Entry::of(None, line)),
                "pos_rights" => match (next(), next()) {
                    (Some("globus"), Some("CA:sign")) => {
                        entries.last_mut().ok_or(fail("pos_rights before access_id_CA"))?.may_sign = true;
                    }
                    _ => return Err(fail("use pos_rights globus CA:sign")),
                },
                "cond_subjects" => match (next(), next()) {
                    (Some("globus"), Some(list)) => {
                        let entry = entries.last_mut().ok_or(fail("cond_subjects before access_id_CA"))?;
                        if !entry.may_sign {
                            return Err(fail("cond_subjects before pos_rights globus CA:sign"));
                        }
                        entry.patterns.extend(patterns(list).ok_or(fail("a quote is not closed"))?);
                    }
                    _ => return Err(fail("use cond_subjects globus '\"pattern\" \"pattern\"'")),
                },
                _ => {
                    return Err(fail("unknown statement; use access_id_CA, pos_rights and cond_subjects"));
                }
            }
        }
        // Globus reads an entry without conditions as leave to sign everything; it looks like a file cut short.
        if let Some(open) = entries.iter().find(|e| e.patterns.is_empty()) {
            return Err(PolicyError { line: open.line, what: "the entry has no cond_subjects" });
        }
        if entries.is_empty() {
            return Err(PolicyError { line: 1, what: "the file has no access_id_CA entry" });
        }
        Ok(Self { entries })
    }

    /// Whether the file lets `ca` certify `subject`; `None` when it has no entry for that CA.
    pub fn permits(&self, ca: &str, subject: &str) -> Option<bool> {
        let (ca, subject) = (normal(ca), normal(subject));
        let is_mine = |e: &&Entry| e.ca.as_ref().is_none_or(|named| normal(named) == ca);
        let mut mine = self.entries.iter().filter(is_mine).peekable();
        mine.peek()?;
        Some(mine.any(|e| e.patterns.iter().any(|p| matches(&normal(p), &subject))))
    }
}

impl Entry {
    fn of(ca: Option<String>, line: usize) -> Self {
        Self { ca, line, may_sign: false, patterns: Vec::new() }
    }
}

/// Every byte that is neither printable ASCII nor white space as `\xHH`.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b' '..=b'~' | b'\n' | b'\r' | b'\t' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02X}")),
        }
    }
    text
}

/// Splits the text at white space; quotes hold a word together and end up outside it.
fn words(text: &str) -> Result<Vec<Word>, PolicyError> {
    let mut words = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\n' => {
                line += 1;
                1
            }
            c if c.is_ascii_whitespace() => 1,
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '\'' | '"' => {
                let unclosed = PolicyError { line, what: "a quote is not closed" };
                let (text, taken) = quoted(rest, first).ok_or(unclosed)?;
                words.push(Word { line, text });
                line += rest[..taken].matches('\n').count();
                taken
            }
            _ => {
                let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
                words.push(Word { line, text: rest[..end].to_owned() });
                end
            }
        };
        rest = &rest[taken..];
    }
    Ok(words)
}

/// The text between the quote that `rest` begins with and the next one without a backslash, and how much of `rest` it took.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((text, at + 1));
        }
        let escaped = c == '\\' && chars.peek().is_some_and(|(_, next)| *next == quote);
        text.push(if escaped { chars.next()?.1 } else { c });
    }
    None
}

/// The patterns of a list: in double quotes, or (where the list itself stands in these) in single ones, or one alone.
fn patterns(list: &str) -> Option<Vec<String>> {
    let quote = match list.trim_start().chars().next() {
        Some(quote @ ('"' | '\'')) => quote,
        _ => return Some(vec![list.trim().to_owned()]),
    };
    let mut found = Vec::new();
    let mut rest = list.trim_start();
    while rest.starts_with(quote) {
        let (pattern, taken) = quoted(rest, quote)?;
        found.push(pattern);
        rest = rest[taken..].trim_start();
    }
    rest.is_empty().then_some(found)
}

/// Globus compares without regard to case and knows two spellings of some types. A backslash before a slash or plus goes
/// where it makes no difference to which component the text belongs.
pub(crate) fn normal(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let needless = after.starts_with(['/', '+']) && !attribute_type::begins(&after[1..]);
        if !needless {
            plain.push('\\');
        }
        rest = after;
    }
    plain.push_str(rest);
    let lower = plain.to_ascii_lowercase();
    lower.replace("/emailaddress=", "/email=").replace("/e=", "/email=").replace("/userid=", "/uid=")
}

fn matches(pattern: &str, subject: &str) -> bool {
    match pattern.rsplit_once('*') {
        None => pattern == subject,
        Some((front, back)) => {
            subject.len() >= front.len() + back.len() && subject.starts_with(front) && subject.ends_with(back)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# CA\naccess_id_CA  X509  '/C=XX/CN=Root'\npos_rights globus CA:sign\n\
        cond_subjects globus '\"/C=XX/O=Grid/*\" \"/DC=org/*/CN=x\"'\n";

    fn parse(text: &str) -> SigningPolicy {
        SigningPolicy::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_named_ca_and_the_listed_subjects_pass() {
        let policy = parse(FILE);
        let permits = |ca, subject| policy.permits(ca, subject);
        assert_eq!(permits("/C=XX/CN=Root", "/C=XX/O=Grid/CN=Alice"), Some(true));
        assert_eq!(permits("/c=xx/cn=root", "/C=XX/O=grid/CN=Alice"), Some(true));
        assert_eq!(permits("/C=XX/CN=Root", "/DC=org/DC=a/CN=x"), Some(true));
        assert_eq!(permits("/C=XX/CN=Root", "/C=XX/O=Gridlock"), Some(false));
        assert_eq!(permits("/C=XX/CN=Root", "/C=YY/O=Grid/CN=Alice"), Some(false));
        assert_eq!(permits("/C=XX/CN=Other", "/C=XX/O=Grid/CN=Alice"), None);
    }

    #[test]
    fn only_the_last_star_is_a_wildcard() {
        assert!(matches("/o=*/cn=*", "/o=*/cn=bob"));
        assert!(!matches("/o=*/cn=*", "/o=grid/cn=bob"));
        assert!(!matches("/o=ab*bc", "/o=abc"));
        assert!(matches("*", "/anything"));
    }

    #[test]
    fn double_quoted_and_bare_forms_of_the_field_are_read() {
        let text = FILE.replace('\'', "\u{1}").replace('"', "'").replace('\u{1}', "\"");
        assert_eq!(parse(&text).permits("/C=XX/CN=Root", "/C=XX/O=Grid/CN=Alice"), Some(true));
        let bare = "access_id_CA X509 /CN=a pos_rights globus CA:sign cond_subjects globus /C=XX/*";
        assert_eq!(parse(bare).permits("/CN=a", "/C=XX/CN=x"), Some(true));
    }

    /// What Globus 6.2 does with each of these was tried with `grid-cert-diagnostics`.
    #[test]
    fn quotes_lines_and_comments_are_those_of_globus() {
        let ca = "/C=XX/CN=L'Aquila CA";
        for text in [
            "access_id_CA X509 '/C=XX/CN=L\\'Aquila CA'\npos_rights globus CA:sign\n\
             cond_subjects globus '\"/C=XX/L=L\\'Aquila/*\" \"/C=YY/*\"'\n",
            "access_id_CA X509\n '/C=XX/CN=L\\'Aquila CA' pos_rights globus CA:sign # why\n\
             cond_subjects\nglobus '\"/C=YY/*\"\n \"/C=XX/*\"'",
            "access_id_ANYBODY\npos_rights globus CA:sign\ncond_subjects globus '\"/C=XX/*\"'\r\n",
            "access_id_CA X509 '/C=XX/CN=L\\'Aquila CA'\npos_rights globus CA:sign\ncond_subjects globus '\"/C=YY/*\"'\n\
             access_id_CA X509 '/C=XX/CN=L\\'Aquila CA'\npos_rights globus CA:sign\ncond_subjects globus '\"/C=XX/*\"'\n",
        ] {
            let policy = parse(text);
            assert_eq!(policy.permits(ca, "/C=XX/L=L'Aquila/CN=Alice"), Some(true), "{text}");
            assert_eq!(policy.permits(ca, "/C=ZZ/CN=Alice"), Some(false), "{text}");
        }
    }

    #[test]
    fn other_spellings_of_one_name_match() {
        let text = b"access_id_CA X509 '/CN=M\xc3\xbcnchen/Email=ca@x.org'\npos_rights globus CA:sign\n\
            cond_subjects globus '\"/O=Grid/CN=host/*\" \"/O=J\\xC3\\xBCrgen/*\"'\n# Z\xfcrich\n";
        let policy = SigningPolicy::parse(text).unwrap();
        let ca = r"/CN=M\xC3\xBCnchen/emailAddress=ca@x.org";
        assert_eq!(policy.permits(ca, r"/O=Grid/CN=host\/wn.example.org"), Some(true));
        assert_eq!(policy.permits(ca, r"/O=J\xC3\xBCrgen/CN=x"), Some(true));
        assert_eq!(policy.permits(ca, r"/O=Grid\/CN=host/CN=x"), Some(false), "one component, not two");
    }

    #[test]
    fn broken_files_name_the_line() {
        for (text, line) in [
            ("", 1),
            ("# nothing\n", 1),
            ("access_id_CA X509 '/C=XX", 1),
            ("pos_rights globus CA:sign", 1),
            ("access_id_CA X509 '/CN=a'\ncond_subjects globus '\"*\"'", 2),
            ("access_id_CA X509 '/CN=a'\nneg_rights globus CA:sign", 2),
            ("\naccess_id_CA X509 '/CN=a'\npos_rights globus CA:sign", 2),
            ("access_id_CA X509 '/CN=a'\npos_rights globus CA:sign\ncond_subjects globus '\"/a\" /b'", 3),
            ("<html>\n<body>502</body></html>", 1),
            ("\u{1f}\u{8b}\u{8}\0", 1),
            ("a\0c\0", 1),
        ] {
            let error = SigningPolicy::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
        }
    }
}
