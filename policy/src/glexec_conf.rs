//! `/etc/glexec.conf`, as gLExec 0.9 reads it: an ini file whose section `[glexec]` counts.
//!
//! Other sections are ignored, values may be empty, unknown keys are warned about. Keys that name LCAS or LCMAPS
//! files are kept in [`GlexecConf::replaced`]: `policy.toml` takes their place.

use crate::callers::CallerPattern;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where the file lies.
pub const GLEXEC_CONF: &str = "/etc/glexec.conf";

/// Where messages go with `log_destination = file` and no `log_file`.
pub const LOG_FILE: &str = "/var/log/glexec/glexec_log";

/// How a file is locked while it is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// `flock(2)`.
    Flock,
    /// `fcntl(2)` record locks, for NFS.
    Fcntl,
    /// None.
    Disabled,
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDestination {
    /// `syslog(3)` with this facility name, such as `LOG_DAEMON`.
    Syslog(String),
    /// Appended to this file.
    File(PathBuf),
}

/// A program that runs after each payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epilogue {
    /// Absolute path.
    pub program: PathBuf,
    /// Account it runs as; root when unset.
    pub user: Option<String>,
    /// Group it runs as.
    pub group: Option<String>,
    /// Then SIGTERM, then SIGKILL.
    pub timeout: Duration,
}

/// The settings of `[glexec]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlexecConf {
    /// Wait for the payload and pass its code on.
    pub linger: bool,
    /// Who may call.
    pub user_white_list: Vec<CallerPattern>,
    /// Callers whose credential may lack the private key.
    pub omission_private_key_white_list: Vec<CallerPattern>,
    /// Variables that the payload keeps.
    pub preserve_env_variables: Vec<String>,
    /// Copy the source proxy for the payload.
    pub create_target_proxy: bool,
    /// Lock on both input proxies.
    pub input_lock: Lock,
    /// Lock on the written proxy.
    pub target_lock: Lock,
    /// Where messages go.
    pub log: LogDestination,
    /// 0 none, 1 fatal, 2 warnings, 3 notices, 4 info, 5 debug.
    pub log_level: u8,
    /// Keep messages from the caller's stderr.
    pub silent_logging: bool,
    /// Program after the payload.
    pub epilogue: Option<Epilogue>,
    /// LCAS and LCMAPS keys that `policy.toml` replaces: key and value.
    pub replaced: Vec<(String, String)>,
    /// What was understood only in part: line and text.
    pub warnings: Vec<(usize, String)>,
}

