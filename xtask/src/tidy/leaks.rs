//! Nothing in the repository names the machine it was written on, or a server to fetch from.

use super::Finding;
use super::tree::TextFile;

/// Put together here, so that this file does not hold them.
const WORDS: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a folder of one machine"),
    (concat!("/ro", "ot/"), "a folder of one machine"),
    (concat!("/tmp/tar", "get"), "a folder of one machine"),
    (
        concat!("index.", "crates.io"),
        "the host of a package registry",
    ),
    (
        concat!("static.", "crates.io"),
        "the host of a package registry",
    ),
    (
        concat!("deb.", "debian.org"),
        "the host of a package registry",
    ),
    (concat!("pypi", ".org"), "the host of a package registry"),
    (concat!("npmjs", ".org"), "the host of a package registry"),
];

pub(super) fn check(file: &TextFile) -> Vec<Finding> {
    // Cargo writes the registry's address there.
    if file.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (word, what) in WORDS.iter().filter(|(word, _)| line.contains(word)) {
            findings.push(Finding::at(&file.path, number, format!("{word} is {what}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        })
        .len()
    }

    #[test]
    fn folders_and_hosts_are_found() {
        assert_eq!(findings("a.md", concat!("fine\nsee /wo", "rk/x\n")), 1);
        assert_eq!(
            findings("Cargo.toml", concat!("https://index.", "crates.io/\n")),
            1
        );
        assert_eq!(
            findings(
                "a.md",
                "the framework, and https://crates.io/crates/rustix\n"
            ),
            0
        );
    }

    #[test]
    fn the_lock_file_is_left_alone() {
        assert_eq!(
            findings("Cargo.lock", concat!("https://index.", "crates.io/\n")),
            0
        );
    }
}
