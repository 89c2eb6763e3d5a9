//! What the queue accepts from outside, before anything is stored. Errors name the field, the reason and the remedy.

use crate::files::Small;
use identity::one_line;
use pilot_api::{
    Attached, AttemptResult, Claim, Heartbeat, Outcome, PayloadSpec, Registration, Report, Rest, Submission,
    is_sha256,
};
use pilot_core::rules::is_leased;

/// Why something is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Stable word: `invalid`, or one for what this queue does not take.
    pub code: &'static str,
    /// One line that begins with the field.
    pub title: String,
}

fn refuse<T>(field: &str, rule: &str) -> Result<T, Invalid> {
    Err(Invalid { code: "invalid", title: format!("{field}: {rule}") })
}

/// Checks a submission; `max_array` is the largest number of elements. What it is to run is brought into its usual form.
pub fn submission(mut submission: Submission, max_array: u64) -> Result<Submission, Invalid> {
    submission.spec = PayloadSpec::parse(submission.spec)
        .map_err(|e| Invalid { code: "invalid", title: e.to_string() })?
        .into_raw();
    let Some((low, high)) = submission.array else {
        return Ok(submission);
    };
    if low > high || i64::try_from(high).is_err() {
        return refuse("array", "write the lower index first");
    }
    if high - low >= max_array {
        let title = format!("array: this queue takes at most {max_array} elements at once; submit in parts");
        return Err(Invalid { code: "array_too_large", title });
    }
    Ok(submission)
}

/// 64 lower-case hex digits.
pub fn sha256(text: &str) -> Result<(), Invalid> {
    if is_sha256(text) { Ok(()) } else { refuse("sha256", "write 64 lower-case hex digits") }
}

/// Checks and cleans what a pilot says of itself.
pub fn registration(mut registration: Registration) -> Result<Registration, Invalid> {
    registration.host = one_line(&registration.host);
    if registration.host.is_empty() || registration.host.len() > 255 {
        return refuse("host", "give the worker node's name");
    }
    if !(1..=10_000).contains(&registration.slots) || registration.cores == 0 {
        return refuse("slots", "a pilot has at least one slot and one core");
    }
    Ok(registration)
}

/// Most certificate requests of one claim: as many as it can be given leases.
const MOST_REQUESTS: usize = 256;

/// Checks a claim. What it asks for is bounded where it is given; its certificate requests cost work.
pub fn claim(claim: &Claim) -> Result<(), Invalid> {
    if claim.requests.len() > MOST_REQUESTS {
        return refuse("requests", &format!("send at most {MOST_REQUESTS}, one for each lease"));
    }
    Ok(())
}

/// Checks a heartbeat.
pub fn sync(sync: &Heartbeat) -> Result<(), Invalid> {
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

/// Most bytes of each thing that a result brings along.
pub const MOST_ATTACHED: u32 = 64 << 10;

/// Decodes what a result brings along.
pub fn attached(attached: &Attached) -> Result<Small, Invalid> {
    let decoded = |field: &str, text: &str| {
        let bytes = openssl::base64::decode_block(text);
        let bytes = bytes.or_else(|_| refuse(field, "write base64, in one line"))?;
        match u32::try_from(bytes.len()).is_ok_and(|length| length <= MOST_ATTACHED) {
            true => Ok(bytes),
            false => refuse(
                field,
                &format!("at most {MOST_ATTACHED} bytes come with a result; send more by itself"),
            ),
        }
    };
    let rest = |field: &str, rest: &Option<Rest>| {
        let Some(rest) = rest else { return Ok(None) };
        Ok(Some((rest.offset, decoded(field, &rest.base64)?)))
    };
    Ok(Small {
        stdout: rest("attached.stdout", &attached.stdout)?,
        stderr: rest("attached.stderr", &attached.stderr)?,
        output: attached.output.as_deref().map(|text| decoded("attached.output", text)).transpose()?,
    })
}

/// Checks a result and cleans its texts.
pub fn result(mut result: AttemptResult) -> Result<AttemptResult, Invalid> {
    if matches!(result.outcome, Outcome::Lost | Outcome::Superseded) {
        return refuse("outcome", "lost and superseded are for the queue to say");
    }
    let report = &mut result.report;
    clean(&mut report.host);
    for text in [&mut report.reason, &mut report.account, &mut report.session, &mut report.ports] {
        text.iter_mut().for_each(clean);
    }
    if let Some(output) = &mut report.output {
        output.unmatched.truncate(100);
        output.notes.truncate(100);
        output.unmatched.iter_mut().chain(&mut output.notes).for_each(clean);
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
    use pilot_api::VariantArray;

    fn with(change: impl FnOnce(&mut serde_json::Value)) -> Result<Submission, Invalid> {
        let mut json = serde_json::json!({
            "delegation": uuid::Uuid::nil(),
            "spec": {"command": ["true"], "env": {"A": "b"}, "outputs": ["out/*.txt"],
                     "inputs": [{"path": "a/b", "sha256": "0".repeat(64), "size": 1, "mode": 0o755}],
                     "notify": "https://example.org/hook"},
        });
        change(&mut json);
        submission(serde_json::from_value(json).unwrap(), 10)
    }

    #[test]
    fn a_good_submission_passes() {
        assert_eq!(with(|_| {}).unwrap().spec.outputs, ["out/*.txt"]);
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
            ("env", "/spec/env", serde_json::json!({"PILOT_X": "c"})),
            ("inputs", "/spec/inputs/0/path", serde_json::json!("/etc/passwd")),
            ("inputs", "/spec/inputs/0/path", serde_json::json!("a/../../b")),
            ("inputs", "/spec/inputs/0/path", serde_json::json!("")),
            ("inputs", "/spec/inputs/0/mode", serde_json::json!(0o4755)),
            ("sha256", "/spec/inputs/0/sha256", serde_json::json!("F".repeat(64))),
            ("outputs", "/spec/outputs", serde_json::json!(["../*"])),
            ("outputs", "/spec/outputs", serde_json::json!(["a["])),
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
        let said = |outcome| AttemptResult {
            lease: uuid::Uuid::nil(),
            outcome,
            returned: false,
            report: Report::default(),
        };
        for outcome in Outcome::VARIANTS {
            let refused = matches!(outcome, Outcome::Lost | Outcome::Superseded);
            assert_eq!(result(said(*outcome)).is_err(), refused, "{outcome}");
        }
    }
}
