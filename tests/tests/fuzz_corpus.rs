//! The fuzz targets as a plain test: every file of every corpus, and a fixed number of mutations of each.
//!
//! No fuzzing toolchain is needed, and every run does the same. `make fuzz` looks further; what it finds becomes a file
//! in the corpus and a test below that is named after it. See `docs/fuzzing.md`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fuzz_targets::mutate::{Random, mutate};
use fuzz_targets::{TARGETS, Target};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Mutations of each file; PEM files with their signatures cost a thousand times as much as a port range.
const MUTATIONS: usize = 300;
/// Longer inputs than this get fewer of them.
const SMALL: usize = 1024;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    let name = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|p| (name(p), fs::read(p).unwrap())).collect()
}

/// Runs one input; keeps it and tells where when the target panics.
fn run(name: &str, target: Target, origin: &str, input: &[u8]) {
    if catch_unwind(|| target(input)).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{origin}"));
        fs::write(&kept, input).unwrap();
        panic!("target {name} fails on {origin}; the input is kept in {}", kept.display());
    }
}

fn replay(names: &[&str]) {
    for name in names {
        let (_, target) = TARGETS.iter().find(|(n, _)| n == name).unwrap();
        let files = corpus(name);
        assert!(!files.is_empty(), "{name} has no corpus");
        for (index, (file, seed)) in files.iter().enumerate() {
            run(name, *target, file, seed);
            let mut random = Random::of(&format!("{name}/{file}"));
            let (_, other) = &files[(index + 1) % files.len()];
            for n in 0..MUTATIONS / (1 + seed.len() / SMALL) {
                run(name, *target, &format!("{file}-{n}"), &mutate(&mut random, seed, other));
            }
        }
    }
}

const CREDENTIALS: [&str; 6] =
    ["attribute_certificate", "crl", "delegation", "der_chain", "pem_chain", "private_key"];
const FILES: [&str; 6] = ["glexec_conf", "lsc", "mapfile", "policy_toml", "signing_policy", "wildcard"];
const PEERS: [&str; 6] =
    ["argus_answer", "frames", "frames_round_trip", "runner_frames", "xacml_answer", "xacml_query"];
const CALLERS: [&str; 5] = ["environment_blob", "record_file", "record_line", "request", "values"];

#[test]
fn credentials_survive_mutation() {
    replay(&CREDENTIALS);
}

#[test]
fn files_of_the_site_survive_mutation() {
    replay(&FILES);
}

#[test]
fn words_of_peers_survive_mutation() {
    replay(&PEERS);
}

#[test]
fn requests_and_records_survive_mutation() {
    replay(&CALLERS);
}

#[test]
fn every_target_is_replayed_and_has_its_program() {
    let mut replayed: Vec<&str> = [&CREDENTIALS[..], &FILES, &PEERS, &CALLERS].concat();
    replayed.sort_unstable();
    assert_eq!(replayed, TARGETS.map(|(name, _)| name));
    for (name, _) in TARGETS {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
        assert!(program.is_file(), "{} is missing", program.display());
    }
}

/// Seeds that only reach the first check find nothing: the good ones must be accepted.
#[test]
fn the_seeds_are_what_they_are_called() {
    let trust = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/trust");
    let now = fs::read_to_string(trust.join("now")).unwrap().trim().parse().unwrap();
    for (name, credential) in corpus("pem_chain") {
        let verdict = credential::verify(&helper::VerifyRequest {
            credential,
            ca_dir: trust.join("certificates"),
            voms_dir: trust.join("vomsdir"),
            require_crl: true,
            max_proxy_lifetime: std::time::Duration::from_secs(7 * 86_400),
            allow_limited: true,
            rules: identity::ChainRules { allow_legacy: true, ..identity::ChainRules::default() },
            require_key: false,
            now,
        });
        let good = ["draft", "legacy", "limited", "rfc", "second", "user", "voms"].contains(&name.as_str());
        assert_eq!(verdict.is_ok(), good, "{name}: {verdict:?}");
    }
}

/// Runs one file of a corpus: a finding of `make fuzz`, and the test is named after it.
fn finding(name: &str, file: &str) {
    let (_, input) = corpus(name).into_iter().find(|(f, _)| f == file).unwrap();
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).unwrap();
    target(&input);
}

/// A PEM label stood in the refusal as it was, with the escapes that a terminal obeys.
#[test]
fn label_with_escape() {
    finding("pem_chain", "label_with_escape");
    finding("delegation", "label_with_escape");
}

/// A word that is not known was told as it was, with its control characters.
#[test]
fn unknown_word_with_escape() {
    finding("runner_frames", "unknown_word_with_escape");
}

/// The reason of a refusal was cut at 500 bytes before they were escaped, so it was cut again where it was read.
#[test]
fn reason_of_many_escapes() {
    finding("frames_round_trip", "reason_of_many_escapes");
    let line = identity::one_line(&"\u{fc}".repeat(400));
    assert_eq!(line.len(), 500);
    assert_eq!(identity::one_line(&line), line);
}

/// An unknown option is taken for a command when it has a slash and is not UTF-8: harmless, and known.
#[test]
fn option_that_is_not_utf8() {
    finding("request", "option_that_is_not_utf8");
}
