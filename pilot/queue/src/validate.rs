//! What the queue accepts from outside, before anything is stored. Errors name the field, the reason and the remedy.

use super::problem::{invalid, unsatisfiable};
use crate::problem::Refusal;
use identity::one_line;
use pilot_api::{AttemptResult, InputFile, Outcome, PayloadSpec, Registration, Report, Submission, Sync};
use pilot_core::rules::is_leased;
use std::collections::HashSet;

const MAX_WORDS: usize = 65_536;
const MAX_FILES: usize = 10_000;
const MAX_CORES: u32 = 4_096;

fn refuse<T>(field: &str, rule: &str) -> Result<T, Refusal> {
    Err(invalid(format!("{field}: {rule}")))
}

/// Checks a submission; `max_array` is the largest number of elements.
pub fn submission(submission: &Submission, max_array: u64) -> Result<(), Refusal> {
    spec(&submission.spec)?;
    let Some((low, high)) = submission.array else {
        return Ok(());
    };
    if low > high || i64::try_from(high).is_err() {
        return refuse("array", "write the lower index first");
    }
    if high - low >= max_array {
        let title = format!("array: this queue takes at most {max_array} elements at once; submit in parts");
        return Err(unsatisfiable("array_too_large", title));
    }
    Ok(())
}

fn spec(spec: &PayloadSpec) -> Result<(), Refusal> {
    if spec.command.first().is_none_or(String::is_empty) {
        return refuse("command", "name a program");
    }
    if spec.command.len() + spec.env.len() > MAX_WORDS {
        return refuse("command", "too many arguments and variables; pass them in an input file");
    }
    let values = spec.env.iter().flat_map(|(k, v)| [k, v]);
    if spec.command.iter().chain(values).any(|s| s.contains('\0')) {
        return refuse("command", "arguments and variables cannot contain NUL");
    }
    if spec.env.keys().any(|k| k.is_empty() || k.contains('=')) {
        return refuse("env", "a name is not empty and has no '='");
    }
    inputs(&spec.inputs)?;
    if spec.outputs.len() > MAX_FILES || !spec.outputs.iter().all(|p| is_inside(p)) {
        return refuse("outputs", "patterns are relative, without '..'");
    }
    if !(1..=MAX_CORES).contains(&spec.cores) {
        return refuse("cores", "ask for 1 to 4096");
    }
    for (field, value) in [("memory", spec.memory), ("walltime", spec.walltime)] {
        if value.is_some_and(|v| v == 0 || v > 1 << 50) {
            return refuse(field, "must be above 0 and below 2^50; leave it out for no limit");
        }
    }
    if spec.notify.as_deref().is_some_and(|url| !is_web_address(url)) {
        return refuse("notify", "use an http:// or https:// address without user name");
    }
    Ok(())
}

fn inputs(inputs: &[InputFile]) -> Result<(), Refusal> {
    if inputs.len() > MAX_FILES {
        return refuse("inputs", "too many files; pack them");
    }
    let mut seen = HashSet::new();
    for file in inputs {
        if !is_inside(&file.path) || !seen.insert(&file.path) {
            return refuse("inputs", "paths are relative, without '..', each one once");
        }
        sha256(&file.sha256)?;
        if file.mode > 0o777 {
            return refuse("inputs", "only the lowest nine permission bits can be set");
        }
    }
    Ok(())
}

/// A path that stays below the directory it is taken from.
fn is_inside(path: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    path.len() <= 4096 && !path.contains('\0') && path.split('/').all(part)
}

fn is_web_address(url: &str) -> bool {
    let parsed = url.len() <= 2048 && !url.bytes().any(|c| c <= b' ');
    parsed
        && reqwest::Url::parse(url).is_ok_and(|u| {
            matches!(u.scheme(), "http" | "https") && u.username().is_empty() && u.password().is_none()
        })
}

/// 64 lower-case hex digits.
pub fn sha256(text: &str) -> Result<(), Refusal> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if text.len() != 64 || !text.bytes().all(hex) {
        return refuse("sha256", "write 64 lower-case hex digits");
    }
    Ok(())
}

/// Checks and cleans what a pilot says of itself.
pub fn registration(mut registration: Registration) -> Result<Registration, Refusal> {
    registration.host = one_line(&registration.host);
    if registration.host.is_empty() || registration.host.len() > 255 {
        return refuse("host", "give the worker node's name");
    }
    if !(1..=10_000).contains(&registration.slots) || registration.cores == 0 {
        return refuse("slots", "a pilot has at least one slot and one core");
    }
    Ok(registration)
}

