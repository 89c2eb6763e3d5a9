//! `.signing_policy` files: which subjects a CA may certify (Globus EACL).
//!
//! An entry is `access_id_CA X509 '<CA>'`, then `pos_rights globus CA:sign`, then
//! `cond_subjects globus '"pattern" "pattern"'`. Only the last `*` of a pattern is a wildcard.

/// One entry of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    ca: String,
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

impl SigningPolicy {
    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut entries: Vec<Entry> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let fail = |what| PolicyError { line: number + 1, what };
            let words = words(line).ok_or(fail("a quote is not closed"))?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                [] => {}
                ["access_id_CA", "X509", ca] => {
                    entries.push(Entry { ca: (*ca).to_owned(), may_sign: false, patterns: Vec::new() });
                }
                ["access_id_CA", ..] => return Err(fail("use access_id_CA X509 '<subject of the CA>'")),
                ["pos_rights", "globus", "CA:sign"] => {
                    entries.last_mut().ok_or(fail("pos_rights before access_id_CA"))?.may_sign = true;
                }
                ["cond_subjects", "globus", list] => {
                    let entry = entries.last_mut().ok_or(fail("cond_subjects before access_id_CA"))?;
                    if !entry.may_sign {
                        return Err(fail("cond_subjects before pos_rights globus CA:sign"));
                    }
                    entry.patterns.extend(patterns(list).ok_or(fail("a quote is not closed"))?);
                }
                // rights that were taken away, or conditions unknown here, must not be skipped in silence
                _ => {
                    return Err(fail("unknown statement; use access_id_CA, pos_rights and cond_subjects"));
                }
            }
        }
        Ok(Self { entries })
    }

    /// Whether the file lets `ca` certify `subject`; `None` when it has no entry for that CA.
    pub fn permits(&self, ca: &str, subject: &str) -> Option<bool> {
        let (ca, subject) = (normal(ca), normal(subject));
        let mut mine = self.entries.iter().filter(|e| normal(&e.ca) == ca).peekable();
        mine.peek()?;
        Some(mine.any(|e| e.patterns.iter().any(|p| matches(&normal(p), &subject))))
    }
}

/// Splits a line at blanks; single quotes hold a word together and end up outside it, `#` starts a comment.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, tail) = match rest.chars().next() {
            Some(quote @ ('\'' | '"')) => rest[1..].split_once(quote)?,
            _ => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = tail.trim_start();
    }
    Some(words)
}

fn patterns(list: &str) -> Option<Vec<String>> {
    if list.contains('"') || list.contains('\'') { words(list) } else { Some(vec![list.trim().to_owned()]) }
}

/// Globus compares without regard to case and knows two spellings of some types.
fn normal(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
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

    #[test]
    fn only_the_named_ca_and_the_listed_subjects_pass() {
        let policy = SigningPolicy::parse(FILE).unwrap();
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
        let policy = SigningPolicy::parse(&text).unwrap();
        assert_eq!(policy.permits("/C=XX/CN=Root", "/C=XX/O=Grid/CN=Alice"), Some(true));
    }

    #[test]
    fn broken_files_name_the_line() {
        for (text, line) in [
            ("access_id_CA X509 '/C=XX", 1),
            ("pos_rights globus CA:sign", 1),
            ("access_id_CA X509 '/CN=a'\ncond_subjects globus '\"*\"'", 2),
            ("access_id_CA X509 '/CN=a'\nneg_rights globus CA:sign", 2),
        ] {
            assert_eq!(SigningPolicy::parse(text).unwrap_err().line, line, "{text}");
        }
    }
}
