//! `.namespaces` files (EUGridPMA): which subjects a CA may certify, as regular expressions.
//!
//! A statement is `TO Issuer "DN" PERMIT Subject "pattern"`, or `DENY`; the issuer may be `SELF`, the CA that the file is
//! called by. Keywords have no letter case. Patterns are POSIX basic regular expressions for the whole name.

use crate::signing_policy::{normal, printable};
use regex_lite::Regex;

/// One statement.
#[derive(Debug, Clone)]
struct Rule {
    /// `None` for SELF.
    issuer: Option<String>,
    permit: bool,
    /// The text: names of CAs hold brackets that were never meant as an expression.
    literal: String,
    pattern: Regex,
}

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Namespaces {
    rules: Vec<Rule>,
}

/// A line that cannot be read: its number and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct NamespacesError {
    line: usize,
    what: &'static str,
}

impl Namespaces {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// For everything that is not such a file, empty ones included.
    pub fn parse(bytes: &[u8]) -> Result<Self, NamespacesError> {
        let text = printable(bytes);
        let mut rules = Vec::new();
        let mut words: Vec<String> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let fail = |what| NamespacesError { line: number + 1, what };
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            let (line, goes_on) = line.strip_suffix('\\').map_or((line, false), |front| (front, true));
            words.extend(split(line).ok_or(fail("a quote is not closed"))?);
            if !goes_on && !words.is_empty() {
                let statement: Vec<&str> = words.iter().map(String::as_str).collect();
                rules.push(Rule::parse(&statement).map_err(fail)?);
                words.clear();
            }
        }
        let end =
            NamespacesError { line: text.lines().count().max(1), what: "the last statement is cut off" };
        if !words.is_empty() {
            return Err(end);
        }
        if rules.is_empty() {
            return Err(NamespacesError { what: "the file has no statement", ..end });
        }
        Ok(Self { rules })
    }

    /// Whether the file lets `ca` certify `subject`: some statement permits it and none denies it. `None` when it says
    /// nothing about that CA.
    pub fn permits(&self, ca: &str, subject: &str) -> Option<bool> {
        let (ca, subject) = (normal(ca), normal(subject));
        let is_mine = |r: &&Rule| r.issuer.as_ref().is_none_or(|named| normal(named) == ca);
        let mine: Vec<&Rule> = self.rules.iter().filter(is_mine).collect();
        let holds = |permit| mine.iter().any(|r| r.permit == permit && r.fits(&subject));
        (!mine.is_empty()).then(|| holds(true) && !holds(false))
    }
}

impl Rule {
    fn parse(words: &[&str]) -> Result<Self, &'static str> {
        const FORM: &str = "use TO Issuer \"DN\" PERMIT Subject \"pattern\"";
        let [to, issuer_word, issuer, right, subject_word, pattern] = words else { return Err(FORM) };
        let is = |word: &str, keyword: &str| word.eq_ignore_ascii_case(keyword);
        if !is(to, "TO") || !is(issuer_word, "Issuer") || !is(subject_word, "Subject") {
            return Err(FORM);
        }
        let permit = match right {
            word if is(word, "PERMIT") => true,
            word if is(word, "DENY") => false,
            _ => return Err(FORM),
        };
        let literal = normal(pattern);
        let expression = format!("(?is)^(?:{})$", translated(&literal));
        let pattern = Regex::new(&expression).map_err(|_| "the pattern is not a regular expression")?;
        let issuer = (!is(issuer, "SELF")).then(|| (*issuer).to_owned());
        Ok(Self { issuer, permit, literal, pattern })
    }

    fn fits(&self, subject: &str) -> bool {
        self.literal == subject || self.pattern.is_match(subject)
    }
}

/// Words at white space, or in double quotes.
fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('"') {
            Some(open) => open.split_once('"')?,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = tail.trim_start();
    }
    Some(words)
}

