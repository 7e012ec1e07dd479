//! A test that sleeps to win a race loses it on a busy machine.

use super::Finding;
use super::source::RustFile;

/// Files whose tests may sleep, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[(
    "crates/kdbridge/tests/stubs/hostile.rs",
    "a stub that takes its time is slower on a busy machine, and what is tested is that it is given up",
)];

pub(super) fn check(file: &RustFile) -> Vec<Finding> {
    if EXCEPTIONS.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    let test_kit = file.krate() == "portolan-testkit";
    file.lines_with("sleep")
        .filter(|(_, line)| (line.in_test || test_kit) && line.code.contains("sleep("))
        .map(|(number, _)| {
            let text = "a test sleeps: wait for the event, or list it in xtask/src/tidy/sleeps.rs";
            Finding::at(&file.path, number, text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str) -> usize {
        let text = "fn f() {\n    std::thread::sleep(MOMENT); // sleep(1)\n}\n";
        check(&RustFile::new(path, text)).len()
    }

    #[test]
    fn sleeping_is_found_in_tests_only() {
        assert_eq!(findings("crates/x/tests/a.rs"), 1);
        assert_eq!(findings("crates/portolan-testkit/src/lib.rs"), 1);
        assert_eq!(findings("crates/x/src/a.rs"), 0);
    }
}
