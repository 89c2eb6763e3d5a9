//! `grid-mapfile` and `voms-mapfile`, in the dialect of LCMAPS 1.6; ban files are in [`bans`].
//!
//! A line is a key and its accounts. A key is quoted or ends at white space; `#` starts a comment at the start of a
//! line or after the key. A backslash in a quoted key keeps itself and the next character. Accounts are separated by
//! commas or white space. An unbalanced quote spoils the whole file, since nobody knows which lines it swallowed.
//!
//! A file is bytes: lines of other people, in whatever encoding, do no harm. Names of persons are compared by what they mean
//! ([`identity::same_name`]), FQANs as they are written.

pub mod bans;
mod wildcard;

pub use wildcard::wildcard_match;

use crate::pool::Pool;
use identity::{AccountName, Dn, Fqan, Meaning, one_line};
use std::borrow::Cow;
use std::fmt;

/// Why a file, or a line of it, cannot be used, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapfileError {
    /// Line, counted from 1.
    pub line: usize,
    /// Reason and remedy.
    pub reason: Cow<'static, str>,
}

impl fmt::Display for MapfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for MapfileError {}

/// One line with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Counted from 1.
    pub number: usize,
    /// Without its quotes.
    pub key: &'a [u8],
    /// Whether the key stands in quotes.
    pub quoted: bool,
    rest: &'a [u8],
}

impl<'a> Line<'a> {
    /// The accounts as they are written, pools (`.name`) among them.
    pub fn accounts(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.rest.split(|c| matches!(c, b',' | b' ' | b'\t')).filter(|account| !account.is_empty())
    }

    /// Whom the line maps to: the first one that counts. Pools do where the site leases their accounts.
    pub fn first(&self, pools: bool) -> Option<Result<Named, MapfileError>> {
        let mut all = self.accounts();
        all.find(|name| pools || !is_pool(name)).map(|name| named(self.number, name))
    }
}

/// Whom a line names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Named {
    /// An account, or a group in a group map.
    Account(AccountName),
    /// One account of several.
    Pool(Pool),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(name) => name.fmt(f),
            Self::Pool(pool) => write!(f, "pool {pool}"),
        }
    }
}

/// What a file says about somebody, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Line, counted from 1.
    pub line: usize,
    /// Whom.
    pub named: Named,
}

/// The lines of a file that have a key.
///
/// # Errors
/// For a quote that is never closed.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Result<Line<'_>, MapfileError>> {
    text.split(|c| *c == b'\n').enumerate().filter_map(|(index, line)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let start = line.iter().position(|c| !matches!(c, b' ' | b'\t'))?;
        let line = &line[start..];
        if line.starts_with(b"#") {
            return None;
        }
        let (key, rest, quoted) = match split_key(line) {
            Ok(parts) => parts,
            Err(reason) => return Some(Err(MapfileError { line: index + 1, reason: reason.into() })),
        };
        let end = rest.iter().position(|c| *c == b'#').unwrap_or(rest.len());
        Some(Ok(Line { number: index + 1, key, quoted, rest: &rest[..end] }))
    })
}

/// Splits a line into its key and the rest.
fn split_key(line: &[u8]) -> Result<(&[u8], &[u8], bool), &'static str> {
    let Some(quoted) = line.strip_prefix(b"\"") else {
        let end = line.iter().position(|c| matches!(c, b' ' | b'\t')).unwrap_or(line.len());
        return Ok((&line[..end], &line[end..], false));
    };
    let mut escaped = false;
    for (at, c) in quoted.iter().enumerate() {
        match c {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok((&quoted[..at], &quoted[at + 1..], true)),
            _ => {}
        }
    }
    Err("the quote is never closed; write \"DN\" account")
}

fn is_pool(name: &[u8]) -> bool {
    name.starts_with(b".")
}

/// A backslash of an account is written twice, as LCMAPS wants it, or once.
fn named(line: usize, name: &[u8]) -> Result<Named, MapfileError> {
    let text = String::from_utf8_lossy(name).replace("\\\\", "\\");
    let parsed = match is_pool(name) {
        true => Pool::parse(&text).map(Named::Pool),
        false => AccountName::parse(&text).map(Named::Account),
    };
    parsed.map_err(|e| MapfileError { line, reason: one_line(&e.to_string()).into() })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    line: usize,
    key: Vec<u8>,
    accounts: Vec<Vec<u8>>,
}

impl Entry {
    fn first(&self, counts: impl Fn(&[u8]) -> bool) -> Option<Result<Found, MapfileError>> {
        let name = self.accounts.iter().find(|name| counts(name))?;
        Some(named(self.line, name).map(|named| Found { line: self.line, named }))
    }
}

/// A parsed file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapfile(Vec<Entry>);

