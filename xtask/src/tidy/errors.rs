//! A library's errors are types: `anyhow` is for programs, the test kit and tools.

use super::Finding;
use super::source::RustFile;

/// Crates that no other crate uses as a library.
const PROGRAMS: &[&str] = &[
    "portolan-cli",
    "portolan-testkit",
    "portolan-bench",
    "xtask",
];

pub(super) fn check(file: &RustFile) -> Vec<Finding> {
    if PROGRAMS.contains(&file.krate()) || !is_library(&file.path) {
        return Vec::new();
    }
    let lines = file.lines_with("anyhow").filter(|(_, line)| !line.in_test);
    let findings =
        lines.map(|(number, _)| Finding::at(&file.path, number, "`anyhow` in a library"));
    findings.collect()
}

fn is_library(path: &str) -> bool {
    let Some((_, source)) = path.split_once("/src/") else {
        return false;
    };
    source != "main.rs" && !source.starts_with("bin/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str) -> usize {
        check(&RustFile::new(path, "use anyhow::Context;\n")).len()
    }

    #[test]
    fn anyhow_is_found_in_libraries_only() {
        assert_eq!(findings("crates/portoland/src/server.rs"), 1);
        assert_eq!(findings("crates/portoland/src/main.rs"), 0);
        assert_eq!(findings("crates/portoland/tests/a.rs"), 0);
        assert_eq!(findings("crates/portolan-cli/src/run.rs"), 0);
    }
}
