//! No dependency that nobody uses.
//!
//! A dependency is used when a source file of its package names it, in whatever way. That is what cargo-machete asks as
//! well; its table `[package.metadata.cargo-machete] ignored` names those that are needed without being named.

use crate::metadata::{Package, Workspace};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Compares manifests with sources, and `[workspace.dependencies]` in the text of the root manifest with manifests.
pub(crate) fn complaints(workspace: &Workspace, root_manifest: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for package in workspace.ours() {
        let mut words = BTreeSet::new();
        collect(package.dir(), package.dir(), &mut words)?;
        all.extend(unused(package, &words));
    }
    let root: toml::Table = root_manifest.parse().context("Cargo.toml")?;
    let listed = root.get("workspace").and_then(|w| w.get("dependencies")).and_then(|d| d.as_table());
    let taken: BTreeSet<&str> = workspace
        .ours()
        .flat_map(|p| &p.dependencies)
        .flat_map(|d| [Some(d.name.as_str()), d.rename.as_deref()])
        .flatten()
        .collect();
    for name in
        listed.into_iter().flat_map(|table| table.keys()).filter(|name| !taken.contains(name.as_str()))
    {
        all.push(format!("Cargo.toml: [workspace.dependencies] has {name}, which no package takes"));
    }
    Ok(all)
}

fn unused(package: &Package, words: &BTreeSet<String>) -> Vec<String> {
    let ignored = package.metadata.clone().unwrap_or_default().machete.ignored;
    let named = package.dependencies.iter().map(|d| (d.rename.as_ref().unwrap_or(&d.name), d));
    let unused =
        named.filter(|(name, _)| !words.contains(&name.replace('-', "_")) && !ignored.contains(name));
    unused
        .map(|(name, _)| format!("{} depends on {name}, and none of its sources names it", package.name))
        .collect()
}

/// All words of the Rust files below a directory, except in packages below it.
fn collect(dir: &Path, top: &Path, words: &mut BTreeSet<String>) -> Result<()> {
    if dir != top && dir.join("Cargo.toml").exists() || dir.file_name().is_some_and(|name| name == "target") {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, top, words)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let is_edge = |c: char| !c.is_alphanumeric() && c != '_';
            words.extend(text.split(is_edge).filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{complaints, unused};
    use crate::metadata::sample::{ours, workspace};
    use crate::metadata::{Machete, Metadata};
    use std::collections::BTreeSet;

    fn words(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|&w| w.to_owned()).collect()
    }

    #[test]
    fn a_dependency_that_no_source_names_is_a_complaint() {
        let mut package = ours("wall", "wall", &["serde-json", "dev:tempfile"]);
        assert!(unused(&package, &words(&["serde_json", "tempfile"])).is_empty());
        let said = unused(&package, &words(&["serde", "tempfile"]));
        assert_eq!(said, ["wall depends on serde-json, and none of its sources names it"]);
        package.metadata = Some(Metadata { machete: Machete { ignored: vec!["serde-json".to_owned()] } });
        assert!(unused(&package, &words(&["tempfile"])).is_empty());
        package.dependencies[1].rename = Some("temporary".to_owned());
        assert!(unused(&package, &words(&["temporary"])).is_empty());
    }

    #[test]
    fn a_line_of_the_workspace_that_no_package_takes_is_a_complaint() {
        let root =
            "[workspace.dependencies]\nserde = \"1\"\nmd5 = { package = \"md-5\", version = \"0.10\" }\n";
        let said = complaints(&workspace(vec![]), root).expect("it can be read");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[1].contains("has serde, which no package takes"), "{said:?}");
    }
}
