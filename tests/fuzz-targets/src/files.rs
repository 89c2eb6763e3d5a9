//! Files that an administrator writes: read by root, so a slip in one must not crash or open anything.

use crate::assert_one_line;
use crate::source::Source;
use credential::signing_policy::SigningPolicy;
use credential::voms::lsc as lsc_file;
use identity::{Dn, Fqan};
use policy::mapfile::bans::BanFile;
use policy::mapfile::{Mapfile, wildcard_match};
use policy::{GlexecConf, SitePolicy};
use std::ffi::CString;
use std::path::Path;

fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}

/// `/etc/pilotage/policy.toml`.
pub fn policy_toml(data: &[u8]) {
    match SitePolicy::parse(Path::new("policy.toml"), data) {
        Ok(policy) => {
            assert!(!policy.accounts.uids.contains(u32::MAX) && !policy.accounts.gids.contains(u32::MAX));
            assert!(policy.trust.ca_dir.is_absolute() && policy.accounting.spool.is_absolute());
            for (host, share) in &policy.ports.hosts {
                assert_eq!(policy.ports.share_of(&[host.as_str()]), Ok(Some(*share)));
            }
        }
        Err(why) => assert!(!why.to_string().contains('\n'), "{:?} is not one line", why.to_string()),
    }
}

/// `/etc/glexec.conf`.
pub fn glexec_conf(data: &[u8]) {
    match GlexecConf::parse(data) {
        Ok(conf) => {
            assert!(conf.log_level <= 5);
            assert!(conf.epilogue.is_none_or(|e| e.program.is_absolute()));
            conf.warnings.iter().for_each(|(_, warning)| assert_one_line(warning));
        }
        Err(why) => assert_one_line(&why.to_string()),
    }
}

/// `grid-mapfile`, `voms-mapfile` and ban files, in any bytes.
pub fn mapfile(data: &[u8]) {
    let text = text(data);
    let bans = BanFile::parse(data);
    let Ok(file) = Mapfile::parse(data) else { return };
    // Names that the seeds have lines for, and whatever stands between the first quotes.
    let mut names = vec!["/C=XX/CN=Alice".to_owned(), "/cms/Role=pilot/Capability=NULL".to_owned()];
    names.extend(text.split('"').nth(1).map(str::to_owned));
    let plain = text.replace("\\\\", "\\");
    for name in names {
        if let Ok(dn) = Dn::parse(&name)
            && let Some(Ok(account)) = file.account_of_dn(&dn)
        {
            assert!(plain.contains(account.as_str()) && !account.as_str().starts_with('.'));
            // A key without sets matches itself, so whoever is mapped by it is listed.
            let listed = bans.as_ref().map_or(true, |bans| bans.lists_dn(&dn));
            assert!(listed || name.contains('['), "{name} is mapped but not listed");
        }
        if let Ok(fqan) = Fqan::parse(&name)
            && let Some(Ok(account)) = file.account_of_fqans(std::slice::from_ref(&fqan))
        {
            assert!(plain.contains(account.as_str()));
            let listed = bans.as_ref().map_or(true, |bans| bans.lists_fqan(&fqan));
            assert!(listed, "{name} is mapped but not listed");
        }
    }
}

/// The matcher against the textbook's table for patterns without sets, and against the C library for the others.
pub fn wildcard(data: &[u8]) {
    let mut source = Source::new(data);
    let (pattern, text) = (source.text(), source.text());
    let expected =
        if pattern.contains('[') { c_library(&pattern, &text) } else { Some(table(&pattern, &text)) };
    if let Some(expected) = expected {
        assert_eq!(wildcard_match(&pattern, &text), expected, "{pattern:?} on {text:?}");
    }
}

/// Every prefix of the pattern with every prefix of the text.
fn table(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let mut table = vec![vec![false; t.len() + 1]; p.len() + 1];
    table[0][0] = true;
    for i in 1..=p.len() {
        for j in 0..=t.len() {
            table[i][j] = match p[i - 1] {
                b'*' => table[i - 1][j] || (j > 0 && table[i][j - 1]),
                c => j > 0 && table[i - 1][j - 1] && (c == b'?' || c == t[j - 1]),
            };
        }
    }
    table[p.len()][t.len()]
}

/// What `fnmatch(3)` says; `None` where it takes too long, and for classes such as `[:alpha:]`, which no name needs.
fn c_library(pattern: &str, text: &str) -> Option<bool> {
    let long = pattern.len() > 64 || text.len() > 64 || pattern.matches('*').count() > 3;
    let classes = ["[:", "[.", "[="].iter().any(|class| pattern.contains(class));
    if long || classes || !pattern.is_ascii() || !text.is_ascii() {
        return None;
    }
    let (pattern, text) = (CString::new(pattern).ok()?, CString::new(text).ok()?);
    // SAFETY: both pointers are of strings with a NUL that live until the call returns.
    let result = unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), libc::FNM_NOESCAPE) };
    Some(result == 0)
}

/// `<hash>.signing_policy`.
pub fn signing_policy(data: &[u8]) {
    const CA: &str = "/C=XX/O=Test Grid/CN=Test Grid CA";
    match SigningPolicy::parse(data) {
        Ok(policy) => {
            let lower = text(data).to_ascii_lowercase();
            for subject in ["/C=XX/O=Test Grid/CN=Alice", "/C=YY/CN=Mallory", ""] {
                if policy.permits(CA, subject) == Some(true) {
                    assert!(lower.contains("ca:sign") && lower.contains("cond_subjects"));
                }
            }
            let stranger = policy.permits("/CN=not in the file: \u{0}", "/CN=x");
            assert!(stranger.is_none() || lower.contains("access_id_anybody"));
        }
        Err(why) => assert_one_line(&why.to_string()),
    }
}

/// `<host>.lsc`.
pub fn lsc(data: &[u8]) {
    match lsc_file::parse(data) {
        Ok(lists) => {
            assert!(lists.iter().all(|names| !names.is_empty()));
            assert!(!lsc_file::any_matches(&lists, &[]), "a chain of nobody is trusted");
        }
        Err(why) => assert_one_line(&why.to_string()),
    }
}
