//! Map files and ban files, line by line. What a line means is asked from the parser that `glexec` uses.

use super::dialects;
use super::pools::Pools;
use super::{Site, trusted};
use crate::accounts;
use crate::finding::{About, Finding, Severity};
use identity::{AccountName, Dn, Meaning, same_name};
use policy::file::MapSource;
use policy::mapfile::bans::BanFile;
use policy::mapfile::{self, Mapfile, MapfileError, Named, wildcard_match};
use policy::trusted::Rule;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Findings of one sort in one file that are shown before they are only counted.
const SHOWN: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Dn,
    Fqan,
    /// FQANs and groups.
    Group,
}

/// Adds what is wrong with the map and ban files that the policy uses.
pub(super) fn check(site: &Site<'_>, found: &mut Vec<Finding>) {
    let (bans, mapping) = (&site.policy.bans, &site.policy.mapping);
    if mapping.order.is_empty() {
        About::new(site.policy_file, found)
            .error("[mapping] order is empty: nobody is mapped", "name a source");
    }
    for (key, source) in &mapping.idle {
        let what =
            format!("{key} has no effect: {source} is not in [mapping] order, so nobody is mapped by it");
        About::new(site.policy_file, found)
            .error(what, format!("add {source:?} to order, or remove {key}", source = source.to_string()));
    }
    let (mut dns, mut fqans) = (Keys::default(), Keys::default());
    let mut accounts = Accounts { site: Some(site), pools: Pools::check(site, found), ..Accounts::default() };
    for source in &mapping.order {
        let (path, sort, keys) = match source {
            MapSource::GridMapfile => (&mapping.grid_mapfile, Sort::Dn, &mut dns),
            MapSource::VomsMapfile => (&mapping.voms_mapfile, Sort::Fqan, &mut fqans),
            MapSource::Service(_) => continue,
        };
        let if_missing = format!(
            "create it, or take {source} out of [mapping] order; until then every call ends with 202"
        );
        if trusted(path, Rule::FILE, &if_missing, found)
            && let Some(text) = read(path, found)
        {
            lines(&text, sort, &mut accounts, &mut Limited::new(path, found));
            if sort == Sort::Dn {
                by_globus(&text, &mut Limited::new(path, found));
            }
            keys.read(&text);
        }
    }
    if let Some(path) = &mapping.group_mapfile
        && trusted(
            path,
            Rule::FILE,
            "create it, or remove group_mapfile; until then calls end with 202",
            found,
        )
        && let Some(text) = read(path, found)
    {
        lines(&text, Sort::Group, &mut accounts, &mut Limited::new(path, found));
    }
    for (ban, sort, known) in [(&bans.dn_file, Sort::Dn, &dns), (&bans.fqan_file, Sort::Fqan, &fqans)] {
        if !ban.explicit && !ban.path.exists() {
            continue;
        }
        if trusted(&ban.path, Rule::FILE, "create it, empty if nobody is banned", found)
            && let Some(text) = read(&ban.path, found)
        {
            ban_lines(&text, sort, known, &mut Limited::new(&ban.path, found));
        }
    }
}

/// The keys of a map file: the names that the site knows.
#[derive(Default)]
struct Keys(Option<Vec<Vec<u8>>>);

impl Keys {
    fn read(&mut self, text: &[u8]) {
        self.0 = Some(mapfile::lines(text).flatten().map(|line| line.key.to_vec()).collect());
    }
}

fn read(path: &Path, found: &mut Vec<Finding>) -> Option<Vec<u8>> {
    let read = std::fs::read(path);
    read.inspect_err(|e| About::new(path, found).error(format!("cannot be read: {e}"), "")).ok()
}

/// Lines with bytes that are not UTF-8. In a comment they are nothing; a name is compared as its bytes.
fn other_encodings(text: &[u8], out: &mut Limited<'_>) {
    for (index, line) in text.split(|c| *c == b'\n').enumerate() {
        let Err(error) = std::str::from_utf8(line) else { continue };
        let what = format!("byte {} of the line is not UTF-8", error.valid_up_to() + 1);
        if line.trim_ascii_start().starts_with(b"#") {
            out.add(index + 1, Severity::Note, what + "; the comment is skipped like any other", "");
        } else {
            let remedy = "write the name as certificates show it: UTF-8, or \\xHH for each byte beyond ASCII";
            out.add(index + 1, Severity::Warning, what, remedy);
        }
    }
}

