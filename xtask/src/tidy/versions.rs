//! No crate is built twice in two versions into what is shipped.

use std::collections::BTreeMap;

use super::Finding;
use super::metadata::Metadata;

/// Members that are not shipped, so that their trees do not count.
const NOT_SHIPPED: &[&str] = &["portolan-bench", "portolan-testkit", "xtask"];

/// Crates that may be there in two versions, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[(
    "syn",
    "runs while building only; the macros of enumflags2, for landlock, are not at 3 yet",
)];

pub(super) fn check(metadata: &Metadata) -> Vec<Finding> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in metadata.tree(|member| !NOT_SHIPPED.contains(&member.name.as_str())) {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    let twice = versions.iter().filter(|(_, versions)| versions.len() > 1);
    let twice = twice.filter(|(name, _)| !EXCEPTIONS.iter().any(|(known, _)| known == *name));
    twice
        .map(|(name, versions)| {
            Finding::new(
                *name,
                format!("is in the tree in versions {}", versions.join(", ")),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::metadata::tests::metadata;
    use super::*;

    #[test]
    fn two_versions_are_found_where_they_are_shipped() {
        let packages: &[(_, _, _, &[_])] = &[
            (
                "a",
                "0",
                "MIT",
                &[("b 1", "normal"), ("c 1", "normal"), ("d 1", "normal")],
            ),
            ("b", "1", "MIT", &[("d 2", "normal")]),
            ("c", "1", "MIT", &[("e 2", "dev")]),
            ("d", "1", "MIT", &[("e 1", "normal")]),
            ("d", "2", "MIT", &[]),
            ("e", "1", "MIT", &[]),
            ("e", "2", "MIT", &[]),
        ];
        let found = check(&metadata(&["a 0"], packages));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "d: is in the tree in versions 1, 2");
    }

    #[test]
    fn tools_do_not_count() {
        let packages: &[(_, _, _, &[_])] = &[
            ("xtask", "0", "MIT", &[("d 1", "normal"), ("d 2", "normal")]),
            ("d", "1", "MIT", &[]),
            ("d", "2", "MIT", &[]),
        ];
        assert!(check(&metadata(&["xtask 0"], packages)).is_empty());
    }
}
