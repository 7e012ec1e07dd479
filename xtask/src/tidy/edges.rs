//! Which crate may depend on which. A dependency that is not in the table is refused.

use super::Finding;
use super::metadata::{Dependency, Metadata, Package};

struct Rule {
    krate: &'static str,
    /// Crates of this workspace.
    internal: &'static [&'static str],
    /// Crates of this workspace, only behind a feature.
    optional: &'static [&'static str],
    external: External,
}

enum External {
    /// Only these: what a user of the library has to build and to trust.
    Only(&'static [&'static str]),
    /// Programs and tools: whatever the workspace's manifest lists with a reason.
    Listed,
}

use External::{Listed, Only};

/// Crates that only tests and benchmarks use, as dev-dependencies.
const DEV_ONLY: &[&str] = &["portolan-testkit", "portolan-bench"];

const RULES: &[Rule] = &[
    rule("portolan-sys", &[], Only(&["rustix", "libc"])),
    rule("portolan-ring", &[], Only(&[])),
    rule("portolan-wire", &[], Only(&["thiserror"])),
    rule(
        "portolan-port",
        &["portolan-sys", "portolan-ring", "portolan-wire"],
        Only(&["rustix", "thiserror"]),
    ),
    Rule {
        optional: &["portoland"],
        ..rule(
            "portolan",
            &["portolan-port", "portolan-wire"],
            Only(&["rustix", "thiserror"]),
        )
    },
    rule(
        "portolan-sandbox",
        &["portolan-sys", "portolan-wire"],
        Only(&["landlock", "plist", "rustix", "serde", "thiserror", "toml"]),
    ),
    rule(
        "portoland",
        &[
            "portolan-port",
            "portolan-wire",
            "portolan-sandbox",
            "portolan-sys",
        ],
        Listed,
    ),
    rule("portolan-capi", &["portolan"], Only(&[])),
    rule(
        "portolan-cli",
        &["portolan", "portolan-sandbox", "portoland"],
        Listed,
    ),
    rule("kdbridge", &[], Listed),
    rule("portolan-testkit", TESTABLE, Listed),
    rule("portolan-bench", TESTABLE, Listed),
    rule("xtask", &[], Listed),
];

const TESTABLE: &[&str] = &[
    "portolan",
    "portolan-port",
    "portolan-ring",
    "portolan-sandbox",
    "portolan-sys",
    "portolan-wire",
    "portoland",
];

