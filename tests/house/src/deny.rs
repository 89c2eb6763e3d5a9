//! `deny.toml`: which licences, crates and sources are let in. The file has the form of cargo-deny, so that whoever has that
//! can use it as well; the keys below are those that are held to here, and no other may stand in the file.

use crate::licence;
use crate::metadata::{Package, Workspace};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    graph: Graph,
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

/// The platforms are cargo-deny's way to say which dependencies are looked at; `metadata` asks cargo for the same one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: Strictness,
    deny: Vec<Named>,
    skip: Vec<Named>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: Strictness,
    unknown_git: Strictness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Strictness {
    Deny,
}

/// A crate, as `name` or `name@version`, with the reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Holds everything that is not ours to the rules.
pub(crate) fn complaints(workspace: &Workspace, rules: &str) -> Result<Vec<String>> {
    let rules: Rules = toml::from_str(rules).context("deny.toml")?;
    let Graph { targets } = &rules.graph;
    anyhow::ensure!(
        targets == &[crate::metadata::PLATFORM],
        "deny.toml: targets is to be [{:?}]",
        crate::metadata::PLATFORM
    );
    let mut all: Vec<String> =
        workspace.others().filter_map(|package| of_licence(package, &rules.licenses)).collect();
    all.extend(bans(workspace, &rules.bans));
    all.extend(sources(workspace, &rules.sources));
    Ok(all)
}

fn of_licence(package: &Package, rules: &Licences) -> Option<String> {
    let name = format!("{} {}", package.name, package.version);
    let Some(expression) = &package.license else { return Some(format!("{name} names no licence")) };
    match licence::is_met(expression, &rules.allow) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name} is under {expression}, which deny.toml does not allow")),
        Err(why) => Some(format!("{name} is under {expression:?}: {why}")),
    }
}

fn bans(workspace: &Workspace, rules: &Bans) -> Vec<String> {
    let Bans { multiple_versions: Strictness::Deny, deny, skip } = rules;
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in workspace.others() {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let mut all = Vec::new();
    for banned in deny.iter().filter(|banned| versions.contains_key(banned.name.as_str())) {
        all.push(format!("{} is banned: {}", banned.name, banned.reason));
    }
    let skipped: BTreeSet<&str> = skip.iter().map(|named| named.name.as_str()).collect();
    for (name, versions) in &versions {
        let counted =
            versions.iter().filter(|version| !skipped.contains(format!("{name}@{version}").as_str()));
        if counted.count() > 1 {
            let list: Vec<&str> = versions.iter().copied().collect();
            all.push(format!("{name} is there in several versions: {}", list.join(", ")));
        }
    }
    for named in skip {
        let (name, version) = named.name.split_once('@').unwrap_or((&named.name, ""));
        if versions.get(name).is_none_or(|all| all.len() < 2 || !all.contains(version)) {
            all.push(format!("deny.toml skips {}, which is not there beside another version", named.name));
        }
    }
    all
}

/// Everything comes from one and the same registry: what cargo takes when a manifest says nothing.
fn sources(workspace: &Workspace, rules: &Sources) -> Vec<String> {
    let Sources { unknown_registry: Strictness::Deny, unknown_git: Strictness::Deny } = rules;
    let registry = |p: &&Package| p.source.as_deref().is_some_and(|s| s.starts_with("registry+"));
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for source in workspace.others().filter(registry).filter_map(|p| p.source.as_deref()) {
        *counted.entry(source).or_default() += 1;
    }
    let usual = counted.into_iter().max_by_key(|(_, count)| *count).map(|(source, _)| source);
    let foreign = workspace.others().filter(|p| p.source.as_deref() != usual);
    foreign
        .map(|p| format!("{} {} does not come from the registry of all the others", p.name, p.version))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::complaints;
    use crate::metadata::Package;
    use crate::metadata::sample::{other, workspace};

    const RULES: &str = r#"
        graph = { targets = ["x86_64-unknown-linux-gnu"] }
        licenses = { allow = ["MIT"] }
        [bans]
        multiple-versions = "deny"
        deny = [{ crate = "left-pad", reason = "a line of our own does it" }]
        skip = [{ crate = "old@1.0.0", reason = "two peers disagree" }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
    "#;

    fn said(packages: &[(&str, &str, &str, &str)]) -> String {
        let both = [("old", "1.0.0", "MIT", "registry+one"), ("old", "2.0.0", "MIT", "registry+one")];
        let package = |(name, version, license, source): &(&str, &str, &str, &str)| {
            other(name, version, license, source)
        };
        let packages: Vec<Package> = both.iter().chain(packages).map(package).collect();
        complaints(&workspace(packages), RULES).expect("the rules can be read").join("\n")
    }

    #[test]
    fn what_is_allowed_gives_no_complaint() {
        assert_eq!(said(&[("good", "1.0.0", "GPL-3.0 OR MIT", "registry+one")]), "");
    }

    #[test]
    fn licences_bans_versions_and_sources_are_held_to() {
        let one = "registry+one";
        assert!(said(&[("bad", "1.0.0", "GPL-3.0", one)]).contains("under GPL-3.0"));
        assert!(said(&[("bad", "1.0.0", "", one)]).contains("no licence"));
        assert_eq!(
            said(&[("left-pad", "1.0.0", "MIT", one)]),
            "left-pad is banned: a line of our own does it"
        );
        let twice = said(&[("new", "1.0.0", "MIT", one), ("new", "1.1.0", "MIT", one)]);
        assert_eq!(twice, "new is there in several versions: 1.0.0, 1.1.0");
        for source in ["git+far", "registry+two"] {
            assert!(said(&[("far", "1.0.0", "MIT", source)]).contains("does not come from"), "{source}");
        }
    }

    #[test]
    fn a_rule_without_effect_fails() {
        let only = complaints(&workspace(vec![]), RULES).expect("the rules can be read");
        assert_eq!(only, ["deny.toml skips old@1.0.0, which is not there beside another version"]);
        let unknown = RULES.replace("unknown-git", "unknown-key");
        assert!(complaints(&workspace(vec![]), &unknown).is_err());
    }
}
