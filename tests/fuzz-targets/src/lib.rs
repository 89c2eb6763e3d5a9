//! What is fuzzed: one function for each parser of hostile or half-trusted bytes.
//!
//! A target takes any bytes and returns; a panic is a finding. It asks for more than "does not crash": what one side
//! writes the other must read, a credential nobody signed must be nobody's, a reason must stay on its line.
//!
//! The same functions run for hours under libFuzzer (`make fuzz`, `tests/fuzz`) and in a second as a plain test
//! (`tests/tests/fuzz_corpus.rs`). `docs/fuzzing.md` tells how to add one.
//!
//! | looking for | see |
//! |---|---|
//! | proxies, chains, attribute certificates, CRLs, keys, requests | [`certificates`] |
//! | `policy.toml`, `glexec.conf`, map files, signing policies, LSC | [`files`] |
//! | frames between `glexec` and its children | [`frames`] |
//! | messages of mapping services | [`messages`] |
//! | argv and environment, `GLEXEC_ENV` | [`requests`] |
//! | usage records | [`records`] |
//! | frames between `pilot run` and its runner | [`runner`] |
//! | names, ranges, durations | [`values`] |
//! | deterministic mutations for the plain test | [`mutate`] |
//! | a byte string as a source of typed values | [`source`] |

pub mod certificates;
pub mod files;
pub mod frames;
pub mod messages;
pub mod mutate;
pub mod records;
pub mod requests;
pub mod runner;
pub mod source;
pub mod values;

/// A function that takes any bytes and panics when it finds something.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus and of its program in `tests/fuzz`.
pub const TARGETS: [(&str, Target); 23] = [
    ("argus_answer", messages::argus_answer),
    ("attribute_certificate", certificates::attribute_certificate),
    ("crl", certificates::crl),
    ("delegation", certificates::delegation),
    ("der_chain", certificates::der_chain),
    ("environment_blob", requests::environment_blob),
    ("frames", frames::decode),
    ("frames_round_trip", frames::round_trip),
    ("glexec_conf", files::glexec_conf),
    ("lsc", files::lsc),
    ("mapfile", files::mapfile),
    ("pem_chain", certificates::pem_chain),
    ("policy_toml", files::policy_toml),
    ("private_key", certificates::private_key),
    ("record_file", records::file),
    ("record_line", records::line),
    ("request", requests::request),
    ("runner_frames", runner::frames),
    ("signing_policy", files::signing_policy),
    ("values", values::values),
    ("wildcard", files::wildcard),
    ("xacml_answer", messages::answer),
    ("xacml_query", messages::query),
];

/// Fails unless the text can stand in a log line as it is.
#[track_caller]
pub(crate) fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "control characters in a message: {text:?}");
}
