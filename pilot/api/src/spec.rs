//! What a user wants run, and everything about it that can be judged at submit.
//!
//! [`RawSpec`] travels and may hold anything. [`PayloadSpec`] can only be had from [`PayloadSpec::parse`]: command line, queue
//! and runner all go through it, so what the queue accepts no worker node refuses later.

use crate::limits::{Factor, WarnSignal};
use crate::names::{Patterns, plain_path};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// Longest specification in bytes, written as JSON. What is larger belongs into an input file.
pub const MAX_SPEC: usize = 1 << 20;
/// Longest argument and longest `NAME=VALUE` in bytes: Linux gives each a page less than `MAX_ARG_STRLEN` (execve(2)).
const MAX_STRING: usize = (128 << 10) - 1;
const MAX_WORDS: usize = 65_536;
const MAX_FILES: usize = 10_000;
const MAX_CORES: u32 = 4_096;
/// Memory (bytes) and walltime (seconds) stay below this, so that no arithmetic on them can overflow.
const MAX_AMOUNT: u64 = 1 << 50;

/// What the user wants run, as it travels: nothing about it has been judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSpec {
    /// Program and arguments; a name without slash is searched in the payload's `PATH`.
    pub command: Vec<String>,
    /// Added to the payload's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files put into the working directory before the start.
    #[serde(default)]
    pub inputs: Vec<InputFile>,
    /// Patterns of files taken from the working directory after the end.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// What it means when output files cannot be brought home.
    #[serde(default, skip_serializing_if = "MissingOutput::is_default")]
    pub missing_output: MissingOutput,
    /// Processor cores.
    #[serde(default = "one")]
    pub cores: u32,
    /// Memory limit in bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Bytes that the working directory may hold; then the payload is ended with outcome `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Longest run in seconds; then the payload is ended with outcome `limit`.
    #[serde(default)]
    pub walltime: Option<u64>,
    /// Seconds before the end of its time at which it gets a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<u64>,
    /// Which signal.
    #[serde(default, skip_serializing_if = "WarnSignal::is_default")]
    pub warn_signal: WarnSignal,
    /// A payload that used more memory than it may is tried again with so many times as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_memory: Option<Factor>,
    /// The same for disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_disk: Option<Factor>,
    /// Callback ports wanted; 0 asks for the site's usual block.
    #[serde(default)]
    pub ports: u16,
    /// URL that gets a POST of the payload when it is final.
    #[serde(default)]
    pub notify: Option<String>,
}

/// Words of a command in a list, and characters of each.
const BRIEF: (usize, usize) = (10, 100);

impl RawSpec {
    /// A command that asks for nothing beside.
    #[must_use]
    pub fn plain(command: Vec<String>) -> Self {
        Self {
            command,
            env: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            missing_output: MissingOutput::default(),
            cores: one(),
            memory: None,
            disk: None,
            walltime: None,
            warn: None,
            warn_signal: WarnSignal::default(),
            retry_memory: None,
            retry_disk: None,
            ports: 0,
            notify: None,
        }
    }

    /// What fits into a list: the beginning of the command, and what the payload asks for; no environment, no files.
    #[must_use]
    pub fn brief(&self) -> Self {
        let (words, length) = BRIEF;
        let word = |word: &String| word.chars().take(length).collect();
        Self {
            cores: self.cores,
            memory: self.memory,
            disk: self.disk,
            walltime: self.walltime,
            warn: self.warn,
            warn_signal: self.warn_signal,
            retry_memory: self.retry_memory,
            retry_disk: self.retry_disk,
            ports: self.ports,
            ..Self::plain(self.command.iter().take(words).map(word).collect())
        }
    }
}

fn one() -> u32 {
    1
}

/// What becomes of a payload that returned 0 and whose output files cannot all be brought home.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingOutput {
    /// It is done; the report says what is missing.
    #[default]
    Ok,
    /// It has failed, and is not tried again: the payload did not make what was asked for.
    Fail,
}

