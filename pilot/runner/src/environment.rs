//! The environment that a payload finds: built from nothing, in three layers.
//!
//! 1. what the mapped account has: `HOME`, `USER`, `LOGNAME`, `PATH`, and `TMPDIR` (the working directory);
//! 2. the user's `--env`, which may replace any of these and has no reserved name (`PayloadSpec::parse`);
//! 3. what the pilot and `glexec` say, which nobody may replace.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// Used when the runner itself was started without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Puts the layers together. `own` looks up the runner's own environment.
pub fn build(
    own: impl Fn(&str) -> Option<OsString>,
    workdir: &Path,
    user: &BTreeMap<String, String>,
    site: &BTreeMap<String, String>,
) -> BTreeMap<OsString, OsString> {
    let path = own("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
    let mut env = BTreeMap::from([("TMPDIR".into(), workdir.into()), ("PATH".into(), path)]);
    for name in ["HOME", "USER", "LOGNAME"] {
        env.extend(own(name).map(|value| (name.into(), value)));
    }
    for (name, value) in user.iter().chain(site) {
        env.insert(name.into(), value.into());
    }
    for name in ["PILOT_SESSION", "X509_USER_PROXY"] {
        env.extend(own(name).map(|value| (name.into(), value)));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn os(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        pairs.iter().map(|(n, v)| (n.into(), v.into())).collect()
    }

    fn own(name: &str) -> Option<OsString> {
        let own = [
            ("HOME", "/home/u"),
            ("PATH", "/bin"),
            ("X509_USER_PROXY", "/tmp/p"),
            ("PILOT_SESSION", "s"),
            ("SECRET", "x"),
        ];
        map(&own).remove(name).map(Into::into)
    }

    #[test]
    fn nothing_of_the_runner_but_the_listed_names_arrives() {
        let env = build(own, Path::new("/w"), &map(&[("A", "1")]), &map(&[("PILOT_PAYLOAD_ID", "p")]));
        let want = [
            ("A", "1"),
            ("HOME", "/home/u"),
            ("PATH", "/bin"),
            ("PILOT_PAYLOAD_ID", "p"),
            ("PILOT_SESSION", "s"),
            ("TMPDIR", "/w"),
            ("X509_USER_PROXY", "/tmp/p"),
        ];
        assert_eq!(env, os(&want));
    }

    #[test]
    fn the_user_may_change_home_but_not_what_the_pilot_says() {
        let user = map(&[("HOME", "/elsewhere"), ("PILOT_SESSION", "forged"), ("GLOBUS_HOSTNAME", "forged")]);
        let env = build(own, Path::new("/w"), &user, &map(&[("GLOBUS_HOSTNAME", "h")]));
        let of = |name: &str| env[std::ffi::OsStr::new(name)].to_str().unwrap();
        assert_eq!((of("HOME"), of("PILOT_SESSION"), of("GLOBUS_HOSTNAME")), ("/elsewhere", "s", "h"));
    }

    #[test]
    fn an_empty_path_is_replaced() {
        let env = build(|n| (n == "PATH").then(OsString::new), Path::new("/w"), &map(&[]), &map(&[]));
        assert_eq!(env[std::ffi::OsStr::new("PATH")], DEFAULT_PATH);
    }
}