/// A basic regular expression in the syntax of extended ones: what is special in one of them is plain in the other.
fn translated(basic: &str) -> String {
    let mut extended = String::with_capacity(basic.len() + 8);
    let mut chars = basic.chars();
    while let Some(c) = chars.next() {
        match c {
            '+' | '?' | '(' | ')' | '{' | '}' | '|' => extended.extend(['\\', c]),
            '\\' => match chars.next() {
                Some(group @ ('(' | ')' | '{' | '}')) => extended.push(group),
                // `\xHH` stands for a byte of the name, and so does its backslash
                Some(plain) if plain.is_ascii_alphanumeric() => extended.extend(['\\', '\\', plain]),
                Some(special) => extended.extend(['\\', special]),
                None => extended.push_str("\\\\"),
            },
            other => extended.push(other),
        }
    }
    extended
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "#NAMESPACES-VERSION: 1.0\n\nTO Issuer \"/C=XX/CN=Root\" \\\n  PERMIT Subject \"/C=XX/O=Grid (test)/.*\"\n\
        to issuer SELF deny subject \"/C=XX/O=Grid (test)/CN=Mallory\"\n\
        TO Issuer \"/C=XX/CN=Root\" PERMIT Subject \"/C=XX/CN=CA G4  [Run by X]\"\n";

    #[test]
    fn permitted_names_pass_unless_denied() {
        let namespaces = Namespaces::parse(FILE.as_bytes()).unwrap();
        let permits = |subject| namespaces.permits("/C=XX/CN=Root", subject);
        assert_eq!(permits("/C=XX/O=Grid (test)/CN=Alice"), Some(true));
        assert_eq!(permits("/c=xx/o=grid (TEST)/CN=alice"), Some(true));
        assert_eq!(permits("/C=XX/O=Grid (test)/CN=Mallory"), Some(false));
        assert_eq!(permits("/C=XX/CN=CA G4  [Run by X]"), Some(true), "brackets in a name");
        assert_eq!(permits("/C=ZZ/C=XX/O=Grid (test)/CN=Alice"), Some(false), "the whole name must fit");
        assert_eq!(permits("/C=XX/O=Gridlock"), Some(false));
        let other = Namespaces::parse(b"TO Issuer \"/CN=a\" PERMIT Subject \".*\"").unwrap();
        assert_eq!(other.permits("/CN=b", "/CN=x"), None);
    }

    #[test]
    fn the_syntax_is_that_of_basic_expressions() {
        let fits = |pattern: &str, subject: &str| {
            let text = format!("TO Issuer SELF PERMIT Subject \"{pattern}\"");
            Namespaces::parse(text.as_bytes()).unwrap().permits("/CN=a", subject).unwrap()
        };
        assert!(fits("/CN=a+b?", "/CN=a+b?") && !fits("/CN=a+b", "/CN=aab"));
        assert!(fits("/CN=[a-c]*", "/CN=abcab") && !fits("/CN=[a-c]*", "/CN=abd"));
        assert!(fits("/CN=a\\.b", "/CN=a.b") && !fits("/CN=a\\.b", "/CN=axb"));
        assert!(fits("/CN=J\\xC3\\xBC.*", "/CN=J\\xC3\\xBCrgen"));
        assert!(fits("/CN=\\(a\\)\\{2\\}", "/CN=aa"));
    }

    #[test]
    fn broken_files_name_the_line() {
        for (text, line) in [
            ("", 1),
            ("# nothing\n", 1),
            ("TO Issuer \"/CN=a\" \\\n", 1),
            ("TO Issuer \"/CN=a", 1),
            ("\nTO Issuer \"/CN=a\" FORBID Subject \"x\"", 2),
            ("TO Issuer \"/CN=a\" PERMIT Subject \"[a\"", 1),
            ("<html>", 1),
        ] {
            assert_eq!(Namespaces::parse(text.as_bytes()).unwrap_err().line, line, "{text}");
        }
    }
}
