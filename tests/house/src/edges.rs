//! Which of our crates may know which.
//!
//! The table is the block of `docs/architecture.md` that begins with three backquotes and `edges`; a row is
//! `package -> package, package` or `package -> nothing`, then `; tests package` for what only its tests use, then a remark
//! after `#`. Every package outside of `tests/` has a row. An edge that is not in the table is a complaint, and so is a row or
//! an edge in the table that the manifests no longer have: else the table would allow what nobody has decided. Packages below
//! `tests/` may know anything, and only tests may know them.

use crate::metadata::{Package, Workspace};
use std::collections::{BTreeMap, BTreeSet};

/// What a package may know, or does know.
#[derive(Debug, Default)]
struct Row {
    product: BTreeSet<String>,
    tests: BTreeSet<String>,
}

type Table = BTreeMap<String, Row>;

/// Compares the table in `page` with the manifests.
pub(crate) fn complaints(workspace: &Workspace, page: &str) -> Vec<String> {
    match table(page) {
        Ok(allowed) => differences(&allowed, &real(workspace)),
        Err(why) => vec![format!("docs/architecture.md: {why}")],
    }
}

fn differences(allowed: &Table, real: &Table) -> Vec<String> {
    let mut all = Vec::new();
    for (package, edges) in real {
        let Some(row) = allowed.get(package) else {
            all.push(format!("docs/architecture.md has no row for {package}"));
            continue;
        };
        let forbidden = "which the table in docs/architecture.md does not allow";
        let extra = |edges: &BTreeSet<String>, row: &BTreeSet<String>| {
            edges.difference(row).cloned().collect::<Vec<_>>()
        };
        all.extend(
            extra(&edges.product, &row.product)
                .iter()
                .map(|e| format!("{package} depends on {e}, {forbidden}")),
        );
        all.extend(
            extra(&edges.tests, &row.tests)
                .iter()
                .map(|e| format!("the tests of {package} use {e}, {forbidden}")),
        );
        let gone = "which no longer exists";
        all.extend(
            extra(&row.product, &edges.product)
                .iter()
                .map(|e| format!("docs/architecture.md allows {package} -> {e}, {gone}")),
        );
        all.extend(
            extra(&row.tests, &edges.tests)
                .iter()
                .map(|e| format!("docs/architecture.md allows the tests of {package} to use {e}, {gone}")),
        );
    }
    let strange = allowed.keys().filter(|package| !real.contains_key(*package));
    all.extend(
        strange.map(|p| {
            format!("docs/architecture.md has a row for {p}, which is no package outside of tests/")
        }),
    );
    all
}

fn is_test(package: &Package) -> bool {
    package.dir().components().any(|part| part.as_os_str() == "tests")
}

/// What the manifests say.
fn real(workspace: &Workspace) -> Table {
    let test_packages: BTreeSet<&str> =
        workspace.ours().filter(|p| is_test(p)).map(|p| p.name.as_str()).collect();
    let row = |package: &Package| {
        let mut row = Row::default();
        for dependency in package.dependencies.iter().filter(|d| workspace.is_ours(&d.name)) {
            let name = dependency.name.clone();
            match dependency.kind.as_deref() {
                Some("dev") if test_packages.contains(name.as_str()) => false,
                Some("dev") => row.tests.insert(name),
                _ => row.product.insert(name),
            };
        }
        row.tests.retain(|name| !row.product.contains(name));
        row
    };
    workspace.ours().filter(|p| !is_test(p)).map(|p| (p.name.clone(), row(p))).collect()
}

