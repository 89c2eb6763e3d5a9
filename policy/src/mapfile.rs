//! `grid-mapfile`, `voms-mapfile` and ban files, in the dialect of LCMAPS 1.6.
//!
//! A line is a key and its accounts. A key is quoted or ends at white space; `#` starts a comment at the start of a
//! line or after the key. A backslash in a quoted key keeps itself and the next character: keys are compared as
//! written, so a name with other than ASCII characters stands as `\xC3\xBC`. Accounts are separated by commas or
//! white space. An unbalanced quote spoils the whole file, since nobody knows which lines it swallowed.

use identity::{AccountName, Dn, Fqan};
use std::fmt;

/// One line with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    key: String,
    accounts: Vec<String>,
}

/// A parsed file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapfile(Vec<Entry>);

/// Why a file cannot be used, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapfileError {
    /// Line, counted from 1.
    pub line: usize,
    /// Reason and remedy.
    pub reason: &'static str,
}

impl fmt::Display for MapfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for MapfileError {}

impl Mapfile {
    /// Parses a whole file.
    pub fn parse(text: &str) -> Result<Self, MapfileError> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let error = |reason| MapfileError { line: index + 1, reason };
            let line = line.trim_start_matches([' ', '\t']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, rest) = split_key(line).map_err(error)?;
            let accounts = before_comment(rest).split([',', ' ', '\t']).filter(|a| !a.is_empty());
            entries.push(Entry { key: key.to_owned(), accounts: accounts.map(str::to_owned).collect() });
        }
        Ok(Self(entries))
    }

    /// The account of a DN: the first line with exactly this key and an account that is not a pool (`.name`).
    pub fn account_of_dn(&self, dn: &Dn) -> Option<Result<AccountName, identity::Malformed>> {
        self.0.iter().filter(|e| e.key == dn.as_str()).find_map(Entry::local_account).map(AccountName::parse)
    }

    /// The account of the first FQAN that maps anywhere, wildcards allowed: FQANs first, lines second.
    pub fn account_of_fqans(&self, fqans: &[Fqan]) -> Option<Result<AccountName, identity::Malformed>> {
        let account = |fqan: &Fqan| {
            self.0.iter().filter(|e| wildcard_match(&e.key, fqan.as_str())).find_map(Entry::local_account)
        };
        fqans.iter().find_map(account).map(AccountName::parse)
    }

    /// Whether a ban file lists the name; wildcards allowed, accounts are irrelevant.
    pub fn lists(&self, name: &str) -> bool {
        self.0.iter().any(|e| wildcard_match(&e.key, name))
    }
}

impl Entry {
    fn local_account(&self) -> Option<&str> {
        self.accounts.iter().map(String::as_str).find(|a| !a.starts_with('.'))
    }
}

/// Splits a line into its key and the rest.
fn split_key(line: &str) -> Result<(&str, &str), &'static str> {
    let Some(quoted) = line.strip_prefix('"') else {
        return Ok(line.split_once([' ', '\t']).unwrap_or((line, "")));
    };
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok((&quoted[..at], &quoted[at + 1..])),
            _ => {}
        }
    }
    Err("the quote is never closed; write \"DN\" account")
}

fn before_comment(rest: &str) -> &str {
    rest.split_once('#').map_or(rest, |(before, _)| before)
}

/// `fnmatch(3)` with `FNM_NOESCAPE`: `*`, `?` and `[...]`, all of which also match a slash.
pub fn wildcard_match(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut pi, mut ti, mut star) = (0, 0, None);
    while ti < t.len() {
        if p.get(pi) == Some(&b'*') {
            star = Some((pi, ti));
            pi += 1;
        } else if let Some(next) = match_one(p, pi, t[ti]) {
            pi = next;
            ti += 1;
        } else if let Some((at, from)) = star {
            // Let the latest star swallow one byte more; older ones need not be tried again.
            star = Some((at, from + 1));
            pi = at + 1;
            ti = from + 1;
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|c| *c == b'*')
}

/// Where the pattern goes on after it has matched one byte, if it does.
fn match_one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => match bracket(&pattern[at + 1..], byte) {
            Some((true, length)) => Some(at + 1 + length),
            Some((false, _)) => None,
            // Never closed, so it stands for itself.
            None => (byte == b'[').then_some(at + 1),
        },
        literal => (literal == byte).then_some(at + 1),
    }
}