fn lines(text: &[u8], sort: Sort, accounts: &mut Accounts<'_>, out: &mut Limited<'_>) {
    if let Err(error) = Mapfile::parse(text) {
        return unusable(&error, "close the quote", out);
    }
    other_encodings(text, out);
    let mut seen = HashSet::new();
    for line in mapfile::lines(text).flatten() {
        let named = line.first(accounts.pools.is_some() && sort != Sort::Group);
        let pool = matches!(named, Some(Ok(Named::Pool(_))));
        let nobody = match sort {
            // Wildcards count where a pool is named.
            Sort::Dn if pool && has_wildcard(line.key) => not_a_group(line.key),
            Sort::Dn => not_a_person(line.key),
            Sort::Fqan | Sort::Group => not_a_group(line.key),
        };
        if let Some((why, remedy)) = nobody {
            out.add(line.number, Severity::Warning, matches_nobody(line.key, why), remedy);
            continue;
        }
        // An earlier line wins only when it names somebody.
        let meant = match sort {
            Sort::Dn => Key::Dn(Meaning::of(line.key)),
            Sort::Fqan | Sort::Group => Key::Fqan(line.key),
        };
        if matches!(named, Some(Ok(_))) && !seen.insert(meant) {
            let what = format!("{} stands in an earlier line, which wins", shown(line.key));
            out.add(line.number, Severity::Warning, what, "remove one of the two");
        }
        match sort {
            Sort::Group => accounts.judge_group(line.number, named, out),
            Sort::Dn | Sort::Fqan => accounts.judge(line.number, named, out),
        }
    }
}

/// A site whose GridFTP server reads the same file wants to know.
fn by_globus(text: &[u8], out: &mut Limited<'_>) {
    for (line, what) in dialects::differences(text) {
        let what = format!("Globus and LCMAPS read this line differently: {what}");
        out.add(line, Severity::Note, what, "write it so that both agree, where Globus reads the file, too");
    }
}

/// What two lines have in common that mean the same.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Dn(Meaning),
    Fqan(&'a [u8]),
}

fn ban_lines(text: &[u8], sort: Sort, known: &Keys, out: &mut Limited<'_>) {
    let file = match BanFile::parse(text) {
        Ok(file) => file,
        Err(error) => return unusable(&error, "mend the line", out),
    };
    other_encodings(text, out);
    for ban in file.bans() {
        let nobody = match sort {
            Sort::Dn if has_wildcard(ban.key()) => not_a_group(ban.key()),
            Sort::Dn => not_a_person(ban.key()),
            Sort::Fqan | Sort::Group => not_a_group(ban.key()),
        };
        if let Some((why, remedy)) = nobody {
            out.add(ban.line(), Severity::Warning, matches_nobody(ban.key(), why), remedy);
            continue;
        }
        let Some(keys) = &known.0 else { continue };
        let hits = |key: &Vec<u8>| match (sort, std::str::from_utf8(key)) {
            (Sort::Dn, Ok(key)) => Dn::parse(key).is_ok_and(|dn| ban.means(&dn)) || same_name(ban.key(), key),
            (Sort::Dn, Err(_)) => same_name(ban.key(), key),
            // Both sides may be patterns; what they begin with is enough to tell that they have to do with each other.
            (Sort::Fqan | Sort::Group, _) => wildcard_match(ban.key(), key) || wildcard_match(key, ban.key()),
        };
        if !keys.iter().any(hits) {
            let what = format!("{} matches nobody in the map file", shown(ban.key()));
            out.add(ban.line(), Severity::Note, what, "look at its spelling if it should");
        }
    }
}