const fn rule(krate: &'static str, internal: &'static [&'static str], external: External) -> Rule {
    Rule {
        krate,
        internal,
        optional: &[],
        external,
    }
}

/// `manifest` is the text of the workspace's `Cargo.toml`.
pub(super) fn check(metadata: &Metadata, manifest: &str) -> Vec<Finding> {
    let members: Vec<&Package> = metadata.members().collect();
    let reasoned = reasoned_dependencies(manifest);
    let mut findings = Vec::new();
    for package in &members {
        let Some(rule) = RULES.iter().find(|rule| rule.krate == package.name) else {
            let text = "not in the table of xtask/src/tidy/edges.rs: say there what it may use";
            findings.push(Finding::new(&package.name, text));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| !dependency.is_for_tests())
        {
            let is_member = members.iter().any(|member| member.name == dependency.name);
            let problem = if is_member {
                internal_problem(rule, dependency)
            } else {
                external_problem(rule, &dependency.name, &reasoned)
            };
            findings.extend(problem.map(|problem| Finding::new(&package.name, problem)));
        }
    }
    findings
}

fn internal_problem(rule: &Rule, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    if DEV_ONLY.contains(&name) {
        return Some(format!(
            "depends on {name}, which is for dev-dependencies only"
        ));
    }
    let allowed =
        rule.internal.contains(&name) || (rule.optional.contains(&name) && dependency.optional);
    (!allowed).then(|| format!("must not depend on {name}"))
}

fn external_problem(rule: &Rule, name: &str, reasoned: &[&str]) -> Option<String> {
    if matches!(rule.external, Only(allowed) if !allowed.contains(&name)) {
        return Some(format!(
            "must not depend on {name}: xtask/src/tidy/edges.rs does not list it"
        ));
    }
    (!reasoned.contains(&name)).then(|| {
        format!("depends on {name}, which has no reason (a comment) in the workspace's Cargo.toml")
    })
}

/// The keys of `[workspace.dependencies]` that stand below a comment, without an empty line in
/// between.
fn reasoned_dependencies(manifest: &str) -> Vec<&str> {
    let section = manifest
        .lines()
        .skip_while(|line| line.trim() != "[workspace.dependencies]");
    let mut reasoned = false;
    let mut names = Vec::new();
    for line in section.skip(1).take_while(|line| !line.starts_with('[')) {
        if line.trim().is_empty() {
            reasoned = false;
        } else if line.starts_with('#') {
            reasoned = true;
        } else if let Some((name, _)) = line.split_once([' ', '=', '.'])
            && reasoned
        {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::metadata::tests::metadata;
    use super::*;

    const MANIFEST: &str = "[workspace.dependencies]\nportolan = { path = \"x\" }\n\n\
        # System calls.\nrustix = \"1\"\nlibc = \"0.2\"\n\nclap = \"4\"\n[profile.release]\n";

    fn findings(krate: &str, dependency: (&str, &str)) -> Vec<String> {
        let name = format!("{krate} 0");
        let other = dependency.0.split(' ').next().expect("a name");
        let members = [
            name.as_str(),
            "portolan-sys 0",
            "portoland 0",
            "portolan-testkit 0",
        ];
        let dependencies = [dependency];
        let packages = [
            (krate, "0", "MIT", dependencies.as_slice()),
            (other, "0", "MIT", [].as_slice()),
        ];
        let findings = check(&metadata(&members, &packages), MANIFEST);
        findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn an_edge_of_the_table_passes() {
        assert!(findings("portolan-port", ("portolan-sys 0", "normal")).is_empty());
        assert!(findings("portolan-sys", ("rustix 1", "normal")).is_empty());
    }

    #[test]
    fn an_edge_between_crates_that_is_not_in_the_table_is_found() {
        let found = findings("portolan-wire", ("portolan-sys 0", "normal"));
        assert_eq!(found, ["portolan-wire: must not depend on portolan-sys"]);
    }

    #[test]
    fn an_edge_behind_a_feature_must_be_optional() {
        assert!(findings("portolan", ("portoland 0", "optional")).is_empty());
        assert_eq!(findings("portolan", ("portoland 0", "normal")).len(), 1);
    }

    #[test]
    fn the_test_kit_is_for_dev_dependencies() {
        assert!(findings("portolan-port", ("portolan-testkit 0", "dev")).is_empty());
        assert_eq!(
            findings("portolan-cli", ("portolan-testkit 0", "normal")).len(),
            1
        );
    }

    #[test]
    fn a_library_takes_only_its_own_externals() {
        let found = findings("portolan-wire", ("rustix 1", "normal"));
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn what_only_model_checks_use_is_free() {
        assert!(findings("portolan-ring", ("loom 0", "loom")).is_empty());
        assert_eq!(findings("portolan-ring", ("loom 0", "normal")).len(), 1);
    }

    #[test]
    fn an_external_dependency_without_a_reason_is_found() {
        assert_eq!(findings("portolan-cli", ("clap 4", "normal")).len(), 1);
        assert!(findings("portolan-cli", ("libc 0", "normal")).is_empty());
    }

    #[test]
    fn an_unknown_crate_is_found() {
        assert_eq!(findings("portolan-common", ("libc 0", "normal")).len(), 1);
    }

    #[test]
    fn a_comment_counts_up_to_the_next_empty_line() {
        assert_eq!(reasoned_dependencies(MANIFEST), ["rustix", "libc"]);
    }
}
