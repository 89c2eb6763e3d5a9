//! Map files and ban files, line by line. What a line means is asked from the parser that `glexec` uses.

use super::{Site, trusted};
use crate::accounts;
use crate::audit::Kind;
use crate::finding::{About, Finding, Severity};
use identity::{AccountName, Dn, Fqan, Malformed};
use policy::file::{ConfiguredPath, MapSource};
use policy::mapfile::Mapfile;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Findings of one sort in one file that are shown before they are only counted.
const SHOWN: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Dn,
    Fqan,
    Ban,
}

/// Adds what is wrong with the map and ban files that the policy uses.
pub(super) fn check(site: &Site<'_>, found: &mut Vec<Finding>) {
    let (bans, mapping) = (&site.policy.bans, &site.policy.mapping);
    for ban in [&bans.dn_file, &bans.fqan_file] {
        ban_file(ban, found);
    }
    if mapping.order.is_empty() {
        About::new(site.policy_file, found)
            .error("[mapping] order is empty: nobody is mapped", "name a source");
    }
    for source in &mapping.order {
        let (path, sort) = match source {
            MapSource::GridMapfile => (&mapping.grid_mapfile, Sort::Dn),
            MapSource::VomsMapfile => (&mapping.voms_mapfile, Sort::Fqan),
            MapSource::Service(_) => continue,
        };
        let if_missing = format!(
            "create it, or take {source} out of [mapping] order; until then every call ends with 202"
        );
        if trusted(path, Kind::File, None, &if_missing, found) {
            file(site, path, sort, found);
        }
    }
}

fn ban_file(ban: &ConfiguredPath, found: &mut Vec<Finding>) {
    if !ban.explicit && !ban.path.exists() {
        return;
    }
    if trusted(&ban.path, Kind::File, None, "create it, empty if nobody is banned", found) {
        let Some(text) = read(&ban.path, found) else {
            return;
        };
        lines(&ban.path, &text, Sort::Ban, &mut Accounts::default(), &mut Limited::new(&ban.path, found));
    }
}

fn file(site: &Site<'_>, path: &Path, sort: Sort, found: &mut Vec<Finding>) {
    let Some(text) = read(path, found) else { return };
    let mut accounts = Accounts { site: Some(site), known: HashMap::new() };
    lines(path, &text, sort, &mut accounts, &mut Limited::new(path, found));
}

fn read(path: &Path, found: &mut Vec<Finding>) -> Option<String> {
    let read = std::fs::read_to_string(path);
    read.inspect_err(|e| About::new(path, found).error(format!("cannot be read as UTF-8 text: {e}"), "")).ok()
}

fn lines(path: &Path, text: &str, sort: Sort, accounts: &mut Accounts<'_>, out: &mut Limited<'_>) {
    if let Err(error) = Mapfile::parse(text) {
        let what = format!("{}: the whole file is unusable and calls end with 202", error.reason);
        About::new(path, out.found).add(Some(error.line), Severity::Error, what, "close the quote");
        return;
    }
    let mut seen = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let Some(key) = key(line) else { continue };
        if !key.starts_with(['/', '*', '?']) {
            let what = format!("key {key:?} is no name: it does not begin with '/'");
            out.add(
                number,
                Severity::Warning,
                what,
                "quote names that hold blanks: \"/C=XX/CN=First Last\" account",
            );
        } else if sort != Sort::Ban {
            let account = mapped(line, key, sort);
            // An earlier line wins only when it names an account.
            let usable = matches!(account, Some(Some(Ok(_))));
            if usable && !seen.insert(key) {
                let what = format!("{key} stands in an earlier line, which wins");
                out.add(number, Severity::Warning, what, "remove one of the two");
            }
            if let Some(account) = account {
                accounts.judge(number, account, out);
            }
        }
    }
}

/// What the line maps its own key to; `None` when the key cannot be asked for.
fn mapped(line: &str, key: &str, sort: Sort) -> Option<Option<Result<AccountName, Malformed>>> {
    let one = Mapfile::parse(line).ok()?;
    if sort == Sort::Dn {
        return Some(one.account_of_dn(&Dn::parse(key).ok()?));
    }
    Some(one.account_of_fqans(&[Fqan::parse(key).ok()?]))
}

/// The key of a line of a file that parses: quoted, or up to white space.
fn key(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let Some(quoted) = line.strip_prefix('"') else {
        return line.split([' ', '\t']).next();
    };
    let mut escaped = false;
    let end = quoted.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    end.map(|end| &quoted[..end])
}