fn table(page: &str) -> Result<Table, String> {
    let mut lines = page.lines().enumerate().skip_while(|(_, line)| line.trim() != "```edges").skip(1);
    let mut table = Table::new();
    loop {
        let (number, line) =
            lines.next().ok_or("the block that begins with ```edges is missing or has no end")?;
        if line.trim() == "```" {
            return Ok(table);
        }
        let (rule, _) = line.split_once('#').unwrap_or((line, ""));
        let (package, edges) = rule
            .split_once("->")
            .ok_or_else(|| format!("line {}: no `package -> package, ...`", number + 1))?;
        let (product, tests) = edges.split_once("; tests ").unwrap_or((edges, ""));
        let row = Row { product: names(product), tests: names(tests) };
        if table.insert(package.trim().to_owned(), row).is_some() {
            return Err(format!("line {}: {} has two rows", number + 1, package.trim()));
        }
    }
}

fn names(list: &str) -> BTreeSet<String> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "nothing");
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::complaints;
    use crate::metadata::sample::{other, ours, workspace};

    const PAGE: &str = "# Page\n\n```edges\nwall -> brick\nbrick -> nothing\n```\nmore\n";

    fn said(page: &str, packages: Vec<crate::metadata::Package>) -> String {
        complaints(&workspace(packages), page).join("\n")
    }

    #[test]
    fn a_table_that_is_true_gives_no_complaint() {
        let wall = ours("wall", "wall", &["brick", "serde", "dev:harness"]);
        let harness = ours("harness", "tests/harness", &["wall"]);
        let serde = other("serde", "1.0.0", "MIT", "registry+one");
        assert_eq!(said(PAGE, vec![wall, ours("brick", "wall/brick", &[]), harness, serde]), "");
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_fails() {
        let brick = ours("brick", "brick", &["wall"]);
        let text = said(PAGE, vec![ours("wall", "wall", &["brick"]), brick]);
        assert_eq!(text, "brick depends on wall, which the table in docs/architecture.md does not allow");
        let brick = ours("brick", "brick", &["build:wall"]);
        assert!(said(PAGE, vec![ours("wall", "wall", &["brick"]), brick]).contains("brick depends on wall"));
        let brick = ours("brick", "brick", &["dev:wall"]);
        assert!(
            said(PAGE, vec![ours("wall", "wall", &["brick"]), brick]).contains("the tests of brick use wall")
        );
    }

    #[test]
    fn the_product_never_knows_the_tests() {
        let brick = ours("brick", "brick", &["harness"]);
        let harness = ours("harness", "tests/harness", &[]);
        let text = said(PAGE, vec![ours("wall", "wall", &["brick"]), brick, harness]);
        assert!(text.contains("brick depends on harness"), "{text}");
    }

    #[test]
    fn a_row_or_an_edge_that_no_longer_exists_fails() {
        assert_eq!(
            said(PAGE, vec![ours("wall", "wall", &[]), ours("brick", "brick", &[])]),
            "docs/architecture.md allows wall -> brick, which no longer exists"
        );
        let text = said(PAGE, vec![ours("wall", "wall", &["brick"])]);
        assert!(text.contains("a row for brick, which is no package"), "{text}");
        let text = said(
            PAGE,
            vec![ours("wall", "wall", &["brick"]), ours("brick", "", &[]), ours("new", "new", &[])],
        );
        assert_eq!(text, "docs/architecture.md has no row for new");
    }

    #[test]
    fn what_only_tests_use_is_said_apart() {
        let page = "```edges\nwall -> nothing; tests brick # to hang pictures on\nbrick -> wall\n```\n";
        let brick = ours("brick", "brick", &["wall"]);
        assert_eq!(said(page, vec![ours("wall", "wall", &["dev:brick"]), brick.clone()]), "");
        assert!(
            said(page, vec![ours("wall", "wall", &[]), brick]).contains("the tests of wall to use brick")
        );
    }

    #[test]
    fn a_table_that_cannot_be_read_fails() {
        assert!(said("# Page\n", vec![]).contains("missing"));
        assert!(said("```edges\nwall -> brick\n", vec![]).contains("no end"));
        assert!(said("```edges\nwall\n```", vec![]).contains("line 2"));
        assert!(said("```edges\na -> b\na -> c\n```", vec![]).contains("two rows"));
    }
}
