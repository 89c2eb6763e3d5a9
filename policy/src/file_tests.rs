use super::*;

fn parse(text: &str) -> Result<SitePolicy, PolicyError> {
    SitePolicy::parse(Path::new("policy.toml"), text)
}

fn error(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

const SAMPLE: &str = r#"
[callers]
allow = ["pilot", ".pilotpool"]
[accounts]
allow = ["20000-29999", "special"]
gids = ["20000-29999"]
keep_gids = ["65400-65500"]
[mapping]
order = ["grid-mapfile", "gums"]
[mapping.gums]
endpoints = ["https://gums.example.org:8443/gums/services/GUMSXACMLAuthorizationServicePort"]
timeout = "5s"
[payload]
nested = "kill"
no_new_privs = false
[ports]
range = "40000-40999"
hosts = { "wn1.example.org" = "40000-40499", "wn2.example.org" = "40500-40999" }
"#;

#[test]
fn the_sample_is_understood() {
    let p = parse(SAMPLE).unwrap();
    assert!(p.accounts.uids.contains(20_000) && p.accounts.names[0].as_str() == "special");
    assert_eq!(p.mapping.order, [MapSource::GridMapfile, MapSource::Service(Service::Gums)]);
    assert_eq!(p.mapping.services["gums"].timeout.as_secs(), 5);
    assert_eq!(p.payload.nested, NestedPolicy::Kill);
    let share = p.ports.share_of(&["wn2", "WN2.example.org."]).unwrap().unwrap();
    assert_eq!(share.to_string(), "40500-40999");
    let stranger = p.ports.share_of(&["wn3", "wn3.example.org"]).unwrap_err().to_string();
    assert!(stranger.contains("[ports] hosts does not name this host, wn3, wn3.example.org"), "{stranger}");
    assert_eq!(parse("").unwrap().ports.share_of(&["wn3"]), Ok(None));
}

#[test]
fn an_empty_file_has_safe_defaults() {
    let p = parse("").unwrap();
    assert!(p.callers.is_empty() && p.accounts.uids.is_empty());
    assert!(p.payload.no_new_privs && p.payload.kill_leftovers && p.accounting.require_record);
    assert!(!p.bans.dn_file.explicit && p.ports.range.is_none());
}

#[test]
fn errors_name_line_and_column() {
    assert_eq!(error("[callers]\nalow = []\n"), "policy.toml:2:1: unknown field `alow`, expected `allow`");
    assert!(error("[trust]\nmax_proxy_lifetime = \"7 days\"\n").starts_with("policy.toml:2:22: duration"));
    assert!(error("[payload]\nnested = \"maybe\"\n").starts_with("policy.toml:2:10: nested is \"maybe\""));
    assert!(error("[ports\n").starts_with("policy.toml:1:7: "));
    assert!(
        error("[mapping]\norder = [\"gums\"]\n").contains(":2:10: gums is in the order; add [mapping.gums]")
    );
    assert!(error("[mapping]\norder = [\"nis\"]\n").contains(":2:10: unknown mapping source"));
}

#[test]
fn contradictions_are_refused() {
    assert!(error("[accounts]\nallow = [\"20000\"]\n").contains("allow without gids"));
    assert!(error("[ports]\nrange = \"40000-40004\"\nper_payload = 6\n").contains(":3:15: per_payload"));
    assert!(error("[ports]\nrange = \"40000-40009\"\ndefault = 11\n").contains(":3:11: default"));
    assert!(error("[ports]\nrange = \"40000-40009\"\nhosts = { a = \"50000-50009\" }\n").contains("leaves"));
    let overlap = "[ports]\nrange = \"40000-40999\"\nhosts = { a = \"40000-40100\", b = \"40100-40200\" }\n";
    assert!(error(overlap).contains("overlap"));
    assert!(error("[payload]\nprivate_tmp = true\n").contains(":2:15: private_tmp is not available"));
    let leftovers = error("[payload]\npid_namespace = true\nkill_leftovers = false\n");
    assert!(leftovers.contains(":3:18: kill_leftovers = false contradicts pid_namespace"), "{leftovers}");
    assert!(error("[trust]\nca_dir = \"certificates\"\n").contains("must be absolute"));
    let plain = "[mapping]\norder = [\"gums\"]\n[mapping.gums]\nendpoints = [\"http://gums/\"]\n";
    assert!(error(plain).contains(":4:14: an endpoint must start with https://"));
}

#[test]
fn a_process_namespace_needs_a_supervisor() {
    let conf = |text| GlexecConf::parse(text).unwrap();
    let (waits, goes) = (conf("[glexec]\nlinger = yes\n"), conf("[glexec]\nlinger = no\n"));
    let payload = |text| parse(text).unwrap().payload;
    assert!(payload("").walls_stand_with(&goes).is_ok());
    let walled = payload("[payload]\npid_namespace = true\n");
    assert!(walled.pid_namespace && walled.walls_stand_with(&waits).is_ok());
    assert!(walled.walls_stand_with(&goes).unwrap_err().contains("set linger = yes"));
    let watched = payload("[payload]\nend_with_caller = true\n");
    assert!(watched.end_with_caller && watched.walls_stand_with(&waits).is_ok());
    assert!(watched.walls_stand_with(&goes).unwrap_err().contains("end_with_caller"));
}

#[test]
fn sessions_of_one_account_are_kept_apart_by_what_the_host_has() {
    let payload = |text: &str| parse(&format!("[payload]\n{text}\n")).unwrap().payload;
    let conf = |linger: &str| GlexecConf::parse(format!("[glexec]\nlinger = {linger}\n")).unwrap();
    let (waits, goes) = (conf("yes"), conf("no"));
    for text in ["", "isolate = \"session\""] {
        assert_eq!(payload(text).isolate, Isolation::Session);
        assert_eq!(payload(text).separation(&goes, false), Ok(Separation::Nothing));
    }
    let apart = payload("isolate = \"account\"");
    assert_eq!(apart.isolate, Isolation::Account);
    assert_eq!(apart.separation(&waits, true), Ok(Separation::Domain));
    assert_eq!(apart.separation(&goes, true), Ok(Separation::Domain), "a domain needs nobody who waits");
    assert_eq!(apart.separation(&waits, false), Ok(Separation::Namespace));
    assert!(apart.separation(&goes, false).unwrap_err().contains("linger = yes"));
    let leaves = payload("isolate = \"account\"\nkill_leftovers = false");
    assert_eq!(leaves.separation(&waits, true), Ok(Separation::Domain));
    assert!(leaves.separation(&waits, false).unwrap_err().contains("kill_leftovers = false"));
}

#[test]
fn the_words_of_isolate_and_target_proxy_are_two_each() {
    let payload = |text: &str| parse(&format!("[payload]\n{text}\n")).unwrap().payload;
    assert_eq!(payload("").target_proxy, TargetProxy::Session);
    assert_eq!(payload("target_proxy = \"session\"").target_proxy, TargetProxy::Session);
    assert_eq!(payload("target_proxy = \"account\"").target_proxy, TargetProxy::Account);
    for key in ["isolate", "target_proxy"] {
        for bad in ["\"Account\"", "\"\"", "\"account \"", "true", "1", "[\"account\"]"] {
            let text = format!("[payload]\n{key} = {bad}\n");
            let error = parse(&text).expect_err(&text);
            assert_eq!(error.position, Some((2, key.len() + 4)), "{error}");
        }
        let error = error(&format!("[payload]\n{key} = \"user\"\n"));
        let (own, other) = (format!("{key} is \"user\""), "write \"session\" or \"account\"");
        assert!(error.contains(&own) && error.contains(other), "{error}");
    }
}

#[test]
fn a_pool_means_its_base_and_digits() {
    let pool = CallerPattern::parse(".ops").unwrap();
    let name = |s| AccountName::parse(s).unwrap();
    assert!(pool.matches(&name("ops001")));
    assert!(!pool.matches(&name("ops")) && !pool.matches(&name("opsx1")) && !pool.matches(&name("xops1")));
}

#[test]
fn a_key_without_effect_is_an_error_with_its_place() {
    for (text, place, reason) in [
        ("[mapping]\norder = []\ngridmapdir = \"/g\"\n", (3, 14), "gridmapdir has no effect"),
        ("[mapping]\ngridmapdir = \"g\"\n", (2, 14), "the path must be absolute"),
        ("[mapping]\ngroup_mapfile = \"/g\"\n", (2, 17), "group_mapfile has no effect"),
        ("[ports]\nenforce = true\n", (2, 11), "enforce has no effect without range"),
        ("[ports]\nenforce = \"require\"\n", (2, 11), "enforce has no effect without range"),
        ("[ports]\nloopback = false\n", (2, 12), "loopback = false has no effect without enforce"),
        ("[ports]\nopener = \"https://fw:8446\"\n", (2, 10), "no effect without range"),
        ("[ports]\nopener = \"fw:8446\"\n", (2, 10), "write https://HOST:PORT/sites/SITE"),
        ("[ports]\nopener = \"http://fw.example.org:8446\"\n", (2, 10), "http:// for localhost only"),
        ("[ports]\nopener = \"http://localhost.example.org/\"\n", (2, 10), "http:// for localhost only"),
        ("[ports]\nopener = \"https://me:secret@fw/\"\n", (2, 10), "no login"),
        (
            "[ports]\nrange = \"40000-40999\"\nenforce = \"always\"\n",
            (3, 11),
            "write true, false or \"require\"",
        ),
        ("[payload]\nnested = \"kill\"\n", (2, 10), "no_new_privs"),
        ("[payload]\nprivate_tmp = true\n", (2, 15), "private_tmp"),
        ("[mapping]\norder = [\"grid-mapfile\", \"grid-mapfile\"]\n", (2, 26), "twice"),
        ("[mapping.scas]\nendpoints = []\n", (2, 13), "[mapping.scas] names no endpoint"),
        ("[mapping.scas]\nendpoints = [\"https://a/\"]\ntimeout = \"0s\"\n", (3, 11), "1s or more"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.position == Some(place) && error.reason.contains(reason), "{error}");
    }
    for text in [
        "[payload]\nnested = \"kill\"\nno_new_privs = false\n",
        "[ports]\nenforce = false\n",
        "[payload]\nnested = \"refuse\"\n",
    ] {
        assert!(parse(text).is_ok(), "{text}");
    }
}

#[test]
fn a_byte_that_is_not_utf_8_is_named_with_its_place() {
    let error = SitePolicy::parse(Path::new("p"), b"[callers]\n# f\xfcr\nallow = []\n").unwrap_err();
    assert_eq!(error.position, Some((2, 4)));
    assert!(error.reason.contains("UTF-8"), "{error}");
}

#[test]
fn accounts_that_begin_with_a_digit_are_names() {
    let policy =
        parse("[accounts]\nallow = [\"20000-29999\", \"4alice\", \"DOM\\\\u\"]\ngids = [\"5\"]\n").unwrap();
    let names: Vec<_> = policy.accounts.names.iter().map(AccountName::as_str).collect();
    assert_eq!(names, ["4alice", "DOM\\u"]);
    let callers = "[callers]\nallow = [\"pilot@dom.org\", \"DOM\\\\pilot\", \"4pilot\", \"robot$\"]\n";
    assert_eq!(parse(callers).unwrap().callers.len(), 4);
}

#[test]
fn accounting_says_how_often_and_what_is_recorded() {
    let parse = |text: &str| SitePolicy::parse(Path::new("policy.toml"), format!("[accounting]\n{text}\n"));
    let default = parse("").unwrap().accounting;
    assert_eq!((default.checkpoint.as_secs(), default.arguments, default.benchmark), (600, true, None));
    let given =
        parse("checkpoint = \"90s\"\narguments = false\nbenchmark = \"HEPscore23 12.5\"").unwrap().accounting;
    assert_eq!((given.checkpoint.as_secs(), given.arguments), (90, false));
    assert_eq!(given.benchmark.as_deref(), Some("HEPscore23 12.5"));
    for bad in [
        "checkpoint = \"0s\"",
        "benchmark = \"12.5\"",
        "benchmark = \"HEPscore23 -1\"",
        "benchmark = \"a b 1\"",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn ports_and_services_are_chosen_by_the_site() {
    let ports = parse("[ports]\nrange = \" 40000 , 40999 \"\nvariables = [\"PILOT_PORTS\"]\n").unwrap().ports;
    assert_eq!((ports.range.unwrap().count(), ports.variables), (1000, Some(vec!["PILOT_PORTS".to_owned()])));
    let services = parse("[services]\ngridftp = 2812\ndcache-data = \"20000,20100\"\n").unwrap().services;
    assert_eq!((services.port("gridftp"), services.dcache_data().count()), (2812, 101));
    for (bad, why) in [
        ("gopher = 70", ":2:1: unknown field `gopher`, expected one of `gram`"),
        ("gridftp = 0", ":2:11: gridftp: write a port"),
        ("gridftp = 65536", ":2:11: gridftp: write a port"),
        ("gridftp = \"2811\"", ":2:11: gridftp: write a port"),
        ("dcache-data = 20000", ":2:15: dcache-data: write \"20000-25000\""),
        ("dcache-data = \"25000-20000\"", ":2:15: dcache-data: port range"),
    ] {
        let said = error(&format!("[services]\n{bad}\n"));
        assert!(said.contains(why), "{bad}: {said}");
    }
    for (bad, why) in [
        ("range = \"40999-40000\"", "it is reversed"),
        ("range = \"40000-70000\"", "beyond 65535"),
        ("range = \"80-90\"", "privileged"),
        ("hosts = { a = \"40000-40009\" }", "the share of a has no [ports] range"),
        ("range = \"40000-40999\"\nhosts = { a = \"40000-40004\" }", "no room for a block"),
        ("range = \"40000-40999\"\nhosts = { a = \"40009-40000\" }", "it is reversed"),
        ("range = \"40000-40999\"\nhosts = { a = \"40000-40009\", A = \"40010-40019\" }", "are one host"),
    ] {
        let said = error(&format!("[ports]\n{bad}\n"));
        assert!(said.contains(why), "{bad}: {said}");
    }
}

#[test]
fn a_range_is_kept_unless_the_site_says_no() {
    let ports = |text: &str| parse(&format!("[ports]\n{text}\n")).unwrap().ports;
    let range = "range = \"40000-40999\"\n";
    assert_eq!(ports("").enforce, Enforce::Off);
    assert_eq!(ports("").wall(None), None);
    for (more, enforce) in [
        ("", Enforce::WherePossible),
        ("enforce = true", Enforce::WherePossible),
        ("enforce = \"require\"", Enforce::Required),
        ("enforce = false", Enforce::Off),
    ] {
        let found = ports(&format!("{range}{more}"));
        assert!(found.enforce == enforce && found.loopback, "{more}");
    }
    let strict = ports(&format!("{range}enforce = \"require\"\nloopback = false"));
    let lease = PortRange::new(40_000, 40_009);
    assert_eq!(strict.wall(lease), Some(PortWall { lease, loopback: false, required: true }));
}

#[test]
fn a_caller_gives_only_what_the_host_has_and_no_living_session() {
    let ports = |text: &str| parse(&format!("[ports]\n{text}\n")).unwrap().ports;
    let lease = |text: &str| PortRange::parse(text).unwrap();
    let plain = ports("range = \"40000-40999\"");
    assert!(plain.may_give(lease("40000-40999"), "wn1", &[]).is_ok());
    for outside in ["39999-40001", "40999-41000", "50000-50009", "1024-65535"] {
        let why = plain.may_give(lease(outside), "wn1", &[]).unwrap_err();
        assert!(why.contains("leave the range of this host, 40000-40999"), "{why}");
    }
    let taken = [lease("40010-40019"), lease("40030-40039")];
    assert!(plain.may_give(lease("40020-40029"), "wn1", &taken).is_ok());
    for clash in ["40019-40020", "40000-40999", "40031-40031", "40029-40030"] {
        assert!(
            plain.may_give(lease(clash), "wn1", &taken).unwrap_err().contains("a living session"),
            "{clash}"
        );
    }
    assert!(ports("").may_give(lease("40000-40009"), "wn1", &[]).unwrap_err().contains("leases none"));
    let shares = ports(
        "range = \"40000-40999\"\nhosts = { \"wn1.site.org\" = \"40000-40099\", \"wn2.site.org\" = \"40100-40199\" }",
    );
    for name in ["wn1.site.org", "wn1"] {
        assert!(shares.may_give(lease("40000-40009"), name, &[]).is_ok(), "{name}");
        assert!(shares.may_give(lease("40100-40109"), name, &[]).is_err(), "{name}");
    }
}
