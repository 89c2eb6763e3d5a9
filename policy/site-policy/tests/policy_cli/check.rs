use crate::site::{Site, code, me, stderr, stdout};
use serde_json::Value;

/// The findings that mention the text.
fn about(output: &str, text: &str) -> Vec<String> {
    output.lines().filter(|l| l.contains(text)).map(str::to_owned).collect()
}

#[test]
fn a_broken_policy_is_shown_with_line_and_column() {
    let site = Site::new();
    let file = site.path("policy.toml");
    for (text, place, reason) in [
        ("[accounts\n", ":1:", "error: "),
        ("[trust]\nrequire_crl = 1\n", ":2:15: error: ", "bool"),
        ("[trust]\nca_dri = \"/x\"\n", ":2:1: error: ", "ca_dri"),
        ("[mapping]\norder = [\"gums\"]\n", ":2:10: error: ", "[mapping.gums]"),
        ("[payload]\nnested = \"ignore\"\n", ":2:10: error: ", "refuse"),
    ] {
        site.write("policy.toml", text);
        let output = site.check(&[]);
        let said = stdout(&output);
        let found = about(&said, &format!("{}{place}", file.display()));
        assert!(found.len() == 1 && found[0].contains(reason), "{text:?}: {said}");
        assert_eq!(code(&output), 1);
    }
}

#[test]
fn a_policy_that_cannot_be_read_is_no_finding() {
    let site = Site::new();
    std::fs::remove_file(site.path("policy.toml")).unwrap();
    let output = site.check(&[]);
    assert_eq!((code(&output), stdout(&output).as_str()), (3, ""));
    assert!(stderr(&output).contains("policy.toml: cannot be read"));
}

#[test]
fn usage_is_two() {
    let site = Site::new();
    assert_eq!(code(&site.check(&["--jsn"])), 2);
}

#[test]
fn glexec_conf_is_told_with_its_lines() {
    let site = Site::new();
    site.write("glexec.conf", "[glexec]\nlinger = yes\nlingr = no\nlcas_db_file = /x\n");
    let said = stdout(&site.check(&[]));
    assert_eq!(about(&said, "glexec.conf:3: warning: ").len(), 1, "{said}");
    assert_eq!(about(&said, "note: lcas_db_file has no effect").len(), 1, "{said}");
    assert_eq!(about(&said, "error: nobody may call glexec").len(), 1, "{said}");

    site.write("glexec.conf", "[glexec]\nlinger = perhaps\n");
    assert_eq!(about(&stdout(&site.check(&[])), "glexec.conf:2: error: linger is").len(), 1);

    std::fs::remove_file(site.path("glexec.conf")).unwrap();
    assert_eq!(about(&stdout(&site.check(&[])), "glexec.conf: error: does not exist").len(), 1);
}

#[test]
fn a_wall_that_cannot_stand_is_an_error() {
    let site = Site::new();
    let old = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    site.write("policy.toml", &format!("{old}\n[payload]\npid_namespace = true\n"));
    site.write("glexec.conf", "[glexec]\nlinger = no\n");
    let said = stdout(&site.check(&[]));
    assert_eq!(about(&said, "glexec.conf: error: [payload] pid_namespace cannot be had").len(), 1, "{said}");
    site.write("glexec.conf", "[glexec]\nlinger = yes\n");
    let said = stdout(&site.check(&[]));
    assert!(about(&said, "error: [payload]").is_empty(), "{said}");
    assert_eq!(about(&said, "policy.toml: note: [payload] pid_namespace").len(), 1, "{said}");
}

/// What only some hosts can keep, or what contradicts another key, is said before a job meets it.
#[test]
fn what_isolate_and_target_proxy_depend_on_is_said() {
    let site = Site::new();
    let old = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    let payload = |lines: &str| site.write("policy.toml", &format!("{old}\n[payload]\n{lines}\n"));
    let conf = |lines: &str| site.write("glexec.conf", &format!("[glexec]\n{lines}\n"));
    let said = || stdout(&site.check(&[]));
    payload("isolate = \"account\"");
    conf("linger = yes");
    assert_eq!(about(&said(), "policy.toml: note: [payload] isolate").len(), 1, "{}", said());
    assert!(about(&said(), "warning: [payload]").is_empty(), "{}", said());
    conf("linger = no");
    assert_eq!(about(&said(), "policy.toml: warning: [payload] isolate").len(), 1, "{}", said());
    conf("linger = yes");
    payload("isolate = \"account\"\nkill_leftovers = false");
    assert_eq!(about(&said(), "policy.toml: warning: [payload] isolate").len(), 1, "{}", said());
    payload("target_proxy = \"account\"");
    assert!(about(&said(), "target_proxy").is_empty(), "{}", said());
    conf("linger = yes\ncreate_target_proxy = no");
    assert_eq!(
        about(&said(), "policy.toml: warning: [payload] target_proxy has no effect").len(),
        1,
        "{}",
        said()
    );
}

