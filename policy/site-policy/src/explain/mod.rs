//! `site-policy explain`: one decision, step by step, as `glexec` takes it.
//!
//! The decision is `policy::decide`, as for `glexec`; verifier and mapping client are the installed ones. What is
//! left out needs a running host: signs of nesting from sessions and cgroups, cached answers, the target proxy and
//! the command. [`steps`] plays, this module shows. Owners and modes of the site's files count when the installed
//! configuration is played; a draft elsewhere is judged by its content.

mod proxy;
mod steps;

use crate::Reply;
use crate::cli::ExplainArgs;
use crate::host::{Passed, Site};
use identity::one_line;
use policy::decide;
use policy::file::POLICY_FILE;
use policy::glexec_conf::GLEXEC_CONF;
use policy::judge::Code;
use serde::Serialize;
use std::path::Path;

/// One step that was taken.
#[derive(Debug, Serialize)]
pub struct Step {
    step: &'static str,
    passed: bool,
    why: String,
}

/// Why the play ends early.
#[derive(Debug)]
pub enum Stop {
    /// `glexec` would refuse with this exit code.
    Refused { step: &'static str, code: Code, why: String },
    /// This account may not read something that root can: nothing can be told.
    CannotTell(String),
}

impl Stop {
    /// The caller must mend something (201).
    fn caller(step: &'static str, why: impl Into<String>) -> Self {
        Self::Refused { step, code: Code::Caller, why: why.into() }
    }

    /// The site must mend something (202).
    fn site(step: &'static str, why: impl Into<String>) -> Self {
        Self::Refused { step, code: Code::Site, why: why.into() }
    }

    /// What ended a step.
    fn of(step: &'static str, stop: decide::Stop) -> Self {
        match stop {
            decide::Stop::Denied(denial) => {
                Self::Refused { step, code: denial.code(), why: denial.to_string() }
            }
            decide::Stop::Site(why) => Self::site(step, why),
            decide::Stop::CannotTell(why) => Self::CannotTell(why),
        }
    }
}

/// The account that the payload would get.
#[derive(Debug, Serialize)]
pub struct Granted {
    account: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    source: String,
}

#[derive(Serialize)]
struct Report<'a> {
    would_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted: Option<&'a Granted>,
    steps: &'a [Step],
}

/// Plays and shows; an error means that something could not be read.
pub fn run(args: &ExplainArgs) -> Result<Reply, String> {
    // A configuration at another place is a draft, and owners and modes of drafts say nothing.
    let installed =
        args.policy == Path::new(POLICY_FILE) && args.places.glexec_conf == Path::new(GLEXEC_CONF);
    let mut site = Site::new(installed, &args.places.libexec);
    site.what_if = args.dn.clone().map(|dn| (dn, args.fqan.clone()));
    let outcome = steps::play(args, &site);
    let passed = |(step, why): Passed| Step { step, passed: true, why: one_line(&why) };
    let mut steps: Vec<_> = site.passed.into_inner().into_iter().map(passed).collect();
    let (granted, exit_code) = match outcome {
        Ok(granted) => (Some(granted), None),
        Err(Stop::Refused { step, code, why }) => {
            steps.push(Step { step, passed: false, why: one_line(&why) });
            (None, Some(code as i32))
        }
        Err(Stop::CannotTell(why)) => return Err(why),
    };
    let code = u8::from(granted.is_none());
    let report = Report { would_run: granted.is_some(), exit_code, granted: granted.as_ref(), steps: &steps };
    let text = if args.json {
        serde_json::to_string(&report).map_err(|e| format!("the answer cannot be written as JSON: {e}"))?
            + "\n"
    } else {
        in_words(&report)
    };
    Ok(Reply { text, code })
}

fn in_words(report: &Report<'_>) -> String {
    let mark = |passed| if passed { "yes" } else { "NO" };
    let line = |s: &Step| format!("{:<4} {:<12} {}\n", mark(s.passed), s.step, s.why);
    let mut text: String = report.steps.iter().map(line).collect();
    text.push_str(&match (report.granted, report.exit_code) {
        (Some(granted), _) => {
            let groups: Vec<_> = granted.groups.iter().map(u32::to_string).collect();
            let groups = if groups.is_empty() { "none".to_owned() } else { groups.join(",") };
            let Granted { account, uid, gid, source, .. } = granted;
            format!("verdict: the payload would run as {account} (uid {uid}, gid {gid}, groups {groups}), named by {source}\n")
        }
        (None, Some(code)) => format!("verdict: glexec would refuse with exit code {code}\n"),
        (None, None) => String::new(),
    });
    text
}
