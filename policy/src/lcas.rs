//! What LCAS would have decided: `lcas.db` and the ban files that it names.
//!
//! `lcas.db` has a line for each plug-in, `pluginname="lcas_userban.mod",pluginargs="ban_users.db"`; a ban file has one
//! name a line, in quotes, as ours do. There is no LCAS here, so a site that says `use_lcas = yes` must have carried its
//! bans over: else somebody whom it locked out would run.

use crate::decide::{Host, Stop};
use crate::glexec_conf::GlexecConf;
use crate::mapfile::bans::{Ban, BanFile};
use identity::{Dn, one_line, same_name};
use std::path::{Path, PathBuf};

/// The database that LCAS reads when `lcas_db_file` is not set.
pub const LCAS_DB: &str = "/etc/lcas/lcas.db";

/// A plug-in and its first argument.
#[derive(Debug, PartialEq, Eq)]
pub struct PlugIn<'a> {
    /// As it is written.
    pub name: &'a str,
    /// Empty when there is none.
    pub argument: &'a str,
    /// Counted from 1.
    pub line: usize,
}

impl PlugIn<'_> {
    /// The file name of the plug-in.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(self.name)
    }

    /// The file that the argument means: LCAS looks for relative names beside its database.
    pub fn file(&self, database: &Path) -> Option<PathBuf> {
        let file = database.parent()?.join(self.argument);
        (!self.argument.is_empty() && file.is_absolute()).then_some(file)
    }
}

/// The plug-ins of a database.
pub fn plug_ins(text: &str) -> Vec<PlugIn<'_>> {
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

/// Refuses a site whose LCAS decides something that our bans do not.
///
/// # Errors
/// The site must mend something: what, where, and how.
pub fn carried_over(host: &impl Host, conf: &GlexecConf, ours: &BanFile) -> Result<(), Stop> {
    if !conf
        .setting("use_lcas")
        .is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "yes" | "true" | "1"))
    {
        return Ok(());
    }
    let database = Path::new(conf.setting("lcas_db_file").unwrap_or(LCAS_DB));
    if !host.exists(database) {
        return Ok(());
    }
    let text = host.trusted_file(database)?;
    let text = String::from_utf8_lossy(&text);
    for plug_in in plug_ins(&text) {
        let site = |why: String| {
            Err(Stop::Site(format!(
                "{}: line {}: {why}; or set use_lcas = no in glexec.conf",
                database.display(),
                plug_in.line
            )))
        };
        match plug_in.file_name() {
            "lcas_userban.mod" => {
                let Some(file) = plug_in.file(database) else {
                    return site("lcas_userban names no file; put banned names into [bans] dn_file".into());
                };
                let text = host.trusted_file(&file)?;
                let theirs =
                    BanFile::parse(text).map_err(|e| Stop::Site(format!("{}: {e}", file.display())))?;
                if let Some(ban) = theirs.bans().iter().find(|ban| !covers(ours, ban)) {
                    let name = one_line(&String::from_utf8_lossy(ban.key()));
                    return site(format!(
                        "LCAS bans {name} ({}: line {}) and [bans] dn_file does not; add it there, or set dn_file = {:?} in \
                         policy.toml",
                        file.display(),
                        ban.line(),
                        file.display().to_string()
                    ));
                }
            }
            // It extracts attributes for other plug-ins, as glexec always does.
            "lcas_voms.mod" => {}
            other => return site(format!("nothing here does the work of {other}; remove the line")),
        }
    }
    Ok(())
}

fn covers(ours: &BanFile, theirs: &Ban) -> bool {
    let banned = std::str::from_utf8(theirs.key()).ok().and_then(|key| Dn::parse(key).ok());
    banned.is_some_and(|dn| ours.lists_dn(&dn))
        || ours.bans().iter().any(|ban| same_name(ban.key(), theirs.key()))
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

    #[test]
    fn a_ban_is_covered_by_any_spelling_or_pattern_of_ours() {
        let ours = BanFile::parse("\"/CN=host/a\"\n\"/O=Bad/*\"\n\"*/CN=x\"\n").unwrap();
        let theirs =
            BanFile::parse("\"/CN=host\\/a\"\n\"/O=Bad/CN=y\"\n\"*/cn=x\"\n\"/O=Good/CN=z\"\n").unwrap();
        let covered: Vec<_> = theirs.bans().iter().map(|ban| covers(&ours, ban)).collect();
        assert_eq!(covered, [true, true, true, false]);
    }
}