impl Default for GlexecConf {
    fn default() -> Self {
        Self {
            linger: true,
            user_white_list: Vec::new(),
            omission_private_key_white_list: Vec::new(),
            preserve_env_variables: Vec::new(),
            create_target_proxy: true,
            input_lock: Lock::Flock,
            target_lock: Lock::Flock,
            log: LogDestination::Syslog("LOG_DAEMON".into()),
            log_level: 3,
            silent_logging: false,
            epilogue: None,
            replaced: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// What is wrong with the file, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfError {
    line: usize,
    reason: String,
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{GLEXEC_CONF}:{}: {}", self.line, self.reason)
    }
}

impl std::error::Error for ConfError {}

/// Every key that is understood; the man page is compared with this list.
pub const KEYS: &[&str] = &[
    "linger",
    "user_white_list",
    "omission_private_key_white_list",
    "preserve_env_variables",
    "user_identity_switch_by",
    "create_target_proxy",
    "target_lock_mechanism",
    "lock_mechanism",
    "input_lock_mechanism",
    "log_destination",
    "log_file",
    "log_level",
    "syslog_facility",
    "silent_logging",
    "use_lcas",
    "lcas_db_file",
    "lcas_log_file",
    "lcas_debug_level",
    "lcas_log_level",
    "lcmaps_db_file",
    "lcmaps_log_file",
    "lcmaps_debug_level",
    "lcmaps_log_level",
    "lcmaps_get_account_policy",
    "lcmaps_verify_account_policy",
    "lcmaps_voms_verification",
    "epilogue",
    "epilogue_user",
    "epilogue_group",
    "epilogue_timeout",
];

/// Facilities of syslog(3) that `syslog_facility` may name, with `LOG_` before them or without.
pub const FACILITIES: &[&str] = &[
    "AUTH", "AUTHPRIV", "DAEMON", "USER", "LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5",
    "LOCAL6", "LOCAL7",
];

impl GlexecConf {
    /// The value of a key of LCAS or LCMAPS, unless it is empty.
    pub fn setting(&self, key: &str) -> Option<&str> {
        let value = self.replaced.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    /// Parses the text of the file. A byte that is not UTF-8 spoils no other line: in a comment it is nothing, in a value that
    /// must be understood it is an error.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, ConfError> {
        let mut reading = Reading::default();
        let mut section = String::new();
        for (index, bytes) in text.as_ref().split(|c| *c == b'\n').enumerate() {
            let line = String::from_utf8_lossy(bytes);
            let (number, line) = (index + 1, line.trim());
            let error = |reason: &str| ConfError { line: number, reason: reason.to_owned() };
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                section = rest
                    .strip_suffix(']')
                    .ok_or_else(|| error("section header lacks ']'"))?
                    .trim()
                    .to_owned();
            } else if section.is_empty() {
                return Err(error("a setting stands before the first section; start with [glexec]"));
            } else {
                let (key, value) = line.split_once('=').ok_or_else(|| error("write key = value"))?;
                if section == "glexec" {
                    reading.line = number;
                    if let Err(why) = std::str::from_utf8(bytes) {
                        reading.not_utf8(key.trim(), why).map_err(|reason| error(&reason))?;
                    }
                    reading.set(key.trim(), value.trim()).map_err(|reason| error(&reason))?;
                    if !KEYS.contains(&key.trim()) {
                        reading.warn(format!("unknown key {:?} is ignored", key.trim()));
                    }
                }
            }
        }
        reading.finish()
    }
}

/// Settings that only make sense together are gathered before they are judged.
#[derive(Default)]
struct Reading {
    conf: GlexecConf,
    /// The one that is being read.
    line: usize,
    /// Line of `log_destination = file`.
    to_file: Option<usize>,
    log_file: Option<PathBuf>,
    facility: Option<String>,
    target_lock_set: bool,
    epilogue: Option<PathBuf>,
    epilogue_user: Option<String>,
    epilogue_group: Option<String>,
    epilogue_timeout: Option<u64>,
}