impl MissingOutput {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One input file, uploaded before as a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Name in the working directory; relative, without `..`.
    pub path: String,
    /// SHA-256 of the content, lower-case hex.
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
    /// Permission bits (the lowest nine).
    pub mode: u32,
}

/// A specification that can be run. Its fields can be read and not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PayloadSpec(RawSpec);

impl Deref for PayloadSpec {
    type Target = RawSpec;

    fn deref(&self) -> &RawSpec {
        &self.0
    }
}

/// Why a specification cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    field: &'static str,
    rule: String,
}

impl SpecError {
    fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Self { field, rule: rule.into() }
    }

    /// The field of [`RawSpec`] that is wrong.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.rule)
    }
}

impl std::error::Error for SpecError {}

impl PayloadSpec {
    /// Judges everything that can be known without a worker node, and brings paths and patterns into their shortest form:
    /// `./dir/` becomes `dir`.
    ///
    /// # Errors
    /// Names the field, the reason and the remedy.
    pub fn parse(mut raw: RawSpec) -> Result<Self, SpecError> {
        size(&raw)?;
        command(&raw)?;
        environment(&raw.env)?;
        inputs(&mut raw.inputs)?;
        raw.outputs = Patterns::normal(&raw.outputs, MAX_FILES).map_err(|e| SpecError::new("outputs", e))?;
        if !(1..=MAX_CORES).contains(&raw.cores) {
            return Err(SpecError::new("cores", "ask for 1 to 4096"));
        }
        limits(&raw)?;
        if raw.notify.as_deref().is_some_and(|url| !is_web_address(url)) {
            return Err(SpecError::new("notify", "use an http:// or https:// address without user name"));
        }
        Ok(Self(raw))
    }

    /// The patterns of the output files.
    ///
    /// # Errors
    /// Never for a specification that was parsed; the runner passes it on all the same.
    pub fn patterns(&self) -> Result<Patterns, SpecError> {
        Patterns::parse(&self.outputs).map_err(|e| SpecError::new("outputs", e))
    }

    /// For the wire and the store.
    #[must_use]
    pub fn into_raw(self) -> RawSpec {
        self.0
    }
}

fn size(raw: &RawSpec) -> Result<(), SpecError> {
    let length = serde_json::to_vec(raw).map_err(|e| SpecError::new("spec", e.to_string()))?.len();
    if length > MAX_SPEC {
        let rule =
            format!("{length} bytes as JSON, and {MAX_SPEC} are the limit; pass long texts in an input file");
        return Err(SpecError::new("spec", rule));
    }
    Ok(())
}

fn command(raw: &RawSpec) -> Result<(), SpecError> {
    let refuse = |rule: &str| Err(SpecError::new("command", rule));
    if raw.command.first().is_none_or(String::is_empty) {
        return refuse("name a program");
    }
    if raw.command.len() + raw.env.len() > MAX_WORDS {
        return refuse("too many arguments and variables; pass them in an input file");
    }
    if raw.command.iter().any(|word| word.contains('\0')) {
        return refuse("arguments cannot contain NUL");
    }
    if raw.command.iter().any(|word| word.len() > MAX_STRING) {
        return refuse("no argument can be longer than 131071 bytes; pass it in an input file");
    }
    Ok(())
}

fn limits(raw: &RawSpec) -> Result<(), SpecError> {
    let amounts =
        [("memory", raw.memory), ("disk", raw.disk), ("walltime", raw.walltime), ("warn", raw.warn)];
    for (field, amount) in amounts {
        if amount.is_some_and(|v| v == 0 || v > MAX_AMOUNT) {
            return Err(SpecError::new(field, "must be above 0 and below 2^50; leave it out for no limit"));
        }
    }
    if raw.warn.zip(raw.walltime).is_some_and(|(warn, walltime)| warn >= walltime) {
        return Err(SpecError::new(
            "warn",
            "must be shorter than the walltime, or it would come at the start",
        ));
    }
    let without = |field, limit| {
        Err(SpecError::new(field, format!("says how much more to give; say how much first, with --{limit}")))
    };
    match raw {
        RawSpec { retry_memory: Some(_), memory: None, .. } => without("retry_memory", "memory"),
        RawSpec { retry_disk: Some(_), disk: None, .. } => without("retry_disk", "disk"),
        _ => Ok(()),
    }
}

