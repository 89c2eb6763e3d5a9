//! What `cargo metadata` says, as far as the rules need it.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The platform whose dependencies are looked at: the one that we build for.
pub(crate) const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// Our packages and everything that they depend on.
#[derive(Debug)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
    members: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

/// A package.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    id: String,
    /// Name in its manifest.
    pub(crate) name: String,
    /// Version in its manifest.
    pub(crate) version: String,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// Where it comes from; nothing for our own.
    pub(crate) source: Option<String>,
    /// Path of its manifest.
    pub(crate) manifest_path: PathBuf,
    /// What its manifest depends on.
    pub(crate) dependencies: Vec<Dependency>,
    /// `[package.metadata]`.
    #[serde(default)]
    pub(crate) metadata: Option<Metadata>,
}

/// A line of `[dependencies]`, `[dev-dependencies]` or `[build-dependencies]`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    /// Name of the package.
    pub(crate) name: String,
    /// Name in the sources, where it is another.
    pub(crate) rename: Option<String>,
    /// `dev` or `build`; nothing for those of the product.
    pub(crate) kind: Option<String>,
}

/// Tables of `[package.metadata]` that the rules know.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Metadata {
    /// The table of cargo-machete, which asks the same as [`unused`](crate::unused).
    #[serde(default, rename = "cargo-machete")]
    pub(crate) machete: Machete,
}

/// `[package.metadata.cargo-machete]`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Machete {
    /// Dependencies that no source names and that are needed all the same.
    #[serde(default)]
    pub(crate) ignored: Vec<String>,
}

impl Workspace {
    /// Our own packages.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|p| self.members.contains(&p.id))
    }

    /// Whether a package of this name is ours.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        self.ours().any(|p| p.name == name)
    }

    /// Everything that is not ours.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|p| !self.members.contains(&p.id))
    }
}

impl Package {
    /// Directory of its manifest.
    pub(crate) fn dir(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }
}

/// Asks cargo about the workspace in a directory.
pub(crate) fn read(top: &Path) -> Result<Workspace> {
    let answer = cargo(top, &["metadata", "--format-version", "1"])?;
    let answer: Answer = serde_json::from_slice(&answer).context("cargo metadata")?;
    // The metadata hold all that stands in the lock file; the tree leaves out other platforms and features nobody asks for.
    let tree =
        cargo(top, &["tree", "--workspace", "--target", PLATFORM, "--prefix", "none", "--format", "{p}"])?;
    let tree = String::from_utf8(tree).context("cargo tree")?;
    let built: BTreeSet<(&str, &str)> = tree.lines().filter_map(name_and_version).collect();
    let is_built = |p: &Package| built.contains(&(p.name.as_str(), p.version.as_str()));
    let packages = answer.packages.into_iter().filter(is_built).collect();
    Ok(Workspace { packages, members: answer.workspace_members })
}

/// `serde v1.0.1 (proc-macro)` to its first two words.
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

fn cargo(top: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).arg("--locked").current_dir(top);
    let output = command.output().with_context(|| format!("cargo {}", arguments[0]))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {}: {}", arguments[0], errors.trim());
    Ok(output.stdout)
}

#[cfg(test)]
pub(crate) mod sample {
    use super::{Dependency, Package, Workspace};

    /// A package of ours with what it depends on; names that begin with `dev:` are for its tests.
    pub(crate) fn ours(name: &str, dir: &str, dependencies: &[&str]) -> Package {
        let dependency = |text: &&str| {
            let (kind, name) = text.split_once(':').map_or((None, *text), |(kind, name)| (Some(kind), name));
            Dependency { name: name.to_owned(), rename: None, kind: kind.map(str::to_owned) }
        };
        Package {
            id: format!("path+{name}"),
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            license: Some("Apache-2.0".to_owned()),
            source: None,
            manifest_path: format!("/top/{dir}/Cargo.toml").into(),
            dependencies: dependencies.iter().map(dependency).collect(),
            metadata: None,
        }
    }

    /// A package of somebody else.
    pub(crate) fn other(name: &str, version: &str, license: &str, source: &str) -> Package {
        let id = format!("{source}#{name}@{version}");
        let license = Some(license.to_owned()).filter(|text| !text.is_empty());
        Package {
            id,
            version: version.to_owned(),
            license,
            source: Some(source.to_owned()),
            ..ours(name, "", &[])
        }
    }

    /// A workspace of these packages.
    pub(crate) fn workspace(packages: Vec<Package>) -> Workspace {
        let ours = packages.iter().filter(|p| p.source.is_none()).map(|p| p.id.clone()).collect();
        Workspace { packages, members: ours }
    }
}
