//! Every key of `queue.toml` has an effect, and a row that names the test which shows it.
//!
//! The rows are compared with the keys that the parser knows: a key without a row fails here, and so does a row without a key, a
//! value that changes nothing, and a test that does not exist.

use super::retention::{digest, log_of};
use super::support::World;
use crate::config::{Args, Settings};
use pilot_api::*;
use serde_json::json;
use std::path::Path;

/// Key, a value that is not the default, and the test of its effect: `file::name`, from the top of the sources.
const ROWS: &[(&str, &str, &str)] = &[
    ("blob_dir", "\"/x/files\"", "pilot/queue/src/tests/keys.rs::files_lie_where_blob_dir_says"),
    ("ca_dir", "\"/x/ca\"", "tests/tests/servers.rs::check_says_what_is_wrong_before_a_server_starts"),
    ("cert", "\"/x/cert\"", "tests/tests/servers.rs::check_says_what_is_wrong_before_a_server_starts"),
    (
        "factory_dn",
        "[\"/CN=F\"]",
        "pilot/queue/src/tests/factories.rs::only_a_factory_sees_what_waits_for_all_users",
    ),
    ("full_proxies", "true", "pilot/queue/src/tests/keys.rs::full_proxies_are_for_those_who_ask_for_them"),
    (
        "grace",
        "\"7s\"",
        "pilot/queue/src/tests/leases.rs::a_lost_lease_requeues_once_and_the_late_report_is_refused",
    ),
    ("high_water", "50", "pilot/queue/src/tests/long_life.rs::a_nearly_full_disk_takes_no_new_inputs"),
    ("keep_inputs", "7", "pilot/queue/src/tests/retention.rs::each_kind_of_file_has_its_bound"),
    ("keep_logs", "7", "pilot/queue/src/tests/retention.rs::each_kind_of_file_has_its_bound"),
    ("keep_outputs", "7", "pilot/queue/src/tests/retention.rs::each_kind_of_file_has_its_bound"),
    ("key", "\"/x/key\"", "tests/tests/servers.rs::check_says_what_is_wrong_before_a_server_starts"),
    ("lease", "\"7s\"", "pilot/queue/src/tests/leases.rs::heartbeats_keep_a_lease"),
    ("least_rate", "7", "credential/transport/src/pace.rs::patience_is_earned_by_bytes"),
    (
        "listen",
        "\"localhost:7\"",
        "tests/tests/servers.rs::a_name_is_an_address_and_sighup_never_ends_a_server",
    ),
    ("log_file", "\"/x/log\"", "tests/tests/servers.rs::the_log_can_be_a_file_that_is_rotated"),
    ("max_array", "7", "pilot/queue/src/tests/refusals.rs::what_is_malformed_is_named"),
    ("max_attempts", "7", "pilot/queue/src/tests/leases.rs::a_payload_that_is_lost_too_often_fails"),
    ("max_blob", "7", "pilot/queue/src/tests/refusals.rs::blobs_are_checked_and_private"),
    ("max_connections", "7", "pilot/queue/src/tests/keys.rs::what_the_server_gives_away_follows_the_keys"),
    ("max_log", "7", "pilot/queue/src/files.rs::a_full_log_ends_with_one_marker"),
    (
        "max_user_requests",
        "7",
        "credential/transport/tests/https.rs::one_user_takes_one_users_share_of_requests",
    ),
    ("max_user_storage", "7", "pilot/queue/src/tests/keys.rs::one_user_has_so_many_bytes_of_inputs"),
    (
        "notify_private",
        "true",
        "pilot/queue/src/tests/events.rs::callbacks_come_signed_in_order_and_again_until_they_are_taken",
    ),
    ("pilot_dn", "[\"/CN=P\"]", "pilot/queue/src/tests/refusals.rs::users_are_no_pilots"),
    (
        "proxy_key",
        "\"rsa\"",
        "pilot/queue/src/tests/delegation.rs::keys_are_of_the_kind_that_the_operator_chose",
    ),
    ("require_crl", "true", "tests/tests/grid_proxies.rs::keys_and_trust_are_judged_alike"),
    (
        "require_switch",
        "true",
        "pilot/queue/src/tests/switching.rs::a_pilot_that_does_not_switch_is_refused_where_that_is_required",
    ),
    ("retention", "\"7d\"", "pilot/queue/src/tests/long_life.rs::what_is_over_is_forgotten_in_time"),
    ("stall", "\"7s\"", "credential/transport/tests/https.rs::bodies_that_do_not_move_end"),
    ("store", "\"sqlite:/x/other.db\"", "pilot/queue/src/tests/leases.rs::a_restart_loses_nothing"),
    ("voms_dir", "\"/x/voms\"", "pilot/queue/src/tests/keys.rs::whom_to_trust_follows_the_keys"),
];