/// Whether the set that begins here holds the byte, and how long the set is; `None` when it is never closed.
fn bracket(set: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let first = usize::from(negated);
    let (mut at, mut found) = (first, false);
    loop {
        match *set.get(at)? {
            // A `]` in the first place is a member.
            b']' if at > first => return Some((found != negated, at + 1)),
            low => match (set.get(at + 1), set.get(at + 2)) {
                (Some(b'-'), Some(high)) if *high != b']' => {
                    found |= (low..=*high).contains(&byte);
                    at += 3;
                }
                _ => {
                    found |= low == byte;
                    at += 1;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dn(s: &str) -> Dn {
        Dn::parse(s).unwrap()
    }

    fn fqans(list: &[&str]) -> Vec<Fqan> {
        list.iter().map(|s| Fqan::parse(s).unwrap()).collect()
    }

    fn account(found: Option<Result<AccountName, identity::Malformed>>) -> Option<String> {
        found.map(|a| a.unwrap().to_string())
    }

    #[test]
    fn a_dn_maps_exactly_and_pools_are_skipped() {
        let m = Mapfile::parse("# comment\n\"/C=XX/CN=Alice\" .cms,alice\n\"/C=XX/CN=Bob\" .cms\n").unwrap();
        assert_eq!(account(m.account_of_dn(&dn("/C=XX/CN=Alice"))), Some("alice".into()));
        assert_eq!(account(m.account_of_dn(&dn("/C=XX/CN=Bob"))), None);
        assert_eq!(account(m.account_of_dn(&dn("/C=XX/CN=alice"))), None);
    }

    #[test]
    fn wildcards_do_not_count_for_dns() {
        let m = Mapfile::parse("\"/C=XX/*\" everybody\n").unwrap();
        assert_eq!(account(m.account_of_dn(&dn("/C=XX/CN=Alice"))), None);
        assert!(m.lists("/C=XX/CN=Alice"), "but they do in ban files");
    }

    #[test]
    fn fqans_go_before_lines() {
        let m = Mapfile::parse("\"/cms\" cms\n\"/cms/Role=pilot*\" pilot\n").unwrap();
        let list = fqans(&["/cms/Role=pilot/Capability=NULL", "/cms"]);
        assert_eq!(account(m.account_of_fqans(&list)), Some("pilot".into()));
        assert_eq!(account(m.account_of_fqans(&fqans(&["/atlas"]))), None);
    }

    #[test]
    fn escapes_stay_as_written() {
        let m = Mapfile::parse("\"/CN=J\\xC3\\xBCrgen\" j # he\n").unwrap();
        assert_eq!(account(m.account_of_dn(&dn("/CN=J\\xC3\\xBCrgen"))), Some("j".into()));
    }

    #[test]
    fn an_open_quote_spoils_the_file() {
        assert_eq!(Mapfile::parse("\n\"/CN=a b\n").unwrap_err().line, 2);
        assert!(Mapfile::parse("\"/CN=a\\\" b\n").is_err());
    }

    #[test]
    fn a_broken_account_name_is_an_error_not_a_miss() {
        let m = Mapfile::parse("\"/CN=a\" ro:ot\n").unwrap();
        assert!(m.account_of_dn(&dn("/CN=a")).unwrap().is_err());
    }

    #[test]
    fn stars_cross_slashes_and_can_repeat() {
        for (pattern, text, expected) in [
            ("/cms*", "/cms-other/x", true),
            ("*/CN=*", "/C=XX/CN=Alice", true),
            ("/a*b*c", "/aXbXbXc", true),
            ("/a*b*c", "/aXbXbX", false),
            ("/a?c", "/abc", true),
            ("", "", true),
            ("", "x", false),
            ("/CN=[Mm]allory*", "/CN=Mallory 2", true),
            ("/CN=[Mm]allory*", "/CN=Tallory", false),
            ("[a-c]x[!0-9]", "bxq", true),
            ("[a-c]x[^0-9]", "bx5", false),
            ("[]a]", "]", true),
            ("[a-]", "-", true),
            ("*[0-9]", "cms001", true),
            ("a[b", "a[b", true),
            ("a[b", "ab", false),
        ] {
            assert_eq!(wildcard_match(pattern, text), expected, "{pattern} {text}");
        }
    }
}
