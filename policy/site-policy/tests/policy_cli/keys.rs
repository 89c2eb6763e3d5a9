//! Every key of `policy.toml` has an effect, and a row that shows it.
//!
//! The rows are compared with the keys that the parser knows: a key without a row fails here, and so does a row without a key.
//! What a key changes shows either in what `site-policy explain` asks of the verifier and the mapping client, or in
//! its verdict, or in a test that plays the real program; then the row names that test, and it must exist.

use crate::site::{Site, me, stdout};
use helper::{MapRequest, VerifyRequest};
use policy::SitePolicy;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where a key's effect shows.
enum Effect {
    /// `glexec-verify` is asked something else.
    Verifier,
    /// `glexec-map` is asked something else.
    Client,
    /// The verdict of `explain` is another one.
    Verdict,
    /// `site-policy services` shows another port.
    Services,
    /// The key's meaning differs, and this test, `file::name`, shows what the program makes of it.
    Played(&'static str),
    /// Setting the key is an error with this reason: this version cannot do it.
    Refused(&'static str),
}
use Effect::{Client, Played, Refused, Services, Verdict, Verifier};

/// Key, a value that is not the default, and where the effect shows. `@` is the site's directory.
const ROWS: &[(&str, &str, Effect)] = &[
    ("callers.allow", "[\"daemon\"]", Verdict),
    ("accounts.allow", "[\"20000\"]", Verdict),
    ("accounts.gids", "[\"20000\"]", Verdict),
    (
        "accounts.keep_gids",
        "[\"65400-65500\"]",
        Played("policy/src/judge_tests.rs::a_listed_account_is_permitted_and_keeps_tracking_groups"),
    ),
    ("trust.ca_dir", "\"@/other\"", Verifier),
    ("trust.voms_dir", "\"@/other\"", Verifier),
    ("trust.require_crl", "true", Verifier),
    ("trust.max_proxy_lifetime", "\"1h\"", Verifier),
    ("trust.allow_limited", "false", Verifier),
    ("trust.allow_legacy", "true", Verifier),
    ("trust.allow_sha1", "true", Verifier),
    ("trust.min_rsa_bits", "4096", Verifier),
    ("trust.min_proxy_rsa_bits", "2048", Verifier),
    ("bans.dn_file", "\"@/bans-of-alice\"", Verdict),
    ("bans.fqan_file", "\"@/bans-of-cms\"", Verdict),
    ("mapping.order", "[\"voms-mapfile\"]", Verdict),
    ("mapping.grid_mapfile", "\"@/empty\"", Verdict),
    ("mapping.voms_mapfile", "\"@/all-to-root\"", Verdict),
    (
        "mapping.group_mapfile",
        "\"@/empty\"",
        Played("tests/tests/glexec_pools.rs::groups_stand_in_the_lease_as_lcmaps_writes_them"),
    ),
    (
        "mapping.gridmapdir",
        "\"@/empty\"",
        Played("tests/tests/glexec_pools.rs::glexec_and_lcmaps_share_one_directory"),
    ),
    ("mapping.cache_ttl", "\"0s\"", Played("tests/tests/glexec_cache.rs::without_cache_ttl_nothing_is_kept")),
    ("mapping.gums.endpoints", "[\"https://other/\"]", Client),
    ("mapping.gums.cert", "\"@/empty\"", Client),
    ("mapping.gums.key", "\"@/empty\"", Client),
    ("mapping.gums.timeout", "\"3s\"", Client),
    ("mapping.scas.endpoints", "[\"https://other/\"]", Client),
    ("mapping.scas.cert", "\"@/empty\"", Client),
    ("mapping.scas.key", "\"@/empty\"", Client),
    ("mapping.scas.timeout", "\"3s\"", Client),
    ("mapping.argus.endpoints", "[\"https://other/\"]", Client),
    ("mapping.argus.cert", "\"@/empty\"", Client),
    ("mapping.argus.key", "\"@/empty\"", Client),
    ("mapping.argus.timeout", "\"3s\"", Client),
    ("mapping.json.endpoints", "[\"https://other/\"]", Client),
    ("mapping.json.cert", "\"@/empty\"", Client),
    ("mapping.json.key", "\"@/empty\"", Client),
    ("mapping.json.timeout", "\"3s\"", Client),
    (
        "payload.no_new_privs",
        "false",
        Played("tests/tests/security_nesting.rs::without_no_new_privs_root_itself_sees_who_calls"),
    ),
    (
        "payload.nested",
        "\"kill\"\nno_new_privs = false",
        Played("tests/tests/security_nesting.rs::nested_kill_ends_the_offender_s_session"),
    ),
    (
        "payload.kill_leftovers",
        "false",
        Played(
            "tests/tests/contract_process/streams.rs::a_background_process_that_may_live_on_does_not_hold_the_caller",
        ),
    ),
    ("payload.private_tmp", "true", Refused("private_tmp is not available in this version")),
    (
        "payload.pid_namespace",
        "true",
        Played("tests/tests/security_namespaces.rs::a_payload_sees_and_signals_its_own_processes_only"),
    ),
    (
        "payload.end_with_caller",
        "true",
        Played("tests/tests/glexec_sessions.rs::a_payload_ends_with_its_caller_when_the_policy_says_so"),
    ),
    (
        "payload.isolate",
        "\"account\"",
        Played(
            "tests/tests/security_supervisor.rs::sessions_of_one_account_are_kept_apart_where_the_site_wants_it",
        ),
    ),
    (
        "payload.target_proxy",
        "\"account\"",
        Played("tests/tests/contract_process/proxies.rs::the_old_name_of_the_copy_is_the_site_s_choice"),
    ),
    (
        "ports.range",
        "\"41000-41999\"",
        Played(
            "tests/tests/pilot_flow.rs::payloads_at_the_same_time_get_different_ports_and_no_more_than_there_are",
        ),
    ),
    (
        "ports.per_payload",
        "20",
        Played(
            "tests/tests/pilot_flow.rs::payloads_at_the_same_time_get_different_ports_and_no_more_than_there_are",
        ),
    ),
    (
        "ports.default",
        "5",
        Played("tests/tests/pilot_flow.rs::the_site_decides_whether_a_payload_has_ports_unasked"),
    ),
    (
        "ports.quarantine",
        "\"5s\"",
        Played("pilot/agent/src/ports.rs::used_ports_rest_and_looking_does_not_tire_them"),
    ),
    (
        "ports.enforce",
        "\"require\"",
        Played("tests/tests/security_ports.rs::where_no_wall_can_be_had_the_policy_decides"),
    ),
    (
        "ports.loopback",
        "false",
        Played(
            "tests/tests/security_ports.rs::without_loopback_nobody_is_heard_on_ports_that_are_not_leased",
        ),
    ),
    (
        "ports.hostname",
        "\"nat.example.org\"",
        Played(
            "tests/tests/pilot_flow.rs::payloads_at_the_same_time_get_different_ports_and_no_more_than_there_are",
        ),
    ),
    (
        "ports.opener",
        "\"https://gridfw.example.org:8443\"",
        Played("tests/tests/pilot_openings.rs::ports_are_open_from_before_the_start_until_after_the_end"),
    ),
    (
        "ports.hosts",
        "{ \"wn1\" = \"40000-40099\" }",
        Played("tests/tests/pilot_flow.rs::the_site_decides_whether_a_payload_has_ports_unasked"),
    ),
    (
        "ports.variables",
        "[\"PILOT_PORTS\"]",
        Played("tests/tests/pilot_flow.rs::the_site_decides_whether_a_payload_has_ports_unasked"),
    ),
    ("services.gram", "4711", Services),
    ("services.gram3", "4711", Services),
    ("services.gram4", "4711", Services),
    ("services.mds", "4711", Services),
    ("services.mds3", "4711", Services),
    ("services.mds4", "4711", Services),
    ("services.gridftp", "4711", Services),
    ("services.gsissh", "4711", Services),
    ("services.myproxy", "4711", Services),
    ("services.dcap", "4711", Services),
    ("services.gsidcap", "4711", Services),
    ("services.dcache-gridftp", "4711", Services),
    ("services.srm", "4711", Services),
    ("services.queue", "4711", Services),
    ("services.relay", "4711", Services),
    ("services.mapping", "4711", Services),
    ("services.accounting", "4711", Services),
    ("services.gridfw", "4711", Services),
    ("services.dns", "4711", Services),
    ("services.dcache-data", "\"4711-4712\"", Services),
    (
        "accounting.spool",
        "\"@/spool\"",
        Played("policy/site-policy/tests/policy_cli/check.rs::places_that_are_missing_come_with_the_remedy"),
    ),
    (
        "accounting.require_record",
        "false",
        Played(
            "tests/tests/accounting_records.rs::what_is_recorded_and_whether_it_must_be_is_the_site_s_choice",
        ),
    ),
    (
        "accounting.checkpoint",
        "\"1s\"",
        Played(
            "tests/tests/accounting_records.rs::usage_of_a_long_payload_is_recorded_while_it_runs_and_outlives_the_node",
        ),
    ),
    (
        "accounting.arguments",
        "false",
        Played(
            "tests/tests/accounting_records.rs::what_is_recorded_and_whether_it_must_be_is_the_site_s_choice",
        ),
    ),
    (
        "accounting.benchmark",
        "\"HEPscore23 12.5\"",
        Played(
            "tests/tests/accounting_records.rs::usage_of_a_long_payload_is_recorded_while_it_runs_and_outlives_the_node",
        ),
    ),
];

/// A policy, as tables of keys.
#[derive(Clone)]
struct Tables(BTreeMap<String, BTreeMap<String, String>>);

impl Tables {
    /// Whoever runs the tests may call, and Alice maps to `nobody`.
    fn new(source: &str) -> Self {
        let mut tables = Self(BTreeMap::new());
        tables.set("callers.allow", &format!("[{:?}]", me()));
        tables.set("accounts.allow", "[\"nobody\"]");
        tables.set("accounts.gids", "[\"65534\"]");
        tables.set("mapping.order", source);
        tables.set("mapping.grid_mapfile", "\"@/grid-mapfile\"");
        tables.set("mapping.voms_mapfile", "\"@/empty\"");
        tables.set("bans.dn_file", "\"@/empty\"");
        tables.set("ports.range", "\"40000-40999\"");
        tables
    }

    fn with(&self, key: &str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.set(key, value);
        changed
    }

    fn set(&mut self, key: &str, value: &str) {
        let (table, key) = key.rsplit_once('.').unwrap();
        self.0.entry(table.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }

    fn text(&self, dir: &Path) -> String {
        let table = |(name, keys): (&String, &BTreeMap<String, String>)| {
            let keys: String = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            format!("[{name}]\n{keys}")
        };
        self.0.iter().map(table).collect::<String>().replace('@', dir.to_str().unwrap())
    }
}

fn parse(text: &str) -> Result<SitePolicy, String> {
    SitePolicy::parse(Path::new("policy.toml"), text).map_err(|e| e.reason)
}

/// The names that may stand in a table, as the parser lists them when it meets an unknown one; empty for what is no table.
fn names_in(table: Option<&str>) -> Vec<String> {
    let head = table.map(|table| format!("[{table}]\n")).unwrap_or_default();
    let reason = parse(&format!("{head}no_such_key = 1\n")).unwrap_err();
    let list = reason.strip_prefix("unknown field `no_such_key`, expected ").unwrap_or_default();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every key, with the tables that it stands in.
fn keys_of_the_parser() -> Vec<String> {
    let mut keys = Vec::new();
    let mut tables = names_in(None);
    assert!(tables.len() >= 8, "{tables:?}");
    while let Some(table) = tables.pop() {
        match names_in(Some(&table)) {
            names if names.is_empty() => keys.push(table),
            names => tables.extend(names.into_iter().map(|name| format!("{table}.{name}"))),
        }
    }
    keys.sort();
    keys
}

#[test]
fn every_key_that_the_parser_knows_has_a_row() {
    let mut rows: Vec<&str> = ROWS.iter().map(|(key, ..)| *key).collect();
    rows.sort_unstable();
    assert_eq!(keys_of_the_parser(), rows, "a key without a row, or a row without a key");
}

/// A site whose verifier and mapping client keep what they are asked.
fn site() -> Site {
    let site = Site::new();
    site.write("glexec.conf", "[glexec]\n");
    site.write("empty", "");
    site.write("bans-of-alice", "\"/CN=Alice\"\n");
    site.write("bans-of-cms", "/cms\n");
    site.write("all-to-root", "\"*\" root\n");
    site.write("credential", "a certificate and its key\n");
    site.helpers_keep_questions();
    site
}

/// What `explain` says about Alice under a policy, and what it asked.
fn explained(site: &Site, policy: &Tables) -> (String, Option<VerifyRequest>, Option<MapRequest>) {
    site.write("policy.toml", &policy.text(site.dir.path()));
    let said = String::from_utf8(site.explain(&[]).stdout).unwrap();
    let question = |name: &str| fs::read(site.path("asked").join(name)).ok();
    let verify = question("glexec-verify").map(|frame| VerifyRequest::decode(&frame).unwrap());
    let map = question("glexec-map").map(|frame| MapRequest::decode(&frame).unwrap());
    (said, verify.map(|asked| VerifyRequest { now: 0, ..asked }), map)
}

fn played(test: &str) {
    let (file, name) = test.split_once("::").unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(top.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert!(text.contains(&format!("fn {name}(")), "{file} has no test {name}");
}

#[test]
fn every_key_has_the_effect_that_its_row_names() {
    let site = site();
    let files = Tables::new("[\"voms-mapfile\", \"grid-mapfile\"]");
    for (key, value, effect) in ROWS {
        let base = match key.split('.').nth(1).filter(|_| matches!(effect, Client)) {
            None => files.clone(),
            Some(service) => {
                let section = format!("mapping.{service}");
                Tables::new(&format!("[{service:?}]"))
                    .with(&format!("{section}.endpoints"), "[\"https://service/\"]")
                    .with(&format!("{section}.cert"), "\"@/credential\"")
                    .with(&format!("{section}.key"), "\"@/credential\"")
            }
        };
        let changed = base.with(key, value);
        let meaning = |policy: &Tables| parse(&policy.text(site.dir.path()));
        let before = meaning(&base).unwrap_or_else(|why| panic!("{key}: {why}"));
        if let Refused(reason) = effect {
            let why = meaning(&changed).expect_err(key);
            assert!(why.contains(reason), "{key}: {why}");
            continue;
        }
        let after = meaning(&changed).unwrap_or_else(|why| panic!("{key}: {why}"));
        assert_ne!(format!("{before:?}"), format!("{after:?}"), "{key} is read and dropped");
        if matches!(effect, Services) {
            let shown = |policy: &Tables| {
                site.write("policy.toml", &policy.text(site.dir.path()));
                stdout(&site.services())
            };
            let (before, after) = (shown(&base), shown(&changed));
            assert!(!before.contains("4711") && after.contains("4711"), "{key}: {after}");
            continue;
        }
        if let Played(test) = effect {
            played(test);
            continue;
        }
        let (before, after) = (explained(&site, &base), explained(&site, &changed));
        let differs = match effect {
            Verifier => before.1.is_some() && after.1.is_some() && before.1 != after.1,
            Client => before.2.is_some() && after.2.is_some() && before.2 != after.2,
            _ => before.0.contains("would run as nobody") && before.0 != after.0,
        };
        assert!(differs, "{key} changes nothing: {before:?} {after:?}");
    }
}