/// A file or a service that nobody asks maps nobody: whoever described it believes otherwise. `glexec` goes on, by `order`.
#[test]
fn a_mapping_source_that_is_not_in_the_order_is_an_error() {
    let site = Site::new();
    let policy = |order: &str, key: &str| {
        let service = "endpoints = [\"https://gums.example.org/\"]";
        let text = format!("[callers]\nallow = [\"pilot\"]\n[mapping]\norder = [{order}]\n");
        match key.strip_prefix('[') {
            Some(_) => format!("{text}{key}\n{service}\n"),
            None => format!("{text}{key} = \"{}\"\n", site.path("grid-mapfile").display()),
        }
    };
    for (key, source) in [
        ("grid_mapfile", "grid-mapfile"),
        ("voms_mapfile", "voms-mapfile"),
        ("[mapping.gums]", "gums"),
        ("[mapping.scas]", "scas"),
        ("[mapping.argus]", "argus"),
        ("[mapping.json]", "json"),
    ] {
        let other = if source == "grid-mapfile" { "voms-mapfile" } else { "grid-mapfile" };
        site.write("policy.toml", &policy(&format!("{other:?}"), key));
        let output = site.check(&[]);
        let said = stdout(&output);
        let found = about(&said, &format!("{source} is not in [mapping] order"));
        assert!(found.len() == 1 && found[0].contains("error: ") && found[0].contains(key), "{key}: {said}");
        assert_eq!(code(&output), 1);
        site.write("policy.toml", &policy(&format!("{other:?}, {source:?}"), key));
        assert!(about(&stdout(&site.check(&[])), "is not in [mapping] order").is_empty(), "{key}");
    }
}

/// What is set and has no effect is said, or the site believes in it.
#[test]
fn an_epilogue_without_linger_is_warned_about() {
    let site = Site::new();
    for (linger, warnings) in [("yes", 0), ("no", 1)] {
        site.write("glexec.conf", &format!("[glexec]\nlinger = {linger}\nepilogue = /bin/true\n"));
        let said = stdout(&site.check(&[]));
        assert_eq!(about(&said, "/bin/true: warning: never runs").len(), warnings, "{said}");
    }
}

#[test]
fn lines_of_map_files_are_judged() {
    let site = Site::new();
    site.write(
        "grid-mapfile",
        "\"/CN=Alice\" nobody\n\"/CN=Bob\" no-such-user\nCN=Carol nobody\n\"/CN=Dan\" da:n\n\"/CN=Eve\" root\n",
    );
    let said = stdout(&site.check(&[]));
    let place = |line: u32| format!("{}:{line}: ", site.path("grid-mapfile").display());
    assert!(about(&said, &place(1)).is_empty(), "{said}");
    for (line, reason) in [
        (2, "warning: no-such-user is not an account of this host"),
        (3, "warning: key \"CN=Carol\" can match nobody"),
        (4, "error: account name"),
        (5, "warning: root has uid 0, which [accounts] allow does not list"),
    ] {
        let found = about(&said, &place(line));
        assert!(found.len() == 1 && found[0].contains(reason), "{reason}: {said}");
    }
    site.write("grid-mapfile", "\n\"/CN=Alice nobody\n");
    assert!(about(&stdout(&site.check(&[])), &place(2))[0].contains("never closed"));
}

#[test]
fn a_ban_file_that_is_named_must_exist() {
    let site = Site::new();
    std::fs::remove_file(site.path("ban")).unwrap();
    let said = stdout(&site.check(&[]));
    assert_eq!(
        about(&said, &format!("{}: error: does not exist", site.path("ban").display())).len(),
        1,
        "{said}"
    );
}

#[test]
fn people_who_cannot_play_their_part_are_named() {
    let site = Site::new();
    site.policy("[callers]\nallow = [\"nobody\", \"*\", \"no-such-user\"]\n");
    let said = stdout(&site.check(&[]));
    for reason in [
        "error: nobody is both a caller and a payload account",
        "warning: '*' lets every account",
        "warning: caller no-such-user is not an account",
    ] {
        assert_eq!(about(&said, reason).len(), 1, "{reason}: {said}");
    }
    let policy = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    site.write("policy.toml", &policy.replace("\"nobody\"]\ngids", "\"0-70000\"]\ngids"));
    let said = stdout(&site.check(&[]));
    assert_eq!(about(&said, &format!("error: caller {} has uid ", me())).len(), 1, "{said}");
    assert_eq!(about(&said, "lists uids below 500").len(), 1, "{said}");
    site.write(
        "policy.toml",
        &policy.replace("\"nobody\"]\ngids", "\"nobody\"]\nkeep_gids = [\"0-70000\"]\ngids"),
    );
    let said = stdout(&site.check(&[]));
    assert_eq!(about(&said, "warning: caller nobody is in group ").len(), 1, "{said}");
}

