//! The guide shows sessions as they are: what is compared with real debuggers is what it has.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("text")
}

#[test]
fn k28_the_guide_has_the_sessions_that_were_played() {
    let chapters = files("../../docs/guide", "md");
    let chapters: Vec<String> = chapters.iter().map(|path| text(path)).collect();
    let sessions = files("tests/transcripts", "txt");
    assert!(sessions.len() >= 6, "{sessions:?}");
    for session in sessions {
        let block = format!("```text\n{}```\n", text(&session));
        let shown = chapters.iter().any(|chapter| chapter.contains(&block));
        assert!(shown, "no chapter of docs/guide has {}", session.display());
    }
}
