//! The payload's environment. Pure.
//!
//! Everything is removed but the caller's `GLEXEC_*` (wrapped environments travel in `GLEXEC_ENV`) and the names that
//! the site preserves. What describes the account is set for the account.

use identity::Account;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Usable on every Linux, and nothing of the caller's.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Builds `NAME=value` strings for exec.
pub(crate) fn build(
    caller: &[(OsString, OsString)],
    preserve: &[String],
    account: &Account,
    proxy: Option<&Path>,
    session: Option<&str>,
) -> Vec<CString> {
    let mut variables: Vec<(&OsStr, &OsStr)> = Vec::new();
    let mut add = |name, value| {
        if !variables.iter().any(|(n, _)| *n == name) {
            variables.push((name, value));
        }
    };
    // The first of equal names counts, so what must not be overridden comes first.
    if let Some(proxy) = proxy {
        add(OsStr::new("X509_USER_PROXY"), proxy.as_os_str());
    }
    if let Some(session) = session {
        add(OsStr::new("PILOT_SESSION"), OsStr::new(session));
    }
    for (name, value) in caller.iter().filter(|(name, _)| is_kept(name.as_bytes(), preserve)) {
        add(name, value);
    }
    let name = OsStr::new(account.name.as_str());
    add(OsStr::new("HOME"), account.home.as_os_str());
    add(OsStr::new("USER"), name);
    add(OsStr::new("LOGNAME"), name);
    add(OsStr::new("PATH"), OsStr::new(PATH));
    variables.into_iter().filter_map(|(n, v)| joined(n, v)).collect()
}

fn is_kept(name: &[u8], preserve: &[String]) -> bool {
    let starts = |prefix: &str| name.starts_with(prefix.as_bytes());
    if starts("LD_") || starts("MALLOC_") || starts("GLEXEC_EPILOG_") || name == b"X509_USER_PROXY" {
        return false;
    }
    starts("GLEXEC_") || preserve.iter().any(|p| p.as_bytes() == name)
}

fn joined(name: &OsStr, value: &OsStr) -> Option<CString> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::AccountName;

    fn built(caller: &[(&str, &str)], preserve: &[&str]) -> Vec<String> {
        let caller: Vec<_> = caller.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect();
        let preserve: Vec<_> = preserve.iter().map(|s| (*s).to_owned()).collect();
        let name = AccountName::parse("alice").unwrap();
        let account = Account { name, uid: 20_001, gid: 20_001, groups: vec![], home: "/home/alice".into() };
        let env = build(&caller, &preserve, &account, Some(Path::new("/tmp/x")), Some("s1"));
        env.into_iter().map(|c| c.into_string().unwrap()).collect()
    }

    #[test]
    fn the_account_s_own_variables_are_set() {
        let env = built(&[("HOME", "/home/pilot"), ("SECRET", "1"), ("X509_USER_PROXY", "/pilot")], &[]);
        let expected = ["X509_USER_PROXY=/tmp/x", "PILOT_SESSION=s1", "HOME=/home/alice", "USER=alice"];
        assert_eq!(env[..4], expected);
        assert!(env.iter().any(|v| v.starts_with("PATH=/usr/local/bin:")));
        assert_eq!(env.len(), 6);
    }

    #[test]
    fn glexec_names_and_preserved_ones_stay() {
        let caller = [("GLEXEC_ENV", "blob"), ("HOME", "/h"), ("LD_PRELOAD", "x"), ("MALLOC_CHECK_", "3")];
        let env = built(&caller, &["HOME", "LD_PRELOAD", "MALLOC_CHECK_"]);
        assert!(env.contains(&"GLEXEC_ENV=blob".to_owned()) && env.contains(&"HOME=/h".to_owned()));
        assert!(!env.iter().any(|v| v.starts_with("LD_") || v.starts_with("MALLOC_")));
    }

    #[test]
    fn the_epilogue_s_names_and_the_session_cannot_be_forged() {
        let env = built(&[("GLEXEC_EPILOG_TARGET_UID", "0"), ("PILOT_SESSION", "x")], &["PILOT_SESSION"]);
        assert!(!env.iter().any(|v| v.starts_with("GLEXEC_EPILOG_")));
        assert!(env.contains(&"PILOT_SESSION=s1".to_owned()) && !env.contains(&"PILOT_SESSION=x".to_owned()));
    }

    #[test]
    fn the_first_of_equal_names_counts() {
        let env = built(&[("GLEXEC_A", "1"), ("GLEXEC_A", "2")], &[]);
        assert!(env.contains(&"GLEXEC_A=1".to_owned()) && !env.contains(&"GLEXEC_A=2".to_owned()));
    }
}
