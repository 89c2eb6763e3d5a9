//! The language of `lcmaps.db`, as LCMAPS 1.6 reads it.
//!
//! ```text
//! path = /usr/lib64/lcmaps                       # where modules lie
//! local = "lcmaps_localaccount.mod"              # a module; further strings are joined with a blank
//!         "-gridmapfile /etc/grid-security/grid-mapfile"
//! glexec_get_account:                            # a policy: the first rule's left side is where it starts
//! verify -> local | pool                         # after success, after failure
//! ~banned -> local                               # only after failure
//! ```
//!
//! Everything but `path` is free of lines. What LCMAPS refuses at its start is refused here, with one exception: a
//! backslash at the end of a line is taken as a continuation, with a word about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A word and the line it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub line: usize,
}

/// A module with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// File name of the plug-in.
    pub file: String,
    pub arguments: Vec<Word>,
    pub line: usize,
}

/// Where a state leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub state: Word,
    pub success: Option<Word>,
    pub failure: Option<Word>,
}

/// A named list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub name: Word,
    pub rules: Vec<Rule>,
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    pub modules: BTreeMap<String, Module>,
    pub policies: Vec<Policy>,
    /// Lines that LCMAPS itself would not read.
    pub continued: Vec<usize>,
}

/// Why LCMAPS would not start with this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub line: usize,
    pub reason: String,
}

fn broken<T>(line: usize, reason: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { line, reason: reason.into() })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `path = ...`, which ends with its line.
    Path,
    Name(String),
    Label(String),
    Text(String),
    Equals,
    Arrow,
    Or,
    Not,
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Path => "\"path =\"".to_owned(),
            Self::Name(name) => format!("{name:?}"),
            Self::Label(name) => format!("\"{name}:\""),
            Self::Text(_) => "a string".to_owned(),
            Self::Equals => "\"=\"".to_owned(),
            Self::Arrow => "\"->\"".to_owned(),
            Self::Or => "\"|\"".to_owned(),
            Self::Not => "\"~\"".to_owned(),
        }
    }
}

type Tokens = Vec<(Token, usize)>;

/// Cuts the text; the second list has the lines that end with a backslash.
fn tokens(text: &str) -> Result<(Tokens, Vec<usize>), Broken> {
    let (mut found, mut continued) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let (number, mut rest) = (index + 1, line.trim());
        while let Some(first) = rest.chars().next() {
            if first == '#' {
                break;
            }
            if rest == "\\" {
                continued.push(number);
                break;
            }
            let (token, after) = token(rest, number)?;
            found.push((token, number));
            rest = after.trim_start();
        }
    }
    Ok((found, continued))
}

/// The token at the start of the text, and what follows it.
fn token(text: &str, line: usize) -> Result<(Token, &str), Broken> {
    for (sign, token) in [("->", Token::Arrow), ("=", Token::Equals), ("|", Token::Or), ("~", Token::Not)] {
        if let Some(rest) = text.strip_prefix(sign) {
            return Ok((token, rest));
        }
    }
    if let Some(quoted) = text.strip_prefix('"') {
        let Some((inside, rest)) = quoted.split_once('"') else {
            return broken(line, "unbalanced quote; a string ends in the line where it begins");
        };
        if let Some(c) = inside.chars().find(|c| c.is_control()) {
            return broken(line, format!("a string holds the character {c:?}; separate options with blanks"));
        }
        return Ok((Token::Text(inside.to_owned()), rest));
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        let sign: String = text.chars().take(1).collect();
        return broken(line, format!("{sign:?} has no meaning here; names consist of letters, digits and _"));
    }
    if name == "path" && rest.trim_start().starts_with('=') {
        return Ok((Token::Path, ""));
    }
    match rest.strip_prefix(':') {
        Some(rest) => Ok((Token::Label(name.to_owned()), rest)),
        None => Ok((Token::Name(name.to_owned()), rest)),
    }
}

impl Database {
    /// Parses the text.
    pub fn parse(text: &str) -> Result<Self, Broken> {
        let (tokens, continued) = tokens(text)?;
        let mut reader = Reader { tokens, at: 0, last_line: text.lines().count().max(1) };
        let mut database = Self { continued, ..Self::default() };
        while let Some((token, line)) = reader.next() {
            match token {
                Token::Path => {}
                Token::Name(name) => database.define(&mut reader, name, line)?,
                Token::Label(name) => {
                    database.policy(&mut reader, Word { text: name, line })?;
                    database.policies(&mut reader)?;
                }
                other => {
                    let wanted = "write NAME = \"MODULE\" or POLICY:";
                    return broken(
                        line,
                        format!("{} stands where a definition begins; {wanted}", other.shown()),
                    );
                }
            }
        }
        if database.policies.iter().all(|p| p.rules.is_empty()) {
            return broken(reader.last_line, "no policy; write POLICY: and its rules a -> b");
        }
        Ok(database)
    }

    fn policies(&mut self, reader: &mut Reader) -> Result<(), Broken> {
        while let Some((token, line)) = reader.next() {
            match token {
                Token::Label(name) => self.policy(reader, Word { text: name, line })?,
                Token::Path => {}
                other => {
                    let shown = other.shown();
                    return broken(
                        line,
                        format!("{shown} stands where a rule begins; write a -> b or a -> b | c"),
                    );
                }
            }
        }
        Ok(())
    }

