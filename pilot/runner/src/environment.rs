//! The environment that a payload finds: built from nothing, in three layers.
//!
//! 1. what the mapped account has: `HOME`, `USER`, `LOGNAME`, `PATH`, and `TMPDIR` (the working directory);
//! 2. the user's `--env`, which may replace any of these;
//! 3. what the pilot and `glexec` say, which nobody may replace: see [`reserved`].

use pilot_wire::{possible, reserved};
use std::collections::BTreeMap;

/// Used when the runner itself was started without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Puts the layers together. `own` looks up the runner's own environment.
pub fn build(
    own: impl Fn(&str) -> Option<String>,
    workdir: &str,
    user: &BTreeMap<String, String>,
    site: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("TMPDIR".to_owned(), workdir.to_owned())]);
    env.insert(
        "PATH".to_owned(),
        own("PATH").filter(|p| !p.is_empty()).unwrap_or_else(|| DEFAULT_PATH.to_owned()),
    );
    for name in ["HOME", "USER", "LOGNAME"] {
        env.extend(own(name).map(|value| (name.to_owned(), value)));
    }
    let usable =
        |(name, value): &(&String, &String)| possible(name) && !reserved(name) && !value.contains('\0');
    env.extend(user.iter().filter(usable).map(|(n, v)| (n.clone(), v.clone())));
    env.extend(site.iter().map(|(n, v)| (n.clone(), v.clone())));
    for name in ["PILOT_SESSION", "X509_USER_PROXY"] {
        env.extend(own(name).map(|value| (name.to_owned(), value)));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn own(name: &str) -> Option<String> {
        map(&[
            ("HOME", "/home/u"),
            ("PATH", "/bin"),
            ("X509_USER_PROXY", "/tmp/p"),
            ("PILOT_SESSION", "s"),
            ("SECRET", "x"),
        ])
        .remove(name)
    }

    #[test]
    fn nothing_of_the_runner_but_the_listed_names_arrives() {
        let env = build(own, "/w", &map(&[("A", "1")]), &map(&[("PILOT_PAYLOAD_ID", "p")]));
        let want = [
            ("A", "1"),
            ("HOME", "/home/u"),
            ("PATH", "/bin"),
            ("PILOT_PAYLOAD_ID", "p"),
            ("PILOT_SESSION", "s"),
            ("TMPDIR", "/w"),
            ("X509_USER_PROXY", "/tmp/p"),
        ];
        assert_eq!(env, map(&want));
    }

    #[test]
    fn the_user_may_change_home_but_not_what_the_pilot_says() {
        let user = map(&[
            ("HOME", "/elsewhere"),
            ("PILOT_SESSION", "forged"),
            ("PILOT_X", "forged"),
            ("X509_USER_PROXY", "/forged"),
            ("GLOBUS_TCP_PORT_RANGE", "1,2"),
            ("GLEXEC_MODE", "x"),
            ("A=B", "x"),
            ("NUL", "a\0b"),
        ]);
        let env = build(own, "/w", &user, &map(&[]));
        assert_eq!(env["HOME"], "/elsewhere");
        assert_eq!(env["PILOT_SESSION"], "s");
        assert_eq!(env["X509_USER_PROXY"], "/tmp/p");
        for name in ["PILOT_X", "GLOBUS_TCP_PORT_RANGE", "GLEXEC_MODE", "A=B", "NUL"] {
            assert!(!env.contains_key(name), "{name}");
        }
    }

    #[test]
    fn an_empty_path_is_replaced() {
        let env = build(|n| (n == "PATH").then(String::new), "/w", &map(&[]), &map(&[]));
        assert_eq!(env["PATH"], DEFAULT_PATH);
    }
}