const NEEDED: &str = "listen = \"localhost:1\"\nstore = \"sqlite:/x/queue.db\"\ncert = \"/c\"\nkey = \"/k\"\nca_dir = \"/ca\"\n";

/// What a file comes to, the required keys being there.
fn settings(key: &str, line: &str) -> Result<Settings, String> {
    let others = NEEDED.lines().filter(|other| !other.starts_with(&format!("{key} =")));
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = others.chain([line]).map(|line| format!("{line}\n")).collect::<String>();
    std::fs::write(file.path(), text).unwrap();
    Settings::from_args(Args { config: Some(file.path().into()), ..Args::default() })
}

#[test]
fn every_key_that_the_parser_knows_has_a_row() {
    let unknown = settings("", "no_such_key = 1").unwrap_err();
    let known = unknown.split("expected one of").nth(1).unwrap();
    let mut known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    known.sort_unstable();
    let mut rows: Vec<_> = ROWS.iter().map(|(key, ..)| *key).collect();
    rows.sort_unstable();
    assert_eq!(known, rows, "a key without a row, or a row without a key");
}

#[test]
fn every_row_changes_something_and_names_a_test() {
    let before = format!("{:?}", settings("", "").unwrap());
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (key, value, test) in ROWS {
        let after = settings(key, &format!("{key} = {value}")).unwrap_or_else(|why| panic!("{key}: {why}"));
        assert_ne!(before, format!("{after:?}"), "{key} is read and dropped");
        let (file, name) = test.split_once("::").unwrap();
        let text = std::fs::read_to_string(top.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains(&format!("fn {name}(")), "{file} has no test {name}");
    }
}

#[test]
fn what_the_server_gives_away_follows_the_keys() {
    let limits = |line: &str| settings("", line).unwrap().limits();
    assert_eq!(limits("max_connections = 7").connections, 7);
    let user = limits("max_user_requests = 7");
    assert_eq!((user.requests_per_subject, user.connections_per_subject), (7, 14));
    assert_eq!(limits("stall = \"7s\"").stall.as_secs(), 7);
    assert_eq!(limits("least_rate = 7").least_rate, 7);
    assert!(limits("pilot_dn = [\"/CN=P\"]").trusted.contains("/CN=P"));
    for wrong in ["max_connections = -1", "stall = \"7\"", "least_rate = \"x\"", "keep_logs = -1"] {
        let (key, why) = (wrong.split(' ').next().unwrap(), settings("", wrong).unwrap_err());
        assert!(why.contains(key) || why.contains("line 6"), "{wrong}: {why}");
    }
}

#[test]
fn whom_to_trust_follows_the_keys() {
    let trust = |line: &str| settings("ca_dir", line).unwrap().trust;
    assert_eq!(trust("ca_dir = \"/x/ca\"").voms_dir, Path::new("/x/vomsdir"), "beside it");
    assert_eq!(trust("voms_dir = \"/x/voms\"").voms_dir, Path::new("/x/voms"));
    assert!(trust("require_crl = true").require_crl && !trust("").require_crl);
}

#[tokio::test]
async fn files_lie_where_blob_dir_says() {
    let elsewhere = tempfile::tempdir().unwrap();
    let place = elsewhere.path().join("files");
    let w = World::with(|s| s.files.clone_from(&place)).await;
    let (_, _, lease) = w.leased().await;
    log_of(&w, &lease, "text").await;
    assert_eq!(std::fs::read_dir(place.join("logs")).unwrap().count(), 1);
}

#[tokio::test]
async fn full_proxies_are_for_those_who_ask_for_them() {
    for limited in [true, false] {
        let w = World::with(|s| s.limited = limited).await;
        let (_, _, lease) = w.leased().await;
        let (_, csr) = delegation::new_request().unwrap();
        let path = format!("/v1/attempts/{}/delegation", lease.attempt);
        let signed: SignedChain =
            w.post(&w.pilot, &path, json!({"lease": lease.lease, "csr": csr})).await.json();
        let blocks = credential::split_pem(signed.chain.as_bytes()).unwrap();
        let chain = credential::pem::certificates(&blocks).unwrap();
        let now = crate::engine::now() / 1000;
        let identity = credential::verify_chain(&chain, &w.queue.settings.trust, now).unwrap();
        assert_eq!(identity.limited, limited);
    }
}

#[tokio::test]
async fn one_user_has_so_many_bytes_of_inputs() {
    let w = World::with(|s| s.max_user_storage = 7).await;
    let put =
        async |who, text: &str| w.put(who, &format!("/v1/blobs/{}", digest(text)), text.to_owned()).await;
    put(&w.alice, "12345").await.ok();
    put(&w.alice, "12345").await.ok();
    put(&w.alice, "678").await.refused(413, "storage_share");
    put(&w.alice, "67").await.ok();
    put(&w.bob, "678").await.ok();
}