fn environment(env: &BTreeMap<String, String>) -> Result<(), SpecError> {
    env.iter().try_for_each(|(name, value)| check_variable(name, value)).map_err(|e| SpecError::new("env", e))
}

/// Judges one variable of the user's.
///
/// # Errors
/// One line with the remedy.
pub fn check_variable(name: &str, value: &str) -> Result<(), String> {
    if !is_possible_variable(name) || value.contains('\0') {
        return Err(format!("{name:?}: a name is not empty and has no '=', and nothing contains NUL"));
    }
    if is_reserved_variable(name) {
        return Err(format!("{name} is set by the pilot; choose another name"));
    }
    if name.len() + 1 + value.len() > MAX_STRING {
        return Err(format!("{name}: longer than 131071 bytes; pass it in an input file"));
    }
    Ok(())
}

/// Whether only the pilot may set this variable: `PILOT_*`, `GLEXEC_*`, `X509_USER_PROXY`, `GLOBUS_TCP_PORT_RANGE`
/// and `GLOBUS_HOSTNAME`.
fn is_reserved_variable(name: &str) -> bool {
    name.starts_with("PILOT_")
        || name.starts_with("GLEXEC_")
        || matches!(name, "X509_USER_PROXY" | "GLOBUS_TCP_PORT_RANGE" | "GLOBUS_HOSTNAME")
}

/// Whether a variable can exist at all under this name: not empty, no `=`, no NUL.
fn is_possible_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn inputs(inputs: &mut [InputFile]) -> Result<(), SpecError> {
    let refuse = |rule: String| Err(SpecError::new("inputs", rule));
    if inputs.len() > MAX_FILES {
        return refuse(format!("more than {MAX_FILES} files; pack them"));
    }
    let mut files = BTreeSet::new();
    for file in inputs.iter_mut() {
        let Some(path) = plain_path(&file.path) else {
            return refuse(format!(
                "{:?}: paths are relative, without '..', and end with a file's name",
                file.path
            ));
        };
        if !files.insert(path.clone()) {
            return refuse(format!("{path:?} is there twice; rename one"));
        }
        if !is_sha256(&file.sha256) {
            return Err(SpecError::new("sha256", "write 64 lower-case hex digits"));
        }
        if file.mode > 0o777 {
            return refuse("only the lowest nine permission bits can be set".to_owned());
        }
        file.path = path;
    }
    let below = |path: &String| path.match_indices('/').any(|(end, _)| files.contains(&path[..end]));
    match files.iter().find(|path| below(path)) {
        Some(path) => refuse(format!("{path:?} lies below a name that is a file; rename one")),
        None => Ok(()),
    }
}

/// Whether this names the content of a blob: 64 lower-case hex digits.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