impl Mapfile {
    /// Parses a whole file.
    ///
    /// # Errors
    /// For a quote that is never closed.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, MapfileError> {
        let entry = |line: Line<'_>| Entry {
            line: line.number,
            key: line.key.to_vec(),
            accounts: line.accounts().map(<[u8]>::to_vec).collect(),
        };
        lines(text.as_ref()).map(|line| line.map(entry)).collect::<Result<_, _>>().map(Self)
    }

    /// Whom a DN maps to: the first line that means this name and has an entry that counts. Accounts count where the key
    /// means exactly this name; pools, where the site has them, also where wildcards of the key do (LCMAPS takes it so).
    /// A name that cannot be one is an error with its line, not a miss.
    pub fn of_dn(&self, dn: &Dn, pools: bool) -> Option<Result<Found, MapfileError>> {
        let (written, meaning) = (dn.as_str().as_bytes(), Meaning::of(dn.as_str()));
        let means = |key: &[u8]| key == written || (meaning.may_be(key) && Meaning::of(key) == meaning);
        self.0.iter().find_map(|entry| {
            let exact = means(&entry.key);
            let pooled = pools && (exact || wildcard_match(&entry.key, written));
            entry.first(|name| if is_pool(name) { pooled } else { exact })
        })
    }

    /// Whom the first FQAN maps to that maps anywhere, wildcards allowed: FQANs first, lines second.
    pub fn of_fqans(&self, fqans: &[Fqan], pools: bool) -> Option<Result<Found, MapfileError>> {
        fqans.iter().find_map(|fqan| self.of_fqan(fqan, pools))
    }

    /// Whom one FQAN maps to.
    pub fn of_fqan(&self, fqan: &Fqan, pools: bool) -> Option<Result<Found, MapfileError>> {
        let mut lines = self.0.iter().filter(|entry| wildcard_match(&entry.key, fqan.as_str()));
        lines.find_map(|entry| entry.first(|name| pools || !is_pool(name)))
    }

    /// The account of a DN where pools do not count.
    pub fn account_of_dn(&self, dn: &Dn) -> Option<Result<AccountName, MapfileError>> {
        self.of_dn(dn, false).and_then(account)
    }

    /// The account of FQANs where pools do not count.
    pub fn account_of_fqans(&self, fqans: &[Fqan]) -> Option<Result<AccountName, MapfileError>> {
        self.of_fqans(fqans, false).and_then(account)
    }
}

