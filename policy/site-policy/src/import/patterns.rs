//! Patterns in map and ban files: LCMAPS reads them as `fnmatch(3)` does, `glexec` knows `*` and `?`.

use super::note::{Effect, Notes};
use super::plan::Plan;
use policy::mapfile::wildcard_match;
use std::fs;
use std::path::Path;

/// Names the lines whose brackets mean something else to `glexec`, and bans that it would therefore not see.
pub fn check(plan: &Plan, notes: &mut Notes) {
    if wildcard_match("[x]", "x") {
        return;
    }
    let files = [
        (&plan.ban_dn, Effect::Looser),
        (&plan.lcas_ban, Effect::Looser),
        (&plan.ban_fqan, Effect::Looser),
        (&plan.voms_mapfile, Effect::Differs),
    ];
    for (kept, effect) in files {
        let Some(kept) = kept else { continue };
        let Ok(text) = fs::read_to_string(&kept.value) else { continue };
        notes.turn_to(Path::new(&kept.value));
        for line in lines_with_brackets(&text) {
            let text =
                "[...] is a set of characters to LCMAPS and means itself to glexec; write one line for each";
            notes.add(Some(line), effect, text);
        }
    }
}

fn lines_with_brackets(text: &str) -> Vec<usize> {
    let in_key = |line: &str| {
        let line = line.trim_start();
        let key = match line.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => line.split([' ', '\t']).next(),
        };
        !line.starts_with('#') && key.is_some_and(|key| key.contains('['))
    };
    text.lines().enumerate().filter(|(_, line)| in_key(line)).map(|(index, _)| index + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_in_keys_alone() {
        let text = "# [x]\n\"/CN=[Mm]allory*\"\n/cms* a # [x]\n\"/CN=x\" [y]\n/cms/[a-z]* b\n";
        assert_eq!(lines_with_brackets(text), [2, 5]);
    }
}
