//! `site-policy import`: from `lcmaps.db` and `glexec.conf` to a `policy.toml`.
//!
//! | looking for | see |
//! |---|---|
//! | the language of `lcmaps.db` | [`pdl`] |
//! | plug-ins, their options, and what takes their place | [`modules`] |
//! | where a graph of modules means something else than a list of sources | [`flow`] |
//! | the settings that are carried over | [`plan`] |
//! | bans of LCAS | [`lcas`] |
//! | `[accounts]` from the map files | [`people`] |
//! | the text that is written | [`render`] |
//!
//! Nothing is dropped without a word: each remark names file and line, on standard error and as a comment in the result.

mod flow;
mod lcas;
mod modules;
mod note;
mod pdl;
mod people;
mod plan;
mod render;

use crate::Reply;
use crate::cli::ImportArgs;
use identity::one_line;
use note::{Effect, Notes};
use pdl::{Database, Policy};
use policy::{GlexecConf, SitePolicy};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where gLExec 0.9 has it, when neither the command line nor `glexec.conf` says.
const LCMAPS_DB: &str = "/etc/lcmaps/lcmaps-glexec.db";

/// Imports; the error means that a file could not be read or written.
pub fn run(args: &ImportArgs) -> Result<Reply, String> {
    let conf_text = read(&args.glexec_conf)?;
    let conf = match crate::conf::parse(&conf_text) {
        Ok(conf) => conf,
        Err(error) => return Ok(refused(&args.glexec_conf, error.line, &error.reason)),
    };
    let lcmaps = args.lcmaps.clone().unwrap_or_else(|| database_of(&conf));
    let text = read(&lcmaps)?;
    let (database, policy) = match chosen(&text, &conf) {
        Ok(found) => found,
        Err(broken) => return Ok(refused(&lcmaps, Some(broken.line), &broken.reason)),
    };
    let mut notes = Notes::about(&lcmaps);
    let mut plan = match plan::gather(&database, &policy, &mut notes) {
        Ok(plan) => plan,
        Err(reason) => return Ok(refused(&lcmaps, Some(policy.name.line), &reason)),
    };
    if setting(&conf, "use_lcas").is_some_and(|v| v.eq_ignore_ascii_case("yes")) {
        let database = setting(&conf, "lcas_db_file").unwrap_or(policy::lcas::LCAS_DB);
        lcas::take_over(Path::new(database), &mut plan, &mut notes);
    }
    notes.turn_to(args.output.as_deref().unwrap_or(Path::new("policy.toml")));
    let people = people::of(&plan, &mut notes)?;
    notes.turn_to(&args.glexec_conf);
    about_conf(&conf, &conf_text, &lcmaps, &mut notes);
    let origin =
        render::Origin { lcmaps: &lcmaps, policy: &policy.name.text, glexec_conf: &args.glexec_conf };
    finish(args, &origin, &plan, &people, notes)
}

fn finish(
    args: &ImportArgs,
    origin: &render::Origin<'_>,
    plan: &plan::Plan,
    people: &people::People,
    notes: Notes,
) -> Result<Reply, String> {
    let output = args.output.as_deref().unwrap_or(Path::new("policy.toml"));
    let text = render::policy(plan, people, origin, &notes.list);
    SitePolicy::parse(output, &text).map_err(|e| format!("the result is not a policy: {e}"))?;
    for note in &notes.list {
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    let missing = plan.missing();
    if !missing.is_empty() {
        for what in &missing {
            let (lcmaps, what) = (origin.lcmaps.display(), one_line(what));
            let _ = writeln!(std::io::stderr(), "site-policy: {lcmaps}: {what}");
        }
        let _ = writeln!(
            std::io::stderr(),
            "site-policy: nobody could be mapped by the result; nothing was written"
        );
        return Ok(Reply { text: String::new(), code: 1 });
    }
    let text = render::policy(plan, people, origin, &notes.list);
    let Some(file) = &args.output else {
        return Ok(Reply { text, code: 0 });
    };
    write_new(file, &text)?;
    Ok(Reply { text: String::new(), code: 0 })
}

/// Never replaces a policy that is there.
fn write_new(file: &Path, text: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}; choose a file that is not there yet", file.display());
    let mut created = fs::OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    created.write_all(text.as_bytes()).map_err(failed)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|e| format!("{}: cannot be read: {e}", file.display()))
}

fn refused(file: &Path, line: Option<usize>, reason: &str) -> Reply {
    let line = line.map(|n| format!(":{n}")).unwrap_or_default();
    let _ =
        writeln!(std::io::stderr(), "site-policy: {}{line}: {}", file.display(), identity::one_line(reason));
    Reply { text: String::new(), code: 1 }
}

fn setting<'a>(conf: &'a GlexecConf, key: &str) -> Option<&'a str> {
    conf.replaced.iter().rev().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
}

fn database_of(conf: &GlexecConf) -> PathBuf {
    setting(conf, "lcmaps_db_file").unwrap_or(LCMAPS_DB).into()
}

/// The policy that `glexec.conf` names, else the first one.
fn chosen(text: &str, conf: &GlexecConf) -> Result<(Database, Policy), pdl::Broken> {
    let database = Database::parse(text)?;
    let with_rules = || database.policies.iter().filter(|p| !p.rules.is_empty());
    let found = match setting(conf, "lcmaps_get_account_policy") {
        None => with_rules().next(),
        Some(name) => with_rules().find(|p| p.name.text == name),
    };
    let Some(policy) = found.cloned() else {
        let wanted = setting(conf, "lcmaps_get_account_policy").unwrap_or_default();
        let names: Vec<_> = with_rules().map(|p| p.name.text.as_str()).collect();
        let reason = format!(
            "glexec.conf names the policy {wanted:?} (lcmaps_get_account_policy), which is not here; there are {}",
            names.join(", ")
        );
        return Err(pdl::Broken { line: text.lines().count().max(1), reason });
    };
    database.policies.iter().try_for_each(|policy| database.runnable(policy))?;
    Ok((database, policy))
}

/// What `glexec.conf` says about LCAS and LCMAPS, and what of it stays in force.
fn about_conf(conf: &GlexecConf, text: &str, lcmaps: &Path, notes: &mut Notes) {
    let line = |key: &str| {
        let of = |l: &str| l.split_once('=').is_some_and(|(k, _)| k.trim() == key);
        text.lines().position(of).map(|n| n + 1)
    };
    for (key, kept) in [
        ("user_white_list", !conf.user_white_list.is_empty()),
        ("omission_private_key_white_list", !conf.omission_private_key_white_list.is_empty()),
        ("preserve_env_variables", !conf.preserve_env_variables.is_empty()),
    ] {
        if kept {
            notes.add(line(key), Effect::Note, format!("{key} stays in force: glexec reads it here"));
        }
    }
    if setting(conf, "lcmaps_db_file").is_some_and(|file| Path::new(file) != lcmaps) {
        let text = format!("lcmaps_db_file names another file than the imported {}", lcmaps.display());
        notes.add(line("lcmaps_db_file"), Effect::Note, text);
    }
    if setting(conf, "lcmaps_voms_verification").is_some_and(|v| v.eq_ignore_ascii_case("no")) {
        let text = "lcmaps_voms_verification = no: glexec always verifies VOMS attributes; keep [trust] voms_dir filled";
        notes.add(line("lcmaps_voms_verification"), Effect::Stricter, text);
    }
    if setting(conf, "lcmaps_verify_account_policy").is_some() {
        let text = "lcmaps_verify_account_policy: glexec has one policy for every mode";
        notes.add(line("lcmaps_verify_account_policy"), Effect::Dropped, text);
    }
}