fn is_web_address(url: &str) -> bool {
    url.len() <= 2048
        && url.parse::<http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|a| !a.as_str().contains('@') && !a.host().is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn with(change: impl FnOnce(&mut Value)) -> Result<PayloadSpec, SpecError> {
        let mut spec = json!({
            "command": ["true"], "env": {"A": "b"}, "outputs": ["out/*.txt"], "cores": 1, "memory": 1, "walltime": 2,
            "disk": null, "warn": 1, "retry_memory": "2x", "retry_disk": null,
            "inputs": [{"path": "a/b", "sha256": "0".repeat(64), "size": 1, "mode": 0o755}],
            "notify": "https://example.org/hook",
        });
        change(&mut spec);
        PayloadSpec::parse(serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn each_bad_field_is_named() {
        let long = "x".repeat(MAX_STRING + 1);
        let cases: Vec<(&str, &str, Value)> = vec![
            ("command", "/command", json!([])),
            ("command", "/command", json!([""])),
            ("command", "/command", json!(["a\0b"])),
            ("command", "/command", json!(["a", long])),
            ("env", "/env", json!({"A=B": "c"})),
            ("env", "/env", json!({"": "c"})),
            ("env", "/env", json!({"A": "b\0"})),
            ("env", "/env", json!({"A": long})),
            ("env", "/env", json!({"PILOT_SESSION": "forged"})),
            ("env", "/env", json!({"GLEXEC_MODE": "x"})),
            ("env", "/env", json!({"X509_USER_PROXY": "x"})),
            ("env", "/env", json!({"GLOBUS_TCP_PORT_RANGE": "1,2"})),
            ("inputs", "/inputs/0/path", json!("/etc/passwd")),
            ("inputs", "/inputs/0/path", json!("a/../../b")),
            ("inputs", "/inputs/0/path", json!("")),
            ("inputs", "/inputs/0/path", json!("dir/")),
            ("inputs", "/inputs/0/path", json!("x".repeat(256))),
            ("inputs", "/inputs/0/mode", json!(0o4755)),
            ("sha256", "/inputs/0/sha256", json!("F".repeat(64))),
            ("outputs", "/outputs", json!(["../*"])),
            ("outputs", "/outputs", json!(["/etc/*"])),
            ("outputs", "/outputs", json!(["a["])),
            ("outputs", "/outputs", json!(["a/**b"])),
            ("outputs", "/outputs", json!(["./"])),
            ("cores", "/cores", json!(0)),
            ("cores", "/cores", json!(4097)),
            ("memory", "/memory", json!(0)),
            ("walltime", "/walltime", json!(u64::MAX)),
            ("disk", "/disk", json!(0)),
            ("warn", "/warn", json!(2)),
            ("retry_disk", "/retry_disk", json!("2x")),
            ("notify", "/notify", json!("file:///etc/passwd")),
            ("notify", "/notify", json!("https://me:secret@example.org/")),
            ("notify", "/notify", json!("https:///nowhere")),
            ("notify", "/notify", json!("https://example.org/a b")),
        ];
        for (field, pointer, value) in cases {
            let refused =
                with(|spec| *spec.pointer_mut(pointer).unwrap() = value.clone()).expect_err(pointer);
            assert_eq!(refused.field(), field, "{pointer}: {refused}");
            assert!(refused.to_string().starts_with(field), "{refused}");
        }
    }

    #[test]
    fn paths_and_patterns_are_taken_in_their_usual_spellings() {
        let spec = with(|spec| {
            spec["outputs"] = json!(["./x", "dir/", "./a//b/./c", "**", "r[0-9].txt"]);
            spec["inputs"][0]["path"] = json!("./a//b");
        });
        let spec = spec.unwrap();
        assert_eq!(spec.outputs, ["x", "dir", "a/b/c", "**", "r[0-9].txt"]);
        assert_eq!(spec.inputs[0].path, "a/b");
        spec.patterns().unwrap();
    }

    #[test]
    fn what_is_not_asked_for_does_not_travel_so_that_older_queues_understand_the_rest() {
        let plain: RawSpec = serde_json::from_value(json!({"command": ["true"]})).unwrap();
        let text = serde_json::to_string(&plain).unwrap();
        for new in ["disk", "warn", "retry"] {
            assert!(!text.contains(new), "{text}");
        }
    }

    #[test]
    fn two_inputs_cannot_be_in_each_others_place() {
        for second in ["a/b", "./a/b", "a", "a/b/c"] {
            let twice = with(|spec| {
                let mut other = spec["inputs"][0].clone();
                other["path"] = json!(second);
                spec["inputs"].as_array_mut().unwrap().push(other);
            });
            assert_eq!(twice.expect_err(second).field(), "inputs");
        }
    }

    #[test]
    fn twelve_arguments_of_100_kb_are_too_much_and_ten_are_not() {
        let argument = "x".repeat(100_000);
        let of = |count: usize| with(|spec| spec["command"] = json!(vec![argument.clone(); count]));
        of(10).unwrap();
        let refused = of(12).unwrap_err();
        assert_eq!(refused.field(), "spec");
        assert!(
            refused.to_string().contains("1048576") && refused.to_string().contains("input file"),
            "{refused}"
        );
    }
}
