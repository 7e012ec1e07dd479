//! `unsafe` stands in few places, and each says why it is sound.

use super::Finding;
use super::source::{RustFile, has_word};
use super::tree::Tree;

/// Crates, or single files, that may use `unsafe`.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/portolan-sys/", "system calls that rustix lacks"),
    ("crates/portolan-ring/", "memory that two processes share"),
    ("crates/portolan-capi/", "C entry points"),
    (
        "crates/portolan-port/src/mapping.rs",
        "maps the memory of rings and of large messages",
    ),
    (
        "crates/portolan-port/src/mapping/",
        "maps memory that is shared by name",
    ),
    (
        "crates/portolan-port/tests/hostile_memory/raw_memory.rs",
        "maps the memory of rings for a hostile peer of a test",
    ),
];

/// How far above an unsafe block its note may begin.
const REACH: usize = 8;

pub(super) fn check(file: &RustFile) -> Vec<Finding> {
    let allowed = ALLOWED
        .iter()
        .any(|(place, _)| file.path.starts_with(place));
    file.lines_with("unsafe")
        .filter_map(|(number, line)| {
            let problem = if !allowed {
                "`unsafe` outside the places that xtask/src/tidy/unsafety.rs lists"
            } else if is_declaration(&line.code) || has_note(file, number) {
                return None;
            } else {
                "`unsafe` without a SAFETY comment right above it"
            };
            Some(Finding::at(&file.path, number, problem))
        })
        .collect()
}

/// The README names every file with `unsafe` in it, or its folder with a `/` at the end.
pub(super) fn check_list(tree: &Tree) -> Vec<Finding> {
    let readme = tree.text("README.md").unwrap_or_default();
    let named: Vec<&str> = readme.split('`').skip(1).step_by(2).collect();
    let is_named = |path: &str| {
        let covers = |name: &&str| name.ends_with('/') && path.starts_with(*name);
        named.iter().any(|name| *name == path || covers(name))
    };
    let files = tree.rust().iter();
    let unnamed =
        files.filter(|file| file.lines_with("unsafe").next().is_some() && !is_named(&file.path));
    let text = "not in the README's list of files with `unsafe`";
    unnamed.map(|file| Finding::new(&file.path, text)).collect()
}

/// A function, a trait or a block of foreign functions: its contract is documented under
/// `# Safety` (clippy sees to that), its uses carry the notes.
fn is_declaration(code: &str) -> bool {
    let mut after = code.split("unsafe").skip(1);
    after.all(|rest| {
        ["fn", "extern", "trait"]
            .iter()
            .any(|word| rest.trim_start().starts_with(word))
            && !has_word(rest, "unsafe")
    })
}

fn has_note(file: &RustFile, number: usize) -> bool {
    let above = &file.lines[number.saturating_sub(REACH)..=number];
    let Some(note) = above
        .iter()
        .rposition(|line| line.comment.contains("SAFETY:"))
    else {
        return false;
    };
    // A note covers the statement below it and not a second block after that.
    let between = &above[note..above.len() - 1];
    !between.iter().any(|line| has_word(&line.code, "unsafe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&RustFile::new(path, text)).len()
    }

    const SYS: &str = "crates/portolan-sys/src/x.rs";

    #[test]
    fn unsafe_is_found_where_it_is_not_allowed() {
        let text = "// SAFETY: fine.\nunsafe { f() }\n";
        assert_eq!(findings("crates/portolan-wire/src/x.rs", text), 1);
        assert_eq!(findings("crates/portolan-port/src/x.rs", text), 1);
        assert_eq!(findings("crates/portolan-port/src/mapping.rs", text), 0);
        assert_eq!(findings(SYS, text), 0);
    }

    #[test]
    fn an_unsafe_block_needs_its_own_note() {
        assert_eq!(findings(SYS, "unsafe { f() }\n"), 1);
        assert_eq!(
            findings(SYS, "// SAFETY: fine.\nunsafe { f() };\nunsafe { g() };\n"),
            1
        );
        assert_eq!(
            findings(
                SYS,
                "// SAFETY: two\n// lines.\nlet x =\n    unsafe { f() };\n"
            ),
            0
        );
        assert_eq!(findings(SYS, "unsafe impl Send for X {}\n"), 1);
    }

    #[test]
    fn a_declaration_needs_no_note() {
        assert_eq!(
            findings(SYS, "pub unsafe fn f() {}\nunsafe extern \"C\" {}\n"),
            0
        );
    }

    #[test]
    fn the_name_of_the_lint_and_comments_do_not_count() {
        let text = "#![deny(unsafe_code)]\n// unsafe\nlet x = \"unsafe\";\n";
        assert_eq!(findings("crates/portolan-wire/src/x.rs", text), 0);
    }

    #[test]
    fn the_readme_lists_every_file() {
        let source = "unsafe { f() }\n";
        let found = |readme| {
            let tree = Tree::of(&[
                ("README.md", readme),
                (SYS, source),
                ("a.rs", "fn f() {}\n"),
            ]);
            check_list(&tree).len()
        };
        assert_eq!(found("none"), 1);
        assert_eq!(found("`crates/portolan-sys/src/x.rs`"), 0);
        assert_eq!(found("`crates/portolan-sys/src/`"), 0);
        assert_eq!(found("`crates/portolan-sys`"), 1);
    }
}