fn unusable(error: &MapfileError, remedy: &str, out: &mut Limited<'_>) {
    let what = format!("{}: the whole file is unusable and calls end with 202", error.reason);
    out.add(error.line, Severity::Error, what, remedy);
}

fn matches_nobody(key: &[u8], why: &str) -> String {
    format!("key {} can match nobody: {why}", shown(key))
}

fn shown(key: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(key))
}

fn has_wildcard(key: &[u8]) -> bool {
    key.iter().any(|c| matches!(c, b'*' | b'?' | b'['))
}

/// Why no certificate has this name, if none can.
fn not_a_person(key: &[u8]) -> Option<(&'static str, &'static str)> {
    const QUOTE: &str = "quote names that hold blanks: \"/C=XX/CN=First Last\" account";
    let name = Meaning::of(key);
    if !key.starts_with(b"/") {
        return Some(("it is no name: it does not begin with '/'", QUOTE));
    }
    if !name.is_name() {
        return Some(("it is not made of types that certificates have, each with a value", QUOTE));
    }
    if has_wildcard(key) {
        return Some(("wildcards do not count in names of persons", "write the whole name"));
    }
    match name.last_common_name() {
        Some(b"proxy" | b"limited proxy") => {
            Some(("it is the name of a proxy; persons count without it", "remove the last CN"))
        }
        _ => None,
    }
}

/// Why no FQAN fits the pattern, if none can.
fn not_a_group(key: &[u8]) -> Option<(&'static str, &'static str)> {
    let possible = key.starts_with(b"/") || matches!(key.first(), Some(b'*' | b'?' | b'['));
    (!possible).then_some(("it is no name: it does not begin with '/'", "write /vo/group/Role=role"))
}

/// What is known about the accounts that lines name: each is looked up once, not once a line.
#[derive(Default)]
struct Accounts<'a> {
    site: Option<&'a Site<'a>>,
    known: HashMap<AccountName, Option<(String, &'static str)>>,
    /// Where the site leases accounts.
    pools: Option<Pools>,
}

impl Accounts<'_> {
    fn judge(&mut self, line: usize, named: Option<Result<Named, MapfileError>>, out: &mut Limited<'_>) {
        match named {
            None => {
                let what = "names no account, or only a pool, and no gridmapdir is set: the line is skipped";
                out.add(line, Severity::Warning, what, "name an account, or set [mapping] gridmapdir");
            }
            Some(Err(malformed)) => {
                out.add(line, Severity::Error, malformed.reason.as_ref(), "calls of this user end with 202");
            }
            Some(Ok(Named::Pool(pool))) => {
                if self.pools.as_ref().is_some_and(|pools| !pools.has_any(&pool)) {
                    let what = format!(
                        "pool {pool} has no account in the gridmapdir: calls of its users end with 203"
                    );
                    out.add(
                        line,
                        Severity::Error,
                        what,
                        "make an empty file there for each account of the pool",
                    );
                }
            }
            Some(Ok(Named::Account(name))) => {
                let site = self.site;
                let doubt =
                    self.known.entry(name).or_insert_with_key(|name| site.and_then(|s| doubt(s, name)));
                if let Some((what, remedy)) = doubt {
                    out.add(line, Severity::Warning, what.clone(), remedy);
                }
            }
        }
    }

    fn judge_group(
        &mut self,
        line: usize,
        named: Option<Result<Named, MapfileError>>,
        out: &mut Limited<'_>,
    ) {
        match named {
            None | Some(Ok(Named::Pool(_))) => {
                let what =
                    "names no group, or only a pool of groups, which are not leased: the line is skipped";
                out.add(line, Severity::Warning, what, "name a group");
            }
            Some(Err(malformed)) => {
                out.add(line, Severity::Error, malformed.reason.as_ref(), "calls of this group end with 202");
            }
            Some(Ok(Named::Account(group))) => {
                let Some(site) = self.site else { return };
                match accounts::group_id(group.as_str()) {
                    Err(why) => out.add(line, Severity::Warning, why, "check nsswitch.conf"),
                    Ok(None) => {
                        let what = format!("{group} is not a group of this host");
                        out.add(line, Severity::Warning, what, "create it, or remove the line");
                    }
                    Ok(Some(gid)) if !site.policy.accounts.gids.contains(gid) => {
                        let what = format!("{group} has gid {gid}, which [accounts] gids does not list");
                        out.add(line, Severity::Warning, what, "list it, or remove the line");
                    }
                    Ok(Some(_)) => {}
                }
            }
        }
    }
}

