//! Messages for the site (syslog or file) and for the caller (stderr). One line per event, escaped.

use crate::admit::audit::{self, Rule};
use crate::failure::Failure;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};
use policy::glexec_conf::{GLEXEC_CONF, GlexecConf, LogDestination};
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Where messages of this call go.
pub(crate) struct Log {
    target: Target,
    level: u8,
    silent: bool,
}

enum Target {
    Syslog(Facility),
    File(RefCell<File>),
}

impl Log {
    /// Syslog with facility `LOG_DAEMON`, until the configuration says otherwise.
    pub(crate) fn standard() -> Self {
        Self::to_syslog(Facility::LOG_DAEMON, 3, false)
    }

    /// As `glexec.conf` says, with a word about what in it is odd.
    pub(crate) fn configured(conf: &GlexecConf) -> Self {
        let log = Self::opened(conf);
        for (line, what) in &conf.warnings {
            log.warning(&format!("{GLEXEC_CONF}:{line}: {what}"));
        }
        log
    }

    /// A log file that cannot be opened falls back to syslog.
    fn opened(conf: &GlexecConf) -> Self {
        let (level, silent) = (conf.log_level, conf.silent_logging);
        match &conf.log {
            LogDestination::Syslog(name) => Self::to_syslog(facility(name), level, silent),
            LogDestination::File(path) => match open_file(path) {
                Ok(file) => Self { target: Target::File(RefCell::new(file)), level, silent },
                Err(why) => {
                    let log = Self::to_syslog(Facility::LOG_DAEMON, level, silent);
                    log.warning(&format!("log_file {}: {why}; using syslog", path.display()));
                    log
                }
            },
        }
    }

    fn to_syslog(facility: Facility, level: u8, silent: bool) -> Self {
        open_syslog(facility);
        Self { target: Target::Syslog(facility), level, silent }
    }

    /// Level 1: the call cannot be served.
    pub(crate) fn error(&self, message: &str) {
        self.write(1, Severity::LOG_ERR, message);
    }

    /// Level 2: something is off.
    pub(crate) fn warning(&self, message: &str) {
        self.write(2, Severity::LOG_WARNING, message);
    }

    /// Level 3: who became whom, and how it ended.
    pub(crate) fn notice(&self, message: &str) {
        self.write(3, Severity::LOG_NOTICE, message);
    }

    /// Who becomes whom: level 3, and nothing runs unless it is written, as far as that can be told.
    pub(crate) fn switch(&self, message: &str) -> Result<(), Failure> {
        let failed = |e| Failure::site(format!("the log cannot be written: {e}; nothing runs unseen"));
        self.try_write(3, Severity::LOG_NOTICE, message).map_err(failed)
    }

    /// Level 4: steps on the way.
    pub(crate) fn info(&self, message: &str) {
        self.write(4, Severity::LOG_INFO, message);
    }

    /// Lines of a session's monitor, whose ident is not ours; level 3.
    pub(crate) fn monitor_lines(&self, ident: &str, lines: &[String]) {
        if self.level < 3 {
            return;
        }
        let lines: Vec<String> =
            lines.iter().map(|line| without_probe_names(&identity::shown::log_line(line))).collect();
        match &self.target {
            Target::Syslog(facility) => {
                // openlog(3) keeps the pointer, so the text must live on: twice in a session is no leak to mind.
                let ident: &'static CStr =
                    Box::leak(CString::new(ident).unwrap_or_default().into_boxed_c_str());
                let _ = openlog(Some(ident), LogFlags::empty(), *facility);
                for line in &lines {
                    let _ = syslog(Severity::LOG_NOTICE, line.as_str());
                }
                open_syslog(*facility);
            }
            Target::File(file) => {
                let host = nix::unistd::gethostname().unwrap_or_default();
                let head =
                    format!("{} {} {ident}:", crate::sys::process::syslog_time(), host.to_string_lossy());
                let text: String = lines.iter().map(|line| format!("{head} {line}\n")).collect();
                let _ = file.borrow_mut().write_all(text.as_bytes());
            }
        }
    }

    /// One line on the caller's stderr, unless the site wants silence.
    pub(crate) fn tell_caller(&self, message: &str) {
        if !self.silent {
            let _ = writeln!(std::io::stderr(), "glexec: {message}");
        }
    }

    fn write(&self, level: u8, severity: Severity, message: &str) {
        let _ = self.try_write(level, severity, message);
    }

    fn try_write(&self, level: u8, severity: Severity, message: &str) -> std::io::Result<()> {
        if level > self.level {
            return Ok(());
        }
        let line = one_event(message);
        match &self.target {
            Target::Syslog(_) => {
                // syslog(3) tells nobody whether it was heard.
                let _ = syslog(severity, line.as_str());
                Ok(())
            }
            Target::File(file) => {
                let time = record::time::rfc3339(crate::sys::process::unix_ns());
                let text = format!("{time} glexec[{}]: {line}\n", std::process::id());
                file.borrow_mut().write_all(text.as_bytes())
            }
        }
    }
}

/// Texts from the caller are escaped where they enter; this is the last line of defence. The names by which accounting
/// probes know their lines never stand in one of ours.
fn one_event(message: &str) -> String {
    without_probe_names(&identity::shown::log_line(message))
}

fn without_probe_names(text: &str) -> String {
    text.replace("glexec.mon[", "glexec.mon(").replace("glemon[", "glemon(")
}

fn open_syslog(facility: Facility) {
    let _ = openlog(Some(c"glexec"), LogFlags::LOG_PID, facility);
}

fn facility(name: &str) -> Facility {
    match name.trim_start_matches("LOG_") {
        "AUTH" | "AUTHPRIV" => Facility::LOG_AUTH,
        "USER" => Facility::LOG_USER,
        "LOCAL0" => Facility::LOG_LOCAL0,
        "LOCAL1" => Facility::LOG_LOCAL1,
        "LOCAL2" => Facility::LOG_LOCAL2,
        "LOCAL3" => Facility::LOG_LOCAL3,
        "LOCAL4" => Facility::LOG_LOCAL4,
        "LOCAL5" => Facility::LOG_LOCAL5,
        "LOCAL6" => Facility::LOG_LOCAL6,
        "LOCAL7" => Facility::LOG_LOCAL7,
        _ => Facility::LOG_DAEMON,
    }
}

fn open_file(path: &Path) -> Result<File, String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("names no file".into());
    };
    let directory = audit::open(parent, Rule::DIRECTORY).map_err(|f| f.reason())?;
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o640);
    nix::fcntl::openat(directory, name, flags, mode).map(File::from).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_the_caller_s_looks_like_a_line_of_ours() {
        let forged = "x\nglexec.mon[1#2]: Terminated, CPU user 0 system 0 \u{202e}glemon[1#2]";
        let line = one_event(forged);
        assert!(!line.contains("glexec.mon[") && !line.contains("glemon["), "{line}");
        assert!(!line.chars().any(identity::shown::misleads), "{line}");
    }
}
