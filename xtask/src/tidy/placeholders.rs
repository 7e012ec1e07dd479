//! Nothing half done, switched off or silenced wholesale.

use super::Finding;
use super::source::{RustFile, has_word};

pub(super) fn check(file: &RustFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.lines.iter().enumerate() {
        let code: String = line.code.split_whitespace().collect();
        let mut found = |rule: &str| findings.push(Finding::at(&file.path, number, rule));
        for name in ["todo!", "unimplemented!", "dbg!"] {
            if is_macro_call(&code, name) {
                found(&format!("`{name}` is not for keeps"));
            }
        }
        if code.contains("#[ignore") || code.contains(",ignore)]") {
            found("an ignored test: mend it or delete it");
        }
        if file.is_crate_root() && code.starts_with("#![allow(") && !is_unsafe_test(file, number) {
            found("a lint allowed for a whole crate: allow it where it is needed");
        }
    }
    findings
}

/// A test that may use `unsafe` (see `unsafety`) is a crate of one file and has no narrower place.
fn is_unsafe_test(file: &RustFile, number: usize) -> bool {
    let mut attribute = file.lines[number..].iter().take(2);
    attribute.any(|line| line.in_test && has_word(&line.code, "unsafe_code"))
}

fn is_macro_call(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&RustFile::new(path, text)).len()
    }

    #[test]
    fn placeholders_are_found_in_code_only() {
        let path = "crates/x/src/a.rs";
        assert_eq!(findings(path, "fn f() { todo!() }\n"), 1);
        assert_eq!(findings(path, "    let x = dbg!(1);\n"), 1);
        assert_eq!(findings(path, "unimplemented!(\"later\")\n"), 1);
        assert_eq!(
            findings(path, "// todo!()\nlet x = \"dbg!(1)\"; not_todo!();\n"),
            0
        );
    }

    #[test]
    fn ignored_tests_are_found() {
        let path = "crates/x/tests/a.rs";
        assert_eq!(findings(path, "#[test]\n#[ignore]\nfn f() {}\n"), 1);
        assert_eq!(findings(path, "#[ignore = \"slow\"]\n"), 1);
        assert_eq!(findings(path, "#[cfg_attr(miri, ignore)]\n"), 1);
    }

    #[test]
    fn only_a_crate_root_allows_for_a_crate() {
        let text = "#![allow(missing_docs)]\n";
        assert_eq!(findings("crates/x/src/lib.rs", text), 1);
        assert_eq!(findings("crates/x/tests/a.rs", text), 1);
        assert_eq!(findings("crates/x/src/a.rs", text), 0);
    }

    #[test]
    fn a_test_may_allow_unsafe_code_for_its_one_file() {
        let text = "#![allow(\n    unsafe_code,\n    reason = \"fork\"\n)]\n";
        assert_eq!(findings("crates/x/tests/a.rs", text), 0);
        assert_eq!(findings("crates/x/src/lib.rs", text), 1);
    }
}