impl Reading {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let conf = &mut self.conf;
        match key {
            "linger" => conf.linger = yes_or_no(key, value)?,
            "user_white_list" => conf.user_white_list = callers(value)?,
            "omission_private_key_white_list" => conf.omission_private_key_white_list = callers(value)?,
            "preserve_env_variables" => {
                conf.preserve_env_variables = list(value).map(str::to_owned).collect()
            }
            "create_target_proxy" => conf.create_target_proxy = yes_or_no(key, value)?,
            "target_lock_mechanism" => {
                conf.target_lock = lock(key, value)?;
                self.target_lock_set = true;
            }
            "lock_mechanism" if !self.target_lock_set => conf.target_lock = lock(key, value)?,
            "input_lock_mechanism" => conf.input_lock = lock(key, value)?,
            "silent_logging" => conf.silent_logging = yes_or_no(key, value)?,
            "log_level" => conf.log_level = level(value)?,
            "log_destination" => self.to_file = destination(value)?.then_some(self.line),
            "log_file" => self.log_file = (!value.is_empty()).then(|| value.into()),
            "syslog_facility" => self.facility = self.known_facility(value),
            "user_identity_switch_by" if !matches!(value, "" | "glexec" | "lcmaps") => {
                return Err(format!("user_identity_switch_by is {value:?}; write glexec"));
            }
            "epilogue" => self.epilogue = absolute_or_empty(key, value)?,
            "epilogue_user" => self.epilogue_user = (!value.is_empty()).then(|| value.to_owned()),
            "epilogue_group" => self.epilogue_group = (!value.is_empty()).then(|| value.to_owned()),
            "epilogue_timeout" => {
                let seconds = Some(value).filter(|v| !v.is_empty()).map(str::parse).transpose();
                self.epilogue_timeout = seconds.map_err(|_| "epilogue_timeout: write seconds".to_owned())?;
            }
            _ if is_replaced(key) => {
                conf.replaced.push((key.to_owned(), value.to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Settings that another file replaces and unknown ones may hold anything.
    fn not_utf8(&mut self, key: &str, why: std::str::Utf8Error) -> Result<(), String> {
        let what = format!("{key}: byte {} of the line is not UTF-8", why.valid_up_to() + 1);
        if KEYS.contains(&key) && !is_replaced(key) {
            return Err(format!("{what}; write it as UTF-8"));
        }
        self.warn(what);
        Ok(())
    }

    fn warn(&mut self, what: String) {
        self.conf.warnings.push((self.line, what));
    }

    fn known_facility(&mut self, name: &str) -> Option<String> {
        let known = FACILITIES.contains(&name.trim_start_matches("LOG_"));
        if !known && !name.is_empty() {
            self.warn(format!("syslog_facility {name:?} is unknown, LOG_DAEMON is used"));
        }
        known.then(|| name.to_owned())
    }

    fn finish(self) -> Result<GlexecConf, ConfError> {
        let mut conf = self.conf;
        conf.log = match (self.to_file, self.log_file) {
            (Some(_), Some(file)) if file.is_absolute() => LogDestination::File(file),
            (Some(_), None) => LogDestination::File(LOG_FILE.into()),
            (Some(line), Some(_)) => {
                let reason = "log_file must be an absolute path".to_owned();
                return Err(ConfError { line, reason });
            }
            (None, _) => LogDestination::Syslog(self.facility.unwrap_or_else(|| "LOG_DAEMON".into())),
        };
        conf.epilogue = self.epilogue.map(|program| Epilogue {
            program,
            user: self.epilogue_user,
            group: self.epilogue_group,
            timeout: Duration::from_secs(self.epilogue_timeout.unwrap_or(300)),
        });
        Ok(conf)
    }
}

/// Keys of LCAS and LCMAPS.
fn is_replaced(key: &str) -> bool {
    key.starts_with("lcas_") || key.starts_with("lcmaps_") || key == "use_lcas"
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn callers(value: &str) -> Result<Vec<CallerPattern>, String> {
    list(value).map(|item| CallerPattern::parse(item).map_err(|e| e.to_string())).collect()
}

fn yes_or_no(key: &str, value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" | "" => Ok(false),
        _ => Err(format!("{key} is {value:?}; write yes or no")),
    }
}

fn lock(key: &str, value: &str) -> Result<Lock, String> {
    match value {
        "flock" | "" => Ok(Lock::Flock),
        "fcntl" => Ok(Lock::Fcntl),
        "disabled" => Ok(Lock::Disabled),
        _ => Err(format!("{key} is {value:?}; write flock, fcntl or disabled")),
    }
}

fn level(value: &str) -> Result<u8, String> {
    match value.parse() {
        Ok(level @ 0..=5) => Ok(level),
        _ if value.is_empty() => Ok(3),
        _ => Err(format!("log_level is {value:?}; write 0 to 5")),
    }
}

fn destination(value: &str) -> Result<bool, String> {
    match value {
        "syslog" | "" => Ok(false),
        "file" => Ok(true),
        _ => Err(format!("log_destination is {value:?}; write syslog or file")),
    }
}

fn absolute_or_empty(key: &str, value: &str) -> Result<Option<PathBuf>, String> {
    match value {
        "" => Ok(None),
        path if path.starts_with('/') => Ok(Some(path.into())),
        _ => Err(format!("{key} must be an absolute path")),
    }
}

#[cfg(test)]
#[path = "glexec_conf_tests.rs"]
mod tests;
