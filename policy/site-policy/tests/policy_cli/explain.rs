use crate::site::{Site, alice, code, me, refusal, stderr, stdout};
use identity::RefusalKind;
use serde_json::Value;

/// Explains as JSON: the last step, and the exit code that `glexec` would give.
fn refused(site: &Site) -> (String, i64, String) {
    let output = site.explain(&["--json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    assert_eq!((code(&output), &report["would_run"]), (1, &Value::Bool(false)), "{report}");
    let last = report["steps"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["passed"], false);
    let text = |key: &str| last[key].as_str().unwrap().to_owned();
    (text("step"), report["exit_code"].as_i64().unwrap(), text("why"))
}

#[test]
fn a_good_proxy_is_followed_to_its_account() {
    let site = Site::new();
    let output = site.explain(&[]);
    let said = stdout(&output);
    assert_eq!(code(&output), 0, "{said}{}", stderr(&output));
    let steps: Vec<_> = said.lines().filter_map(|l| l.strip_prefix("yes  ")?.split(' ').next()).collect();
    assert_eq!(
        steps,
        ["policy", "caller", "proxy", "credential", "issuer", "voms", "bans", "mapping", "account"]
    );
    assert!(
        said.ends_with("named by grid-mapfile\n") && said.contains("would run as nobody (uid 65534"),
        "{said}"
    );
    let report: Value = serde_json::from_slice(&site.explain(&["--json"]).stdout).unwrap();
    assert_eq!((&report["would_run"], &report["granted"]["uid"]), (&true.into(), &65534.into()));
}

#[test]
fn walls_around_the_payload_are_shown() {
    let site = Site::new();
    let policy = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    let conf = std::fs::read_to_string(site.path("glexec.conf")).unwrap();
    site.write("policy.toml", &format!("{policy}\n[payload]\npid_namespace = true\n"));
    let output = site.explain(&[]);
    let said = stdout(&output);
    assert_eq!(code(&output), 0, "{said}{}", stderr(&output));
    assert!(said.contains("\nyes  walls        the payload gets a process namespace"), "{said}");
    site.write("glexec.conf", &format!("{conf}\nlinger = no\n"));
    let (step, code, why) = refused(&site);
    assert!((step.as_str(), code) == ("policy", 202) && why.contains("set linger = yes"), "{why}");
    site.write("glexec.conf", &conf);
    site.write("policy.toml", &format!("{policy}\n[payload]\nisolate = \"account\"\n"));
    let said = stdout(&site.explain(&[]));
    assert!(
        said.contains("\nyes  walls        the payload is kept from other sessions of its account"),
        "{said}"
    );
}

#[test]
fn each_step_can_say_no() {
    let site = Site::new();
    site.verifier_says(&refusal(RefusalKind::Expired, "the proxy has expired"));
    assert_eq!(refused(&site), ("credential".into(), 201, "the proxy has expired".into()));
    site.verifier_says(&refusal(RefusalKind::Trust, "no trusted CA"));
    assert_eq!(refused(&site).1, 203);

    let mut stranger = alice();
    stranger.subject = identity::Dn::parse("/CN=Stranger").unwrap();
    site.verifier_says(&Ok(stranger.clone()));
    assert_eq!((refused(&site).0, refused(&site).1), ("mapping".into(), 203));
    stranger.subject = identity::Dn::parse("/CN=Mallory").unwrap();
    site.verifier_says(&Ok(stranger));
    assert_eq!((refused(&site).0, refused(&site).1), ("bans".into(), 203));

    site.verifier_says(&Ok(alice()));
    site.write("grid-mapfile", "\"/CN=Alice\" root\n");
    let (step, code, why) = refused(&site);
    assert_eq!((step.as_str(), code), ("account", 203));
    assert!(why.contains("below 500"), "{why}");
}

#[test]
fn the_proxy_file_is_held_to_the_rules() {
    let site = Site::new();
    site.mode("proxy", 0o644);
    let (step, code, why) = refused(&site);
    assert_eq!((step.as_str(), code), ("proxy", 201));
    assert!(why.contains("0644") && why.contains("chmod 600"), "{why}");
    std::fs::remove_file(site.path("proxy")).unwrap();
    std::os::unix::fs::symlink(site.path("grid-mapfile"), site.path("proxy")).unwrap();
    assert!(refused(&site).2.contains("symbolic link"));
}

#[test]
fn callers_are_judged_before_the_proxy_is_read() {
    let site = Site::new();
    std::fs::remove_file(site.path("proxy")).unwrap();
    site.write("glexec.conf", "[glexec]\n");
    let (step, code, why) = refused(&site);
    assert_eq!((step.as_str(), code), ("caller", 203));
    assert!(why.contains(&me()), "{why}");
    let output = site.explain(&["--caller", "no-such-user"]);
    assert_eq!(super::site::code(&output), 3);
}

#[test]
fn what_the_site_must_mend_is_202() {
    let site = Site::new();
    site.write("glexec-verify", "#!/bin/sh\necho broken >&2\nexit 9\n");
    let (step, code, why) = refused(&site);
    assert_eq!((step.as_str(), code), ("credential", 202));
    assert!(why.contains("broken"), "{why}");
    site.write("glexec-verify", "#!/bin/sh\necho nonsense\n");
    assert_eq!(refused(&site).1, 202);

    site.verifier_says(&Ok(alice()));
    site.write("grid-mapfile", "\"/CN=Alice nobody\n");
    assert_eq!((refused(&site).0, refused(&site).1), ("mapping".into(), 202));
    site.write("policy.toml", "[trust]\nca_dri = \"/x\"\n");
    let (step, code, why) = refused(&site);
    assert_eq!((step.as_str(), code), ("policy", 202));
    assert!(why.contains("policy.toml:2:1"), "{why}");
}

#[test]
fn names_can_be_played_without_a_certificate() {
    let site = Site::new();
    let explain = |more: &[&str]| {
        let policy = site.path("policy.toml").display().to_string();
        site.explain_names(&policy, more)
    };
    std::fs::remove_file(site.path("glexec-verify")).unwrap();
    let told = explain(&["--dn", "/CN=Alice"]);
    let said = stdout(&told);
    assert_eq!(code(&told), 0, "{said}");
    let line = format!("grid-mapfile names nobody ({}:1)", site.path("grid-mapfile").display());
    assert!(said.contains(&line) && said.contains("no certificate is judged"), "{said}");
    let banned = explain(&["--dn", "/CN=Mallory", "--fqan", "/cms/Role=pilot"]);
    assert!(code(&banned) == 1 && stdout(&banned).contains("/CN=Mallory is banned"), "{}", stdout(&banned));
    for usage in [&["--fqan", "/cms"][..], &["--dn", "CN=Alice"], &[], &["--dn", "/CN=A", "--proxy", "/x"]] {
        assert_eq!(code(&explain(usage)), 2, "{usage:?}");
    }
    // A pool: who would get which account, and nothing is leased.
    let dir = site.path("pools");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("cms1"), "").unwrap();
    site.write("grid-mapfile", "\"/CN=*\" .cms\n");
    let text = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    site.write("policy.toml", &text.replace("[mapping]\n", &format!("[mapping]\ngridmapdir = {dir:?}\n")));
    let told = explain(&["--dn", "/CN=Alice"]);
    let said = stdout(&told);
    assert!(
        said.contains("names pool .cms") && said.contains("cms1, which is not an account of this host"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
}