fn account(found: Result<Found, MapfileError>) -> Option<Result<AccountName, MapfileError>> {
    match found {
        Ok(Found { named: Named::Account(name), .. }) => Some(Ok(name)),
        Ok(_) => None,
        Err(e) => Some(Err(e)),
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

    fn account(found: Option<Result<AccountName, MapfileError>>) -> Option<String> {
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
    fn pools_count_where_the_site_leases_and_so_do_wildcards_then() {
        let text = "\"/C=XX/CN=Alice\" .cms,alice\n\"/C=XX/*\" bob,.all\n\"/C=YY/CN=A\" .\n";
        let file = Mapfile::parse(text).unwrap();
        let of = |name: &str| file.of_dn(&dn(name), true).map(|found| found.unwrap());
        let pool = |line, name: &str| Some(Found { line, named: Named::Pool(Pool::parse(name).unwrap()) });
        assert_eq!(of("/C=XX/CN=Alice"), pool(1, ".cms"), "the first of the line counts");
        assert_eq!(of("/C=XX/CN=Bob"), pool(2, ".all"), "a wildcard names no account");
        assert_eq!(of("/C=ZZ/CN=Bob"), None);
        assert_eq!(file.of_dn(&dn("/C=YY/CN=A"), true).unwrap().unwrap_err().line, 3);
        let text = "\"/cms/Role=pilot*\" .plt\n\"/cms*\" .cms,cms\n";
        let file = Mapfile::parse(text).unwrap();
        let list = fqans(&["/cms/Role=NULL/Capability=NULL", "/cms/Role=pilot/Capability=NULL"]);
        assert_eq!(file.of_fqans(&list, true).unwrap().unwrap(), pool(2, ".cms").unwrap());
        assert_eq!(account(file.account_of_fqans(&list)), Some("cms".into()));
    }

    #[test]
    fn wildcards_do_not_count_for_dns() {
        let text = "\"/C=XX/*\" everybody\n";
        let alice = dn("/C=XX/CN=Alice");
        assert_eq!(account(Mapfile::parse(text).unwrap().account_of_dn(&alice)), None);
        assert!(bans::BanFile::parse(text).unwrap().lists_dn(&alice), "but they do in ban files");
    }

    #[test]
    fn fqans_go_before_lines() {
        let m = Mapfile::parse("\"/cms\" cms\n\"/cms/Role=pilot*\" pilot\n").unwrap();
        let list = fqans(&["/cms/Role=pilot/Capability=NULL", "/cms"]);
        assert_eq!(account(m.account_of_fqans(&list)), Some("pilot".into()));
        assert_eq!(account(m.account_of_fqans(&fqans(&["/atlas"]))), None);
    }

    #[test]
    fn every_spelling_of_the_name_maps() {
        for (line, name) in [
            ("\"/CN=J\\xC3\\xBCrgen\" j # he\n", "/CN=J\\xC3\\xBCrgen"),
            ("\"/CN=J\u{fc}rgen\" j", "/CN=J\\xC3\\xBCrgen"),
            ("/CN=host/x.org j", "/CN=host\\/x.org"),
            ("/CN=A/E=a@x.org j", "/CN=A/emailAddress=a@x.org"),
            ("/dc=org/USERID=u j", "/DC=org/UID=u"),
        ] {
            let file = Mapfile::parse(line).unwrap();
            assert_eq!(account(file.account_of_dn(&dn(name))), Some("j".into()), "{line}");
        }
        let file = Mapfile::parse("\"/CN=Alice/CN=Bob\" j").unwrap();
        assert_eq!(account(file.account_of_dn(&dn("/CN=Alice\\/CN=Bob"))), None, "two names, not one");
    }

    #[test]
    fn an_open_quote_spoils_the_file() {
        assert_eq!(Mapfile::parse("\n\"/CN=a b\n").unwrap_err().line, 2);
        assert!(Mapfile::parse("\"/CN=a\\\" b\n").is_err());
    }

    #[test]
    fn bytes_of_another_encoding_spoil_nothing() {
        let text = b"# f\xfcr J\xfcrgen\n\"/CN=J\xfcrgen\" j\xfcrgen\n\"/CN=Alice\" alice # sch\xf6n\n";
        let file = Mapfile::parse(text).unwrap();
        assert_eq!(account(file.account_of_dn(&dn("/CN=Alice"))), Some("alice".into()));
        assert_eq!(account(file.account_of_dn(&dn("/CN=J\\xC3\\xBCrgen"))), None);
        assert_eq!(file.account_of_dn(&dn("/CN=J\\xFCrgen")).unwrap().unwrap_err().line, 2);
    }

    #[test]
    fn a_broken_account_name_is_an_error_not_a_miss() {
        let m = Mapfile::parse("\"/CN=a\" ro:ot\n").unwrap();
        let error = m.account_of_dn(&dn("/CN=a")).unwrap().unwrap_err();
        assert!(error.line == 1 && error.reason.contains("ro:ot"), "{error}");
    }

    #[test]
    fn accounts_of_windows_domains_are_named_as_lcmaps_has_them() {
        for (written, meant) in
            [("DOM\\\\u", "DOM\\u"), ("DOM\\u", "DOM\\u"), ("u@dom.org", "u@dom.org"), ("robot$", "robot$")]
        {
            let file = Mapfile::parse(format!("/CN=a {written}")).unwrap();
            assert_eq!(account(file.account_of_dn(&dn("/CN=a"))), Some(meant.into()));
        }
    }

    /// Numbers that look random and are the same each time (Marsaglia's xorshift).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % n as u64).unwrap()
        }
    }

    const MAP: &[u8] =
        b"# people of the site\n\"/C=XX/O=Lab, Ltd/CN=Alice Adams\" alice\n/C=XX/CN=host/x.org\thost\n\
        \"/C=XX/CN=J\\xC3\\xBCrgen\" .pool,jue # he\n\"/C=XX/CN=Carol/Email=c@x.org\" carol carla\n";

    /// A changed byte may change whom a line means and which account it names, but nobody gets an account who is more
    /// than one byte away from what a line says.
    #[test]
    fn a_changed_byte_of_a_map_admits_no_stranger() {
        let strangers = ["/C=XX/O=Lab, Ltd/CN=Bob Brown", "/C=XX/CN=host\\/y.example.org", "/CN=Alice Adams"];
        for at in 0..MAP.len() {
            for byte in (0..=255u8).step_by(5).chain(*b"\n\"\\/=#, .x") {
                let mut text = MAP.to_vec();
                text[at] = byte;
                let Ok(file) = Mapfile::parse(&text) else { continue };
                for name in strangers {
                    assert_eq!(file.account_of_dn(&dn(name)), None, "{at} {byte:#x} {name}");
                }
            }
        }
    }

    /// Whoever a ban file bans is still refused, by name or because the file is, whatever byte changes in another line.
    #[test]
    fn a_changed_byte_elsewhere_lifts_no_ban() {
        let (before, ban, after) = (
            &b"# out\n\"/C=XX/CN=Bob *\" # x\n"[..],
            &b"\"/C=XX/CN=Mallory Moe\"\n"[..],
            &b"/C=XX/CN=Eve\n"[..],
        );
        let mallory = dn("/C=XX/CN=Mallory Moe");
        let mut numbers = Numbers(7);
        for at in
            (0..before.len() - 1).chain(before.len() + ban.len()..before.len() + ban.len() + after.len())
        {
            for _ in 0..64 {
                let mut text = [before, ban, after].concat();
                text[at] = u8::try_from(numbers.below(256)).unwrap();
                let banned = bans::BanFile::parse(&text).map_or(true, |file| file.lists_dn(&mallory));
                assert!(banned, "{}", text.escape_ascii());
            }
        }
    }
}
