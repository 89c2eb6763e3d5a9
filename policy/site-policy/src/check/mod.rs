//! `site-policy check`: the policy, and whether the world around it is as `glexec` will demand.
//!
//! | looking for | see |
//! |---|---|
//! | callers, payload accounts, the account `glexec` | [`people`] |
//! | lines of map files | [`mapfiles`] |
//! | lines that Globus reads in another way | [`dialects`] |
//! | pools of accounts and their leases | [`pools`] |
//! | directories, programs, host credentials | [`places`] |
//! | the range of callback ports on this node | [`ports`] |
//! | keys of LCAS and LCMAPS | [`replaced`] |

mod dialects;
mod mapfiles;
mod people;
mod places;
mod pools;
mod ports;
mod replaced;
mod wall;

use crate::cli::CheckArgs;
use crate::finding::{About, Finding, Severity};
use crate::outside::audit;
use crate::{Reply, accounts, child};
use policy::file::{Isolation, TargetProxy};
use policy::trusted::{Distrust, Rule};
use policy::{GlexecConf, SitePolicy};
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Everything that the checks look at.
struct Site<'a> {
    policy: SitePolicy,
    policy_file: &'a Path,
    conf: GlexecConf,
    libexec: &'a Path,
}

/// Checks everything; an error means that a file could not be read at all.
pub fn run(args: &CheckArgs) -> Result<Reply, String> {
    let mut found = Vec::new();
    let child_uid = accounts::by_name(child::CHILD_ACCOUNT)?.map(|u| u.uid);
    let policy = policy(&args.policy, &mut found)?;
    let conf = conf(&args.places.glexec_conf, child_uid, &mut found)?;
    if let (Some(policy), Some(conf)) = (policy, conf) {
        let (policy_file, libexec) = (args.policy.as_path(), args.places.libexec.as_path());
        let site = Site { policy, policy_file, conf, libexec };
        people::check(&site, &mut found)?;
        mapfiles::check(&site, &mut found);
        places::check(&site, &mut found);
        replaced::check(&site, &args.places.glexec_conf, &mut found);
        ports::check(&site, &mut found)?;
        walls(&site, &args.places.glexec_conf, &mut found);
    }
    reply(args, found)
}

/// What the walls around payloads demand, and what they cost clients.
fn walls(site: &Site<'_>, conf_file: &Path, found: &mut Vec<Finding>) {
    let payload = &site.policy.payload;
    if let Err(why) = payload.walls_stand_with(&site.conf) {
        About::new(conf_file, found).error(why, "until then every call ends with 202");
    }
    if payload.pid_namespace {
        let what = "[payload] pid_namespace: the process ids that a payload sees are its own, so a client that signals \
                    them in another call does not reach it";
        let remedy = "signal glexec, its process group, or its session";
        About::new(site.policy_file, found).add(None, Severity::Note, what, remedy);
    }
    if payload.isolate == Isolation::Account {
        let what = "[payload] isolate = \"account\": a client that signals a payload from another session of its account \
                    does not reach it";
        let remedy = "signal glexec, its process group, or its session";
        About::new(site.policy_file, found).add(None, Severity::Note, what, remedy);
    }
    if let Err(why) = payload.separation(&site.conf, false) {
        let remedy = "on hosts with an older kernel every call ends with 202";
        About::new(site.policy_file, found).add(None, Severity::Warning, why, remedy);
    }
    if payload.target_proxy == TargetProxy::Account && !site.conf.create_target_proxy {
        let what = "[payload] target_proxy has no effect with create_target_proxy = no in glexec.conf: there is no copy";
        About::new(site.policy_file, found).add(None, Severity::Warning, what, "remove one of them");
    }
}

#[derive(Serialize)]
struct Report<'a> {
    policy: &'a Path,
    glexec_conf: &'a Path,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

fn reply(args: &CheckArgs, findings: Vec<Finding>) -> Result<Reply, String> {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let code = u8::from(errors > 0);
    if args.json {
        let (policy, glexec_conf) = (args.policy.as_path(), args.places.glexec_conf.as_path());
        let report = Report { policy, glexec_conf, errors, warnings, findings };
        let text = serde_json::to_string(&report)
            .map_err(|e| format!("the findings cannot be written as JSON: {e}"))?;
        return Ok(Reply { text: text + "\n", code });
    }
    let mut text: String = findings.iter().map(|f| format!("{f}\n")).collect();
    text.push_str(&format!("{errors} errors, {warnings} warnings\n"));
    Ok(Reply { text, code })
}

fn policy(file: &Path, found: &mut Vec<Finding>) -> Result<Option<SitePolicy>, String> {
    let text = fs::read(file).map_err(|e| format!("{}: cannot be read: {e}", file.display()))?;
    trusted(file, Rule::FILE, "", found);
    match SitePolicy::parse(file, &text) {
        Ok(policy) => Ok(Some(policy)),
        Err(error) => {
            let (line, column) = error.position.unzip();
            let (what, remedy) = (error.reason, String::new());
            found.push(Finding { file: error.file, line, column, severity: Severity::Error, what, remedy });
            Ok(None)
        }
    }
}

fn conf(file: &Path, child_uid: Option<u32>, found: &mut Vec<Finding>) -> Result<Option<GlexecConf>, String> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let remedy = "install one, at least with a section [glexec]; without it every call ends with 202";
            About::new(file, found).error("does not exist", remedy);
            return Ok(Some(GlexecConf::default()));
        }
        Err(e) => {
            return Err(format!("{}: cannot be read: {e}; run this as root", file.display()));
        }
    };
    trusted(file, Rule::FILE.or_owner(child_uid), "", found);
    let mut about = About::new(file, found);
    match crate::conf::parse(&text) {
        Ok(conf) => {
            for (line, what) in &conf.warnings {
                about.add(Some(*line), Severity::Warning, what, "remove it or correct its spelling");
            }
            Ok(Some(conf))
        }
        Err(error) => {
            about.add(error.line, Severity::Error, error.reason, "");
            Ok(None)
        }
    }
}

/// Adds an error unless root may trust the path. Returns whether the path exists.
fn trusted(path: &Path, rule: Rule, if_missing: &str, found: &mut Vec<Finding>) -> bool {
    // A missing file is said to be missing, even where it could not be trusted either.
    let missing = fs::metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound);
    let verdict = if missing { Err(Distrust::Missing(path.to_owned())) } else { audit(path, rule) };
    match verdict {
        Ok(()) => true,
        Err(Distrust::Missing(_)) => {
            About::new(path, found).error("does not exist", if_missing);
            false
        }
        Err(Distrust::Hidden(_, what)) => {
            About::new(path, found).error(what, "");
            true
        }
        Err(Distrust::Fault { at, what, remedy }) => {
            let what = if at == path { what } else { format!("{} {what}", at.display()) };
            About::new(path, found).error(what, remedy);
            true
        }
    }
}
