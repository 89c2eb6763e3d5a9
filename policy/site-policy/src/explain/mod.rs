//! `site-policy explain`: one decision, step by step, as `glexec` takes it.
//!
//! The deciding functions are those of `policy::judge`; verifier and mapping client are the installed ones. What is
//! left out needs a running host: signs of nesting from sessions and cgroups, cached answers, the target proxy and
//! the command. [`steps`] plays, this module shows. Owners and modes of the site's files count when the installed
//! configuration is played; a draft elsewhere is judged by its content.

mod files;
mod mapping;
mod proxy;
mod steps;

use crate::Reply;
use crate::cli::ExplainArgs;
use identity::one_line;
use policy::judge::{Code, Denial};
use serde::Serialize;

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

    /// A decision of `policy::judge`.
    fn denial(step: &'static str, denial: &Denial) -> Self {
        Self::Refused { step, code: denial.code(), why: denial.to_string() }
    }
}

/// The steps so far.
#[derive(Debug, Default)]
pub struct Play(Vec<Step>);

impl Play {
    fn passed(&mut self, step: &'static str, why: impl Into<String>) {
        self.0.push(Step { step, passed: true, why: one_line(&why.into()) });
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
    let mut play = Play::default();
    let (granted, exit_code) = match steps::play(args, &mut play) {
        Ok(granted) => (Some(granted), None),
        Err(Stop::Refused { step, code, why }) => {
            play.0.push(Step { step, passed: false, why: one_line(&why) });
            (None, Some(code as i32))
        }
        Err(Stop::CannotTell(why)) => return Err(why),
    };
    let code = u8::from(granted.is_none());
    let report =
        Report { would_run: granted.is_some(), exit_code, granted: granted.as_ref(), steps: &play.0 };
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
