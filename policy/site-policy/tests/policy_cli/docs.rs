//! `docs/policy.md` says what the parser does.

use policy::SitePolicy;
use policy::ports::PortRange;
use policy::ports::variables::VARIABLES;
use std::path::Path;

const DOC: &str = include_str!("../../../../docs/policy.md");
const PORTS: &str = include_str!("../../../../docs/ports.md");

fn parse(text: &str) -> Result<SitePolicy, String> {
    SitePolicy::parse(Path::new("policy.toml"), text).map_err(|e| e.reason)
}

#[test]
fn the_examples_are_accepted() {
    let examples = [DOC, PORTS].map(|doc| doc.split("```toml\n").skip(1));
    let examples: Vec<&str> =
        examples.into_iter().flatten().filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        parse(example).unwrap_or_else(|why| panic!("{why}: {example}"));
    }
}

/// The tables of the file.
fn tables() -> Vec<String> {
    let reason = parse("no_such_table = 1\n").unwrap_err();
    let (_, list) = reason.split_once("expected ").unwrap_or_else(|| panic!("{reason}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The keys of a table, as the parser lists them when it meets an unknown one.
fn keys(table: &str) -> Vec<String> {
    let reason = parse(&format!("[{table}]\nno_such_key = 1\n")).unwrap_err();
    let (_, list) = reason.split_once("expected ").unwrap_or_else(|| panic!("{reason}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_of_every_table_is_described() {
    for table in tables() {
        let table = table.as_str();
        let (_, section) =
            DOC.split_once(&format!("### `[{table}]`")).unwrap_or_else(|| panic!("[{table}] is missing"));
        let section = section.split("\n### ").next().unwrap();
        let keys = keys(table);
        assert!(!keys.is_empty(), "[{table}]");
        for key in keys {
            let described =
                section.contains(&format!("`{key}`")) || section.contains(&format!("`[mapping.{key}]`"));
            assert!(described, "[{table}] {key} is not described");
        }
    }
    for key in keys("mapping.gums") {
        assert!(DOC.contains(&format!("| `{key}` |")), "[mapping.gums] {key} is not described");
    }
}

/// The sample that is installed shows every key that has an effect, and is a policy as it stands.
#[test]
fn the_sample_shows_every_key() {
    const SAMPLE: &str = include_str!("../../../../packaging/policy.toml");
    parse(SAMPLE).unwrap_or_else(|why| panic!("{why}"));
    // To set one of these is an error in this version.
    let without_effect = ["private_tmp"];
    for table in tables() {
        let table = table.as_str();
        let (_, section) =
            SAMPLE.split_once(&format!("[{table}]\n")).unwrap_or_else(|| panic!("[{table}] is missing"));
        let lines: Vec<&str> = section
            .lines()
            .take_while(|line| !line.starts_with('['))
            .map(|l| l.trim_start_matches("# "))
            .collect();
        for key in keys(table).into_iter().filter(|key| !without_effect.contains(&key.as_str())) {
            let (set, named) = (format!("{key} = "), format!("[mapping.{key}]"));
            let shown = lines.iter().any(|line| line.starts_with(&set) || line.contains(&named));
            assert!(shown, "[{table}] {key} is not shown");
        }
    }
}

/// The table of variables in `docs/ports.md` is the one that agents act on.
#[test]
fn variables_are_described_as_they_are() {
    for variable in VARIABLES {
        let row = PORTS.lines().find(|line| line.starts_with(&format!("| `{}` |", variable.name)));
        let row = row.unwrap_or_else(|| panic!("{} is missing", variable.name));
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        assert_eq!(
            (cells[3], cells[4] == "yes", cells[5]),
            (variable.reader, variable.usual, variable.tried)
        );
        let (_, example) =
            variable.settings(PortRange::parse("40000-40009").unwrap(), "the name to dial").remove(0);
        assert!(cells[2].contains(&example), "{row}");
    }
    let (_, table) = PORTS.split_once("## What a payload finds").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    assert_eq!(table.matches("\n| `").count(), VARIABLES.len());
}
