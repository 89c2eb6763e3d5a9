//! Bans of LCAS, which some sites have beside LCMAPS.
//!
//! `lcas.db` has a line for each plug-in, `pluginname="lcas_userban.mod",pluginargs="ban_users.db"`; a ban file has one
//! name a line, in quotes, as ours do.

use super::note::{Effect, Notes};
use super::plan::{Kept, Plan};
use std::fs;
use std::path::{Path, PathBuf};

/// A plug-in and its first argument.
#[derive(Debug, PartialEq, Eq)]
struct PlugIn<'a> {
    name: &'a str,
    argument: &'a str,
    line: usize,
}

/// Takes over the ban file of the database. The notes are about the database afterwards.
pub fn take_over(database: &Path, plan: &mut Plan, notes: &mut Notes) {
    notes.turn_to(database);
    let text = match fs::read_to_string(database) {
        Ok(text) => text,
        Err(why) => {
            let text = format!("cannot be read ({why}): put banned names into [bans] dn_file");
            return notes.add(None, Effect::Looser, text);
        }
    };
    for plug_in in plug_ins(&text) {
        let line = Some(plug_in.line);
        let file = Path::new(plug_in.name).file_name().and_then(|f| f.to_str()).unwrap_or(plug_in.name);
        match file {
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
    // LCAS looks for relative names beside its database.
    let file: PathBuf = database.parent().unwrap_or(Path::new("/")).join(plug_in.argument);
    let (shown, line) = (file.display().to_string(), Some(plug_in.line));
    if plug_in.argument.is_empty() || !file.is_absolute() {
        return notes.add(
            line,
            Effect::Looser,
            "lcas_userban: names no file with an absolute path; set [bans] dn_file",
        );
    }
    match plan.ban_dn.as_ref().or(plan.lcas_ban.as_ref()) {
        Some(other) if other.value != shown => {
            let text =
                format!("lcas_userban {shown}: [bans] dn_file is {} already; merge the two", other.value);
            notes.add(line, Effect::Looser, text);
        }
        _ => plan.lcas_ban = Some(Kept { value: shown, line: plug_in.line }),
    }
}

fn plug_ins(text: &str) -> Vec<PlugIn<'_>> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    let plug_in = numbered.filter_map(|(index, line)| {
        let argument = value_of(line, "pluginargs").unwrap_or_default();
        Some(PlugIn { name: value_of(line, "pluginname")?, argument, line: index + 1 })
    });
    plug_in.collect()
}

/// The value of `key="value"` or `key=value` in a line of such pairs.
fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(key)?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split([',', ' ', '\t']).next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plug_ins_are_found() {
        let text = "# pluginname=\"x\"\npluginname=\"lcas_userban.mod\",pluginargs=\"ban users.db\"\n\n\
                    pluginname=lcas_timeslots.mod , pluginargs = t.db\npluginname=\"lcas_voms.mod\"\n";
        let found: Vec<_> = plug_ins(text).into_iter().map(|p| (p.name, p.argument, p.line)).collect();
        let expected = [
            ("lcas_userban.mod", "ban users.db", 2),
            ("lcas_timeslots.mod", "t.db", 4),
            ("lcas_voms.mod", "", 5),
        ];
        assert_eq!(found, expected);
    }
}