/// Why payloads will not get the account.
pub(super) fn doubt(site: &Site<'_>, name: &AccountName) -> Option<(String, &'static str)> {
    match accounts::by_name(name.as_str()) {
        Err(why) => Some((why, "check nsswitch.conf")),
        Ok(None) => Some((format!("{name} is not an account of this host"), "create it, or remove the line")),
        Ok(Some(user)) => {
            let allowed = &site.policy.accounts;
            let listed = allowed.uids.contains(user.uid) || allowed.names.contains(name);
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

    fn judged(text: impl AsRef<[u8]>) -> Vec<(usize, Severity)> {
        let mut found = Vec::new();
        let path = Path::new("map");
        lines(text.as_ref(), Sort::Dn, &mut Accounts::default(), &mut Limited::new(path, &mut found));
        found.iter().map(|f| (f.line.unwrap(), f.severity)).collect()
    }

    fn judged_bans(text: impl AsRef<[u8]>, map: &str) -> Vec<(usize, Severity)> {
        let mut found = Vec::new();
        let mut known = Keys::default();
        known.read(map.as_bytes());
        ban_lines(text.as_ref(), Sort::Dn, &known, &mut Limited::new(Path::new("bans"), &mut found));
        found.iter().map(|f| (f.line.unwrap(), f.severity)).collect()
    }

    #[test]
    fn lines_that_can_match_nobody_are_named() {
        use Severity::Warning;
        let text =
            "\"/CN=A\" a\n\"CN=A,O=B\" a\n\"/foo=bar\" a\n\"/CN=A/CN=proxy\" a\n\"/C=XX/*\" a\n\"/CN=\" a\n";
        assert_eq!(judged(text), [2, 3, 4, 5, 6].map(|line| (line, Warning)));
        assert_eq!(judged("/CN=A/E=x a\n\"/cn=A/emailAddress=x\" b\n"), [(2, Warning)], "one name, twice");
        assert_eq!(judged(b"# f\xfcr\n\"/CN=J\xfc\" a\n/CN=B b\n"), [(1, Severity::Note), (2, Warning)]);
    }

    #[test]
    fn bans_of_nobody_are_told() {
        use Severity::{Error, Note, Warning};
        let map = "\"/C=XX/CN=Alice\" alice\n\"/CN=host\\/x\" host\n";
        let bans =
            "/C=XX/CN=Alice\n\"/CN=host/x\"\n\"/C=XX/*\"\n/C=XX/CN=Alicia\nCN=Alice\n\"/CN=x/CN=proxy\"\n";
        assert_eq!(judged_bans(bans, map), [(4, Note), (5, Warning), (6, Warning)]);
        assert_eq!(judged_bans("\n/C=XX/CN=Alice Adams\n", map), [(2, Error)]);
    }

    #[test]
    fn each_line_is_judged() {
        let text = "\"/CN=A\" alice\nCN=B bob\n\"/CN=C\" .pool\n\"/CN=A\" other\n\"/CN=D\" ro:ot\n";
        use Severity::{Error, Warning};
        assert_eq!(judged(text), [(2, Warning), (3, Warning), (4, Warning), (5, Error)]);
    }

    #[test]
    fn warnings_are_cut_and_errors_are_not() {
        let text = "x y\n".repeat(100) + "\"/CN=D\" ro:ot\n";
        let mut found = Vec::new();
        let path = Path::new("map");
        lines(text.as_bytes(), Sort::Dn, &mut Accounts::default(), &mut Limited::new(path, &mut found));
        assert_eq!(found.len(), SHOWN + 2);
        assert!(found[SHOWN + 1].what.starts_with("80 more"));
    }
}
