//! Bans of LCAS, which some sites have beside LCMAPS.
//!
//! A ban file of LCAS has one name a line, in quotes, as ours do: the policy names the file itself. See `policy::lcas`.

use super::note::{Effect, Notes};
use super::plan::{Kept, Plan};
use policy::lcas::{PlugIn, plug_ins};
use std::fs;
use std::path::Path;

/// Takes over the ban file of the database. The notes are about the database afterwards.
pub fn take_over(database: &Path, plan: &mut Plan, notes: &mut Notes) {
    notes.turn_to(database);
    let text = match fs::read(database) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(why) => {
            let text = format!("cannot be read ({why}): put banned names into [bans] dn_file");
            return notes.add(None, Effect::Looser, text);
        }
    };
    for plug_in in plug_ins(&text) {
        let line = Some(plug_in.line);
        match plug_in.file_name() {
            "lcas_userban.mod" => ban_file(database, &plug_in, plan, notes),
            "lcas_userallow.mod" => {
                notes.add(line, Effect::Looser, "lcas_userallow: only map files say who is let in")
            }
            "lcas_timeslots.mod" => {
                notes.add(line, Effect::Looser, "lcas_timeslots: there are no hours of opening")
            }
            // It extracts attributes for other plug-ins, as glexec always does.
            "lcas_voms.mod" if plug_in.argument.is_empty() => {}
            other => {
                notes.add(line, Effect::Looser, format!("{other}: nothing in policy.toml does its work"))
            }
        }
    }
}

fn ban_file(database: &Path, plug_in: &PlugIn<'_>, plan: &mut Plan, notes: &mut Notes) {
    let line = Some(plug_in.line);
    let Some(file) = plug_in.file(database) else {
        let what = "lcas_userban: names no file with an absolute path; set [bans] dn_file";
        return notes.add(line, Effect::Looser, what);
    };
    let shown = file.display().to_string();
    match plan.ban_dn.as_ref().or(plan.lcas_ban.as_ref()) {
        Some(other) if other.value != shown => {
            let text =
                format!("lcas_userban {shown}: [bans] dn_file is {} already; merge the two", other.value);
            notes.add(line, Effect::Looser, text);
        }
        _ => plan.lcas_ban = Some(Kept { value: shown, line: plug_in.line }),
    }
}