/// What is known about the accounts that lines name: a pool account is looked up once, not once a line.
#[derive(Default)]
struct Accounts<'a> {
    site: Option<&'a Site<'a>>,
    known: HashMap<AccountName, Option<(String, &'static str)>>,
}

impl Accounts<'_> {
    fn judge(&mut self, line: usize, account: Option<Result<AccountName, Malformed>>, out: &mut Limited<'_>) {
        match account {
            None => {
                let what = "names no account, or only a pool: the line is skipped";
                out.add(line, Severity::Warning, what, "name an account; pools are not leased");
            }
            Some(Err(malformed)) => {
                out.add(line, Severity::Error, malformed.to_string(), "calls of this user end with 202");
            }
            Some(Ok(name)) => {
                let site = self.site;
                let doubt =
                    self.known.entry(name).or_insert_with_key(|name| site.and_then(|s| doubt(s, name)));
                if let Some((what, remedy)) = doubt {
                    out.add(line, Severity::Warning, what.clone(), remedy);
                }
            }
        }
    }
}

/// Why payloads will not get the account.
fn doubt(site: &Site<'_>, name: &AccountName) -> Option<(String, &'static str)> {
    match accounts::by_name(name.as_str()) {
        Err(why) => Some((why, "check nsswitch.conf")),
        Ok(None) => Some((format!("{name} is not an account of this host"), "create it, or remove the line")),
        Ok(Some(user)) => {
            let allowed = &site.policy.accounts;
            let listed = allowed.uids.contains(user.uid.as_raw()) || allowed.names.contains(name);
            let what = format!("{name} has uid {}, which [accounts] allow does not list", user.uid);
            (!listed).then_some((what, "list it, or remove the line"))
        }
    }
}

/// Findings about a file, cut when they repeat themselves.
struct Limited<'a> {
    path: &'a Path,
    found: &'a mut Vec<Finding>,
    added: usize,
}

impl<'a> Limited<'a> {
    fn new(path: &'a Path, found: &'a mut Vec<Finding>) -> Self {
        Self { path, found, added: 0 }
    }

    fn add(&mut self, line: usize, severity: Severity, what: impl Into<String>, remedy: &str) {
        self.added += usize::from(severity != Severity::Error);
        if self.added <= SHOWN || severity == Severity::Error {
            About::new(self.path, self.found).add(Some(line), severity, what, remedy);
        }
    }
}

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        if self.added > SHOWN {
            let what = format!("{} more warnings like these", self.added - SHOWN);
            About::new(self.path, self.found).warning(what, "correct these first");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_cut_as_the_parser_cuts_them() {
        let cases = [
            ("\"/CN=A B\" a", Some("/CN=A B")),
            ("/CN=A a", Some("/CN=A")),
            ("  /CN=A\ta", Some("/CN=A")),
            ("\"/CN=\\\"A\\\" B\" a", Some("/CN=\\\"A\\\" B")),
            ("\"/CN=\\xC3\\xBC\" a", Some("/CN=\\xC3\\xBC")),
            ("# \"/CN=A\" a", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(key(line), expected, "{line}");
            if let Some(key) = expected {
                let account = mapped(line, key, Sort::Dn).unwrap().unwrap().unwrap();
                assert_eq!(account.as_str(), "a", "the parser finds the account under this key: {line}");
            }
        }
    }

    #[test]
    fn each_line_is_judged() {
        let text = "\"/CN=A\" alice\nCN=B bob\n\"/CN=C\" .pool\n\"/CN=A\" other\n\"/CN=D\" ro:ot\n";
        let mut found = Vec::new();
        let path = Path::new("map");
        lines(path, text, Sort::Dn, &mut Accounts::default(), &mut Limited::new(path, &mut found));
        let found: Vec<_> = found.iter().map(|f| (f.line.unwrap(), f.severity)).collect();
        use Severity::{Error, Warning};
        assert_eq!(found, [(2, Warning), (3, Warning), (4, Warning), (5, Error)]);
    }

    #[test]
    fn warnings_are_cut_and_errors_are_not() {
        let text = "x y\n".repeat(100) + "\"/CN=D\" ro:ot\n";
        let mut found = Vec::new();
        let path = Path::new("map");
        lines(path, &text, Sort::Dn, &mut Accounts::default(), &mut Limited::new(path, &mut found));
        assert_eq!(found.len(), SHOWN + 2);
        assert!(found[SHOWN + 1].what.starts_with("80 more"));
    }
}
