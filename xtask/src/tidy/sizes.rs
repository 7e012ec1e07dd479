//! Source files stay short enough to read.

use super::Finding;
use super::source::RustFile;
use super::tree::Tree;

const MAX_LINES: usize = 1200;

/// Tables, which may be as long as what they list, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[];

pub(super) fn check(file: &RustFile) -> Option<Finding> {
    let long = file.lines.len() > MAX_LINES;
    let known = EXCEPTIONS.iter().any(|(path, _)| *path == file.path);
    (long && !known).then(|| {
        let text = format!("{} lines; {MAX_LINES} are the most", file.lines.len());
        Finding::new(&file.path, text)
    })
}

/// The `count` longest source files, the longest first.
pub(super) fn largest(tree: &Tree, count: usize) -> Vec<(usize, &str)> {
    let files = tree.rust().iter();
    let mut sizes: Vec<_> = files
        .map(|file| (file.lines.len(), file.path.as_str()))
        .collect();
    sizes.sort_by(|a, b| b.cmp(a));
    sizes.truncate(count);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found() {
        let file = |lines: usize| RustFile::new("crates/x/src/a.rs", &"x\n".repeat(lines));
        assert_eq!(check(&file(1200)), None);
        assert!(check(&file(1201)).is_some());
    }

    #[test]
    fn the_largest_come_first() {
        let tree = Tree::of(&[("a.rs", "x\n"), ("b.rs", "x\nx\nx\n"), ("c.rs", "x\nx\n")]);
        assert_eq!(largest(&tree, 2), [(3, "b.rs"), (2, "c.rs")]);
    }
}
