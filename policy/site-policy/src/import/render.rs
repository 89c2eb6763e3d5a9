//! The new `policy.toml` as text.

use super::note::Note;
use super::people::People;
use super::plan::{Kept, Plan};
use std::fmt::Write;
use std::path::Path;

/// Where the settings come from.
pub struct Origin<'a> {
    pub lcmaps: &'a Path,
    pub policy: &'a str,
    pub glexec_conf: &'a Path,
}

/// The text; `notes` become comments.
pub fn policy(plan: &Plan, people: &People, origin: &Origin<'_>, notes: &[Note]) -> String {
    let mut out = Out(String::new());
    let shown = |path: &Path| identity::one_line(&path.to_string_lossy());
    out.comment(&format!("Imported from policy {} of {}.", origin.policy, shown(origin.lcmaps)));
    out.comment("Try it before use: site-policy check, then site-policy explain --proxy F.");
    if !notes.is_empty() {
        out.comment("");
        out.comment("What is not as it was (file, line, what):");
        notes.iter().for_each(|note| out.comment(&format!("- {note}")));
    }
    out.section("callers");
    out.comment(&format!("user_white_list of {} stays in force.", shown(origin.glexec_conf)));
    out.line("allow = []");
    out.section("accounts");
    out.comment("The accounts that the map files name today, and their groups.");
    out.list("allow", people.allow.iter().map(String::as_str));
    out.list("gids", people.gids.iter().map(String::as_str));
    out.comment("Groups of the batch system that must survive the switch:");
    out.line("keep_gids = []");
    trust(&mut out, plan);
    if [&plan.ban_dn, &plan.lcas_ban, &plan.ban_fqan].iter().any(|kept| kept.is_some()) {
        out.section("bans");
        if plan.ban_dn.is_none() && plan.lcas_ban.is_some() {
            out.comment("of LCAS");
        }
        out.kept("dn_file", plan.ban_dn.as_ref().or(plan.lcas_ban.as_ref()));
        out.kept("fqan_file", plan.ban_fqan.as_ref());
    }
    mapping(&mut out, plan);
    if let Some(line) = plan.keep_leftovers {
        out.section("payload");
        out.comment(&format!("line {line}"));
        out.line("kill_leftovers = false");
    }
    out.0
}

fn trust(out: &mut Out, plan: &Plan) {
    out.section("trust");
    out.kept("ca_dir", plan.ca_dir.as_ref());
    out.kept("voms_dir", plan.voms_dir.as_ref());
    if let Some((seconds, line)) = plan.max_proxy_lifetime {
        out.comment(&format!("line {line}"));
        out.line(&format!("max_proxy_lifetime = \"{}\"", duration(seconds)));
    }
    if let Some(line) = plan.no_limited {
        out.comment(&format!("line {line}"));
        out.line("allow_limited = false");
    }
}

fn mapping(out: &mut Out, plan: &Plan) {
    out.section("mapping");
    for (source, module) in &plan.order {
        out.comment(&format!("{source}: module {}, line {}", module.value, module.line));
    }
    out.list("order", plan.order.iter().map(|(source, _)| *source));
    out.kept("grid_mapfile", plan.grid_mapfile.as_ref());
    out.kept("voms_mapfile", plan.voms_mapfile.as_ref());
    out.kept("group_mapfile", plan.group_mapfile.as_ref());
    out.kept("gridmapdir", plan.gridmapdir.as_ref());
    for (name, service) in &plan.services {
        out.section(&format!("mapping.{name}"));
        service.endpoints.iter().for_each(|e| out.comment(&format!("line {}: {}", e.line, e.value)));
        out.list("endpoints", service.endpoints.iter().map(|e| e.value.as_str()));
        out.kept("cert", service.cert.as_ref());
        out.kept("key", service.key.as_ref());
    }
}

struct Out(String);

impl Out {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn comment(&mut self, text: &str) {
        let text = identity::one_line(text);
        self.line(format!("# {text}").trim_end());
    }

    fn section(&mut self, name: &str) {
        self.line(&format!("\n[{name}]"));
    }

    fn kept(&mut self, key: &str, kept: Option<&Kept>) {
        if let Some(Kept { value, line }) = kept {
            self.comment(&format!("line {line}"));
            self.line(&format!("{key} = {}", quoted(value)));
        }
    }

    fn list<'a>(&mut self, key: &str, items: impl Iterator<Item = &'a str>) {
        let items: Vec<_> = items.map(quoted).collect();
        self.line(&format!("{key} = [{}]", items.join(", ")));
    }
}

/// A basic string of TOML 1.0.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The largest unit that says it exactly.
fn duration(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(size, _)| seconds.is_multiple_of(*size));
    unit.map_or_else(|| format!("{seconds}s"), |(size, name)| format!("{}{name}", seconds / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_durations_are_toml() {
        assert_eq!(quoted("a\"b\\c\u{7f}"), "\"a\\\"b\\\\c\\u007F\"");
        assert_eq!((duration(1_209_600).as_str(), duration(221_820).as_str()), ("14d", "3697m"));
    }
}
