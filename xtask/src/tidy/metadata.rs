//! What `cargo metadata` says about the workspace and everything it resolves to.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::command::{cargo, output};

/// What the product runs on; other targets' dependencies are not looked at.
const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(Deserialize)]
pub(super) struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
pub(super) struct Package {
    id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: Option<String>,
    pub(super) dependencies: Vec<Dependency>,
}

/// A dependency as the manifest declares it.
#[derive(Deserialize)]
pub(super) struct Dependency {
    pub(super) name: String,
    kind: Option<String>,
    target: Option<String>,
    pub(super) optional: bool,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

impl Metadata {
    /// Asks cargo about the default features: of those that are off, the command turns on what is
    /// shipped, and the rest are the peers of the benchmark, whose features would mix with ours.
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut command = cargo(root, &["metadata", "--format-version=1"]);
        command.args(["--locked", "--filter-platform", TARGET]);
        Self::parse(&output(&mut command)?)
    }

    pub(super) fn parse(json: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(json).context("cargo metadata printed something unexpected")
    }

    pub(super) fn packages(&self) -> &[Package] {
        &self.packages
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The members for which `wanted` holds and everything that they need when they are built
    /// and run, so without dev-dependencies.
    pub(super) fn tree(&self, wanted: impl Fn(&Package) -> bool) -> Vec<&Package> {
        let nodes: HashMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let mut todo: Vec<&str> = self
            .members()
            .filter(|&package| wanted(package))
            .map(|p| p.id.as_str())
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                let edges = nodes.get(id).into_iter().flat_map(|node| &node.deps);
                let needed = edges.filter(|edge| edge.is_needed());
                todo.extend(needed.map(|edge| edge.pkg.as_str()));
            }
        }
        self.packages
            .iter()
            .filter(|package| seen.contains(package.id.as_str()))
            .collect()
    }
}

impl Dependency {
    /// A dev-dependency, or loom, which stands in for the standard library in model checks.
    pub(super) fn is_for_tests(&self) -> bool {
        is_dev(self.kind.as_deref()) || self.target.as_deref() == Some("cfg(loom)")
    }
}

impl Edge {
    fn is_needed(&self) -> bool {
        self.dep_kinds
            .iter()
            .any(|edge| !is_dev(edge.kind.as_deref()))
    }
}

fn is_dev(kind: Option<&str>) -> bool {
    kind == Some("dev")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// `(name, version, licence, dependencies)`, a dependency being `("name version", kind)` with
    /// the kinds normal, optional, build, dev and loom.
    type Fixture<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)]);

    /// What cargo would print about `packages`; `members` are `"name version"`.
    pub(in super::super) fn metadata(members: &[&str], packages: &[Fixture]) -> Metadata {
        let id = |name: &str, version: &str| format!("{name} {version}");
        let kind = |kind: &str| match kind {
            "dev" | "build" => json!(kind),
            _ => Value::Null,
        };
        let declared = |&(target, how): &(&str, &str)| {
            let name = target.split(' ').next();
            json!({"name": name, "kind": kind(how), "optional": how == "optional",
                   "target": (how == "loom").then_some("cfg(loom)")})
        };
        let resolved = |&(target, how): &(&str, &str)| json!({"pkg": target, "dep_kinds": [{"kind": kind(how)}]});
        let list: Vec<Value> = packages
            .iter()
            .map(|&(name, version, license, deps)| {
                let deps: Vec<Value> = deps.iter().map(declared).collect();
                json!({"id": id(name, version), "name": name, "version": version,
                       "license": license, "dependencies": deps})
            })
            .collect();
        let nodes: Vec<Value> = packages
            .iter()
            .map(|&(name, version, _, deps)| {
                let deps: Vec<Value> = deps.iter().map(resolved).collect();
                json!({"id": id(name, version), "deps": deps})
            })
            .collect();
        let json = json!({"packages": list, "workspace_members": members,
                          "resolve": {"nodes": nodes}});
        Metadata::parse(json.to_string().as_bytes()).expect("the fixture is complete")
    }

    #[test]
    fn dev_dependencies_are_not_in_the_tree() {
        let metadata = metadata(
            &["a 1"],
            &[
                ("a", "1", "MIT", &[("b 1", "normal"), ("c 1", "dev")]),
                ("b", "1", "MIT", &[("d 1", "build")]),
                ("c", "1", "MIT", &[]),
                ("d", "1", "MIT", &[]),
            ],
        );
        let names: Vec<_> = metadata
            .tree(|_| true)
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b", "d"]);
    }
}
