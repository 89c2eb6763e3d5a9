//! `docs/threat-model.md` names tests; each of them exists, and each rule for attacks has one.

use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Where the tables stand.
pub(crate) const DOC: &str = "docs/threat-model.md";
/// The rules that attacks gave us, by their numbers.
const RULES: std::ops::RangeInclusive<u32> = 1..=13;
/// The section that has one row for each of them.
const SECTION: &str = "### Rules, each with its attacks";

/// Names of functions and modules, by the file that has them; the key of all of them is empty.
pub(crate) struct Names(BTreeMap<String, BTreeSet<String>>);

impl Names {
    /// Reads every Rust file of the repository that git would know.
    pub(crate) fn read(top: &Path) -> Result<Self> {
        let mut names = Self(BTreeMap::new());
        names.walk(top)?;
        Ok(names)
    }

    fn walk(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() && !["target", ".git"].contains(&name.as_str()) {
                self.walk(&path)?;
            } else if let Some(stem) = name.strip_suffix(".rs") {
                self.add(stem, &fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    fn add(&mut self, stem: &str, text: &str) {
        let after = |line: &str, word: &str| line.split_once(word).map(|(_, rest)| rest.to_owned());
        let names = text.lines().filter_map(|line| after(line, "fn ").or_else(|| after(line, "mod ")));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names: Vec<String> =
            names.map(|rest| rest.chars().take_while(|c| is_name(*c)).collect()).collect();
        for file in [stem, ""] {
            let all = self.0.entry(file.to_owned()).or_default();
            all.extend(names.iter().cloned());
            all.insert(stem.to_owned());
        }
    }

    /// Whether a pattern, in which `*` and `…` stand for anything, meets a name of the file, or of any.
    fn has(&self, file: &str, pattern: &str) -> bool {
        let named = self.0.get(file).or_else(|| self.0.get(""));
        // A path may lead to a module: its tests are meant, all of them.
        self.0.contains_key(pattern) || named.is_some_and(|names| names.iter().any(|n| matches(n, pattern)))
    }
}

fn matches(name: &str, pattern: &str) -> bool {
    let pattern = pattern.replace('…', "*");
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        last = Some(part);
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    last.map_or(rest.is_empty(), |part| part.is_empty() || name.ends_with(part))
}

/// What stands between backquotes and names a test: a path of Rust, or a long name in lower case.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    spans.filter(|span| {
        let plain = span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:*…".contains(c));
        plain && (span.contains("::") || span.matches('_').count() >= 3 || span.ends_with('*'))
    })
}

/// What the document says and the tests do not hold.
pub(crate) fn complaints(doc: &str, names: &Names) -> Vec<String> {
    let mut all = Vec::new();
    for (number, line) in doc.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        for span in named(line) {
            let (path, test) = span.rsplit_once("::").unwrap_or(("", span));
            // Below an abbreviated or repeated path any file will do.
            let file = path.split("::").filter(|part| *part != "tests").last().unwrap_or_default();
            let file = if file.contains(['…', '*']) { "" } else { file };
            if !names.has(file, test) {
                all.push(format!("{DOC}:{}: there is no test {span}", number + 1));
            }
        }
    }
    let section = doc.split_once(SECTION).map(|(_, rest)| rest.split("\n#").next().unwrap_or_default());
    for rule in RULES {
        let row = section.unwrap_or_default().lines().find(|l| l.starts_with(&format!("| {rule}. ")));
        let cells: Vec<&str> = row.unwrap_or_default().split(" | ").collect();
        let whole = cells.len() == 4 && named(cells[2]).next().is_some() && cells[3].len() > 4;
        if !whole {
            all.push(format!("{DOC}: rule {rule} has no row with walls, tests and what is not protected"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names(BTreeMap::new());
        names.add(
            "security_walls",
            "mod inner {\n#[test]\nfn rule_1_nobody_waits() {}\n    async fn a_b_c_d() {}",
        );
        names
    }

    #[test]
    fn tests_that_are_not_there_are_named_with_their_line() {
        let rows = |tests: &str| format!("x `no_such_test_at_all`\n| wall | {tests} |\n");
        let missing = |tests: &str| {
            let all = complaints(&rows(tests), &names());
            all.into_iter().filter(|c| c.contains("no test")).collect::<Vec<_>>()
        };
        for there in [
            "`security_walls::rule_1_*`",
            "`…::a_b_c_d`",
            "`rule_1_…`, `security_walls::…_waits`",
            "`inner::a_b_c_d`",
        ] {
            assert_eq!(missing(there), Vec::<String>::new(), "{there}");
        }
        for gone in ["`security_walls::rule_2_*`", "`…::a_b_c_e`", "`rule_1_nobody_wait`", "`rule_9_*`"] {
            assert_eq!(missing(gone).len(), 1, "{gone}");
            assert!(missing(gone)[0].starts_with("docs/threat-model.md:2: "), "{gone}");
        }
        assert_eq!(
            missing("`pid_namespace`, `GLEXEC_SESSION_FD`, `/proc/self/status`"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_rule_without_test_or_without_its_limits_is_named() {
        let row = |n: u32, tests: &str, not: &str| format!("| {n}. rule | walls | {tests} | {not} |\n");
        let rules = |odd: &str| {
            let rows: String = RULES.skip(1).map(|n| row(n, "`a_b_c_d`", "the weather")).collect();
            complaints(&format!("{SECTION}\n\n{odd}{rows}\n## Next\n"), &names())
        };
        assert_eq!(rules(&row(1, "`a_b_c_d`", "the weather")), Vec::<String>::new());
        for odd in [row(1, "none", "the weather"), row(1, "`a_b_c_d`", ""), String::new()] {
            assert_eq!(rules(&odd).len(), 1, "{odd}");
        }
    }
}
