//! The licence of every crate in the resolved trees, of tests, benchmarks and fuzz targets too.

use super::Finding;
use super::metadata::Metadata;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(super) fn check(metadata: &Metadata) -> Vec<Finding> {
    let packages = metadata.packages().iter();
    packages
        .filter_map(|package| {
            let problem = match package.license.as_deref() {
                None => "names no licence".to_owned(),
                Some(licence) if is_allowed(licence) => return None,
                Some(licence) => format!("licence {licence} is not in xtask/src/tidy/licences.rs"),
            };
            Some(Finding::new(
                format!("{} {}", package.name, package.version),
                problem,
            ))
        })
        .collect()
}

/// Whether an SPDX expression can be met with allowed licences. The old `MIT/Apache-2.0` is read
/// as `OR`. An expression that is not understood is not allowed.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest).unwrap_or(false) && rest.is_empty()
}

fn any_of(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(rest)?;
    while let ["OR", tail @ ..] = *rest {
        *rest = tail;
        allowed |= all_of(rest)?;
    }
    Some(allowed)
}

fn all_of(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = licence(rest)?;
    while let ["AND", tail @ ..] = *rest {
        *rest = tail;
        allowed &= licence(rest)?;
    }
    Some(allowed)
}

fn licence(rest: &mut &[&str]) -> Option<bool> {
    match **rest {
        ["(", ref tail @ ..] => {
            *rest = tail;
            let allowed = any_of(rest)?;
            *rest = rest.strip_prefix(&[")"])?;
            Some(allowed)
        }
        [name, "WITH", exception, ref tail @ ..] => {
            *rest = tail;
            Some(ALLOWED.contains(&format!("{name} WITH {exception}").as_str()))
        }
        [name, ref tail @ ..] => {
            *rest = tail;
            Some(ALLOWED.contains(&name))
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::tests::metadata;
    use super::*;

    #[test]
    fn one_allowed_alternative_is_enough() {
        assert!(is_allowed("MIT OR Apache-2.0"));
        assert!(is_allowed("GPL-3.0 OR MIT"));
        assert!(is_allowed("MIT/Apache-2.0"));
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR GPL-2.0"));
    }

    #[test]
    fn every_part_of_an_and_must_be_allowed() {
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!is_allowed("MIT AND GPL-3.0"));
        assert!(!is_allowed("(MIT OR Apache-2.0) AND GPL-3.0"));
    }

    #[test]
    fn what_is_not_understood_is_not_allowed() {
        for text in [
            "",
            "OR",
            "MIT MIT",
            "(MIT",
            "MIT)",
            "GPL-3.0",
            "Apache-2.0 WITH Other",
        ] {
            assert!(!is_allowed(text), "{text:?}");
        }
    }

    #[test]
    fn the_crate_is_named() {
        let metadata = metadata(&[], &[("a", "1.2", "GPL-3.0", &[]), ("b", "1", "MIT", &[])]);
        let found = check(&metadata);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "a 1.2");
    }
}