    fn define(&mut self, reader: &mut Reader, name: String, line: usize) -> Result<(), Broken> {
        reader.expect(&Token::Equals, line, &format!("after {name:?}"))?;
        if let Some(earlier) = self.modules.get(&name) {
            return broken(line, format!("{name:?} is already defined in line {}; rename one", earlier.line));
        }
        if let Some(Token::Name(other)) = reader.peek() {
            let other = other.clone();
            reader.at += 1;
            let Some(module) = self.modules.get(&other) else {
                return broken(line, format!("{name:?} stands for {other:?}, which is not defined before"));
            };
            let module = Module { line, ..module.clone() };
            self.modules.insert(name, module);
            return Ok(());
        }
        let mut words = Vec::new();
        while let Some(Token::Text(text)) = reader.peek() {
            let line = reader.tokens[reader.at].1;
            words
                .extend(text.split(' ').filter(|w| !w.is_empty()).map(|w| Word { text: w.to_owned(), line }));
            reader.at += 1;
        }
        if words.is_empty() {
            return broken(
                line,
                format!("{name:?} is defined as nothing; write {name} = \"MODULE.mod OPTIONS\""),
            );
        }
        let file = words.remove(0).text;
        self.modules.insert(name, Module { file, arguments: words, line });
        Ok(())
    }

    fn policy(&mut self, reader: &mut Reader, name: Word) -> Result<(), Broken> {
        if let Some(earlier) = self.policies.iter().find(|p| p.name.text == name.text) {
            let (text, line) = (&name.text, earlier.name.line);
            return broken(
                name.line,
                format!("policy {text:?} is already defined in line {line}; rename one"),
            );
        }
        let mut rules: Vec<Rule> = Vec::new();
        while let Some(rule) = reader.rule()? {
            if let Some(earlier) = rules.iter().find(|r| r.state.text == rule.state.text) {
                let (text, line) = (&rule.state.text, earlier.state.line);
                let reason = format!("{text:?} has a rule in line {line} already; write a -> b | c");
                return broken(rule.state.line, reason);
            }
            rules.push(rule);
        }
        self.policies.push(Policy { name, rules });
        Ok(())
    }

    /// What would keep LCMAPS from running the policy: names without a module, and rules that go round in a circle.
    pub fn runnable(&self, policy: &Policy) -> Result<(), Broken> {
        for rule in &policy.rules {
            for word in std::iter::once(&rule.state).chain(&rule.success).chain(&rule.failure) {
                let (name, line) = (&word.text, word.line);
                if self.policies.iter().any(|p| p.name.text == *name) {
                    return broken(line, format!("{name:?} is a policy; a rule leads to modules only"));
                }
                if !self.modules.contains_key(name) {
                    return broken(
                        line,
                        format!("module {name:?} is not defined; write {name} = \"MODULE.mod\""),
                    );
                }
            }
        }
        let (mut trail, mut done) = (Vec::new(), BTreeSet::new());
        policy.rules.first().map_or(Ok(()), |first| acyclic(policy, &first.state, &mut trail, &mut done))
    }
}

/// `done` has the states below which all is well.
fn acyclic<'a>(
    policy: &'a Policy,
    word: &'a Word,
    trail: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Result<(), Broken> {
    let state = word.text.as_str();
    if trail.contains(&state) {
        return broken(word.line, format!("the rules lead back to {state:?} without end"));
    }
    if done.contains(state) {
        return Ok(());
    }
    trail.push(state);
    if let Some(rule) = policy.rule(state) {
        for next in rule.success.iter().chain(&rule.failure) {
            acyclic(policy, next, trail, done)?;
        }
    }
    trail.pop();
    done.insert(state);
    Ok(())
}

impl Policy {
    /// The rule of a state.
    pub fn rule(&self, state: &str) -> Option<&Rule> {
        self.rules.iter().find(|r| r.state.text == state)
    }
}

impl Module {
    /// File name without directory, `lcmaps_`, `.mod`, and the digit that copies of a plug-in have.
    pub fn kind(&self) -> String {
        let file = Path::new(&self.file).file_name().and_then(|f| f.to_str()).unwrap_or(&self.file);
        let name = file.strip_suffix(".mod").unwrap_or(file).replace('-', "_");
        let name = name.strip_prefix("lcmaps_").unwrap_or(&name);
        name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
    }
}

struct Reader {
    tokens: Tokens,
    at: usize,
    last_line: usize,
}

impl Reader {
    fn next(&mut self) -> Option<(Token, usize)> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn expect(&mut self, wanted: &Token, line: usize, place: &str) -> Result<(), Broken> {
        match self.next() {
            Some((token, _)) if token == *wanted => Ok(()),
            Some((token, line)) => {
                broken(line, format!("{} stands {place}; write {}", token.shown(), wanted.shown()))
            }
            None => broken(line, format!("the file ends {place}; write {}", wanted.shown())),
        }
    }

    fn name(&mut self, place: &str) -> Result<Word, Broken> {
        match self.next() {
            Some((Token::Name(text), line)) => Ok(Word { text, line }),
            Some((token, line)) => {
                broken(line, format!("{} stands {place}; write the name of a module", token.shown()))
            }
            None => broken(self.last_line, format!("the file ends {place}; write the name of a module")),
        }
    }

    /// The next rule, or `None` where a rule cannot begin.
    fn rule(&mut self) -> Result<Option<Rule>, Broken> {
        let negated = match self.peek() {
            Some(Token::Not) => true,
            Some(Token::Name(_)) => false,
            _ => return Ok(None),
        };
        self.at += usize::from(negated);
        let state = self.name("after \"~\"")?;
        self.expect(&Token::Arrow, state.line, &format!("after {:?}", state.text))?;
        let first = self.name("after \"->\"")?;
        if negated {
            return Ok(Some(Rule { state, success: None, failure: Some(first) }));
        }
        let mut failure = None;
        if self.peek() == Some(&Token::Or) {
            self.at += 1;
            failure = Some(self.name("after \"|\"")?);
        }
        Ok(Some(Rule { state, success: Some(first), failure }))
    }
}

#[cfg(test)]
#[path = "pdl_tests.rs"]
mod tests;
