//! Rules of the code base that the compiler and clippy do not check.
//!
//! Each check is a module with a function from what was read to findings; a rule's exceptions
//! stand in a table in its module, each with its reason.

mod edges;
mod errors;
mod leaks;
mod licences;
mod links;
mod metadata;
mod placeholders;
mod quotes;
mod signatures;
mod sizes;
mod sleeps;
mod source;
mod statements;
mod tree;
mod unsafety;
mod versions;

use std::fmt;
use std::path::Path;

use anyhow::bail;

use crate::command::say;
use crate::fuzz;
use metadata::Metadata;
use tree::Tree;

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// `path`, `path:line` or the name of a crate.
    place: String,
    rule: String,
}

impl Finding {
    fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            rule: rule.into(),
        }
    }

    /// `line` counts from zero, as an index does.
    fn at(path: &str, line: usize, rule: impl Into<String>) -> Self {
        Self::new(format!("{path}:{}", line + 1), rule)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.rule)
    }
}

/// Runs every check over the workspace and fails when there is a finding.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let tree = Tree::read(root)?;
    let metadata = Metadata::read(root)?;
    let fuzz = Metadata::read(&fuzz::folder(root))?;
    let manifest = tree.text("Cargo.toml").unwrap_or_default();

    let mut findings = Vec::new();
    findings.extend(edges::check(&metadata, manifest));
    findings.extend(licences::check(&metadata));
    findings.extend(licences::check(&fuzz));
    findings.extend(versions::check(&metadata));
    for file in tree.rust() {
        findings.extend(unsafety::check(file));
        findings.extend(signatures::check(file));
        findings.extend(placeholders::check(file));
        findings.extend(sleeps::check(file));
        findings.extend(errors::check(file));
        findings.extend(sizes::check(file));
    }
    for file in tree.files() {
        findings.extend(leaks::check(file));
        findings.extend(links::check(file, &tree));
        findings.extend(quotes::check(file, &tree));
    }
    findings.extend(unsafety::check_list(&tree));
    findings.extend(statements::check(&tree));

    say("The ten largest source files:");
    for (lines, path) in sizes::largest(&tree, 10) {
        say(&format!("{lines:7} {path}"));
    }
    for finding in &findings {
        say(&finding.to_string());
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    say("tidy: nothing to complain about");
    Ok(())
}
