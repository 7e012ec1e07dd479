//! Man pages and completions are made from the same definitions.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::said;

fn pages(directory: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(directory).expect("man pages");
    let mut pages: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read_to_string(path).expect("a page"))
        })
        .filter(|(name, _)| name.starts_with("kdbridge"))
        .collect();
    pages.sort();
    pages
}

#[test]
fn the_man_pages_in_the_repository_are_these() {
    let folder = TempDir::new().expect("a folder");
    said(&["man", folder.path().to_str().expect("a path")]);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/man");
    let (made, kept) = (pages(folder.path()), pages(&kept));
    let advice = "run `kdbridge man docs/man`";
    let names =
        |pages: &[(String, String)]| pages.iter().map(|page| page.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&made), names(&kept), "{advice}");
    for (made, kept) in made.iter().zip(&kept) {
        assert!(made == kept, "{} is old: {advice}", made.0);
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            said(&["completions", shell]).contains("boot-args"),
            "{shell}"
        );
    }
}