/// Checks a heartbeat.
pub fn sync(sync: &Sync) -> Result<(), Refusal> {
    if sync.leases.len() > 10_000 || sync.acked.len() > 10_000 {
        return refuse("leases", "too many for one heartbeat");
    }
    if !sync.leases.iter().all(|u| is_leased(u.state)) {
        return refuse(
            "state",
            "a pilot reports matched, running or completing; the end goes into the result",
        );
    }
    Ok(())
}

/// Checks a result and cleans its texts.
pub fn result(mut result: AttemptResult) -> Result<AttemptResult, Refusal> {
    if matches!(result.outcome, Outcome::Lost | Outcome::Superseded) {
        return refuse("outcome", "lost and superseded are for the queue to say");
    }
    let report = &mut result.report;
    clean(&mut report.host);
    for text in [&mut report.reason, &mut report.account, &mut report.session, &mut report.ports] {
        text.iter_mut().for_each(clean);
    }
    let Report { wall_ms, cpu_ms, .. } = report;
    if [*wall_ms, *cpu_ms].into_iter().flatten().any(|ms| i64::try_from(ms).is_err()) {
        return refuse("report", "times are out of range");
    }
    Ok(result)
}

fn clean(text: &mut String) {
    *text = one_line(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut serde_json::Value)) -> Result<(), Refusal> {
        let mut json = serde_json::json!({
            "delegation": uuid::Uuid::nil(),
            "spec": {"command": ["true"], "env": {"A": "b"}, "outputs": ["out/*.txt"],
                     "inputs": [{"path": "a/b", "sha256": "0".repeat(64), "size": 1, "mode": 0o755}],
                     "notify": "https://example.org/hook"},
        });
        change(&mut json);
        submission(&serde_json::from_value(json).unwrap(), 10)
    }

    #[test]
    fn a_good_submission_passes() {
        with(|_| {}).unwrap();
        with(|j| j["array"] = serde_json::json!([5, 14])).unwrap();
    }

    #[test]
    fn each_bad_field_is_named() {
        let cases: Vec<(&str, &str, serde_json::Value)> = vec![
            ("command", "/spec/command", serde_json::json!([])),
            ("command", "/spec/command", serde_json::json!([""])),
            ("command", "/spec/command", serde_json::json!(["a\0b"])),
            ("env", "/spec/env", serde_json::json!({"A=B": "c"})),
            ("env", "/spec/env", serde_json::json!({"": "c"})),
            ("inputs", "/spec/inputs/0/path", serde_json::json!("/etc/passwd")),
            ("inputs", "/spec/inputs/0/path", serde_json::json!("a/../../b")),
            ("inputs", "/spec/inputs/0/path", serde_json::json!("")),
            ("inputs", "/spec/inputs/0/mode", serde_json::json!(0o4755)),
            ("sha256", "/spec/inputs/0/sha256", serde_json::json!("F".repeat(64))),
            ("outputs", "/spec/outputs", serde_json::json!(["../*"])),
            ("cores", "/spec/cores", serde_json::json!(0)),
            ("memory", "/spec/memory", serde_json::json!(0)),
            ("walltime", "/spec/walltime", serde_json::json!(u64::MAX)),
            ("notify", "/spec/notify", serde_json::json!("file:///etc/passwd")),
            ("notify", "/spec/notify", serde_json::json!("https://me:secret@example.org/")),
            ("array", "/array", serde_json::json!([3, 2])),
            ("array", "/array", serde_json::json!([0, 10])),
        ];
        for (field, pointer, value) in cases {
            let refused = with(|j| {
                j["spec"].as_object_mut().unwrap().entry("cores").or_insert(1.into());
                j["spec"].as_object_mut().unwrap().entry("memory").or_insert(1.into());
                j["spec"].as_object_mut().unwrap().entry("walltime").or_insert(1.into());
                j.as_object_mut().unwrap().entry("array").or_insert(serde_json::Value::Null);
                *j.pointer_mut(pointer).unwrap() = value.clone();
            });
            assert!(refused.unwrap_err().title.starts_with(field), "{pointer} {value}");
        }
    }

    #[test]
    fn the_same_input_twice_is_refused() {
        let twice = with(|j| {
            let one = j["spec"]["inputs"][0].clone();
            j["spec"]["inputs"].as_array_mut().unwrap().push(one);
        });
        assert!(twice.is_err());
    }

    #[test]
    fn a_pilot_cannot_declare_itself_lost() {
        let said = |outcome| AttemptResult { lease: uuid::Uuid::nil(), outcome, report: Report::default() };
        for outcome in Outcome::ALL {
            let refused = matches!(outcome, Outcome::Lost | Outcome::Superseded);
            assert_eq!(result(said(*outcome)).is_err(), refused, "{outcome}");
        }
    }
}