#[test]
fn places_that_are_missing_come_with_the_remedy() {
    let site = Site::new();
    let spool = site.path("spool");
    site.policy(&format!(
        "[accounting]\nspool = {spool:?}\n[trust]\nca_dir = {:?}\n",
        site.path("certificates")
    ));
    std::fs::remove_file(site.path("glexec-verify")).unwrap();
    let said = stdout(&site.check(&[]));
    assert!(said.contains(&format!("install -d -m 0700 -o root -g root {}", spool.display())), "{said}");
    for missing in ["certificates", "glexec-verify"] {
        assert_eq!(about(&said, &format!("{missing}: error: does not exist")).len(), 1, "{said}");
    }
}

#[test]
fn json_has_what_the_lines_have() {
    let site = Site::new();
    site.write("policy.toml", "[trust]\nca_dri = \"/x\"\n");
    let report: Value = serde_json::from_slice(&site.check(&["--json"]).stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let broken = findings.iter().find(|f| f["line"] == 2).unwrap();
    assert_eq!((&broken["column"], &broken["severity"]), (&1.into(), &"error".into()));
    let errors = findings.iter().filter(|f| f["severity"] == "error").count();
    assert_eq!(report["errors"], errors);
}

#[test]
fn files_that_the_verifier_would_fall_over_are_named() {
    let site = Site::new();
    std::fs::create_dir_all(site.path("certificates")).unwrap();
    std::fs::create_dir_all(site.path("vomsdir/cms")).unwrap();
    site.write("certificates/0a1b2c3d.0", "an error page of the mirror\n");
    site.write("certificates/0a1b2c3d.r0", "");
    site.write("certificates/0a1b2c3d.signing_policy", "access_id_CA X509\n");
    site.write("vomsdir/cms/voms.example.org.lsc", "");
    site.policy(&format!(
        "[trust]\nca_dir = {:?}\nvoms_dir = {:?}\n",
        site.path("certificates"),
        site.path("vomsdir")
    ));
    let checked = site.check(&[]);
    let said = stdout(&checked);
    for broken in ["0a1b2c3d.0", "0a1b2c3d.r0", "voms.example.org.lsc"] {
        assert!(!about(&said, &format!("{broken}: error: ")).is_empty(), "{broken}: {said}");
    }
    assert_eq!(about(&said, "signing_policy: warning: belongs to no installed CA").len(), 1, "{said}");
    assert_eq!(checked.status.code(), Some(1));
}

#[test]
fn pools_accounts_and_leases_are_looked_at() {
    let site = Site::new();
    let dir = site.path("pools");
    std::fs::create_dir(&dir).unwrap();
    let key = format!("[mapping]\ngridmapdir = {dir:?}\n");
    let said = || {
        let text = std::fs::read_to_string(site.path("policy.toml")).unwrap();
        if !text.contains("gridmapdir") {
            site.write("policy.toml", &text.replace("[mapping]\n", &key));
        }
        stdout(&site.check(&[]))
    };
    site.write("grid-mapfile", "\"/CN=Alice\" .cms\n\"/C=XX/*\" .none\n\"/CN=Bob\" .\n");
    for name in ["cms001", "%2fcn%3dorphan", "bad name", "cms002"] {
        std::fs::write(dir.join(name), "").unwrap();
    }
    for lease in ["%2fcn%3da", "%2fcn%3db"] {
        std::fs::hard_link(dir.join("cms002"), dir.join(lease)).unwrap();
    }
    let told = said();
    for (finding, times) in [
        ("grid-mapfile:2: error: pool .none has no account in the gridmapdir", 1),
        ("grid-mapfile:2: note: Globus and LCMAPS read this line differently", 1),
        ("grid-mapfile:3: error: pool", 1),
        ("cms001: warning: is never leased: cms001 is not an account of this host", 1),
        ("%2fcn%3dorphan: warning: is a lease of no account", 1),
        ("bad name: warning: is no name of an account", 1),
        ("cms002: error: has 3 names: two leases share one account", 1),
        ("shares its account with another lease", 2),
        ("grid-mapfile:1: ", 0),
    ] {
        assert_eq!(about(&told, finding).len(), times, "{finding}: {told}");
    }
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o775)).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(about(&said(), "pools: error: does not exist; create it").len(), 1);
    // Without a directory pools are skipped, and that is said.
    let text = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    site.write("policy.toml", &text.replace(&key, "[mapping]\n"));
    let told = stdout(&site.check(&[]));
    assert_eq!(
        about(&told, "grid-mapfile:1: warning: names no account, or only a pool, and no gridmapdir").len(),
        1
    );
}
