//! Sessions with debuggers as the guide shows them.
//!
//! What a session says is compared with a text in this folder, once what differs from one time to the
//! next has the same name in both. `tests/cli/guide.rs` sees to it that the guide has these texts.

use std::fs;
use std::path::{Path, PathBuf};

/// Compares what was said with the transcript of this name.
#[track_caller]
pub(crate) fn assert_transcript(name: &str, said: &str) {
    let path = folder().join(name);
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if said != expected {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&new, said).expect("room");
        panic!("diff {} {}:\n{said}", path.display(), new.display());
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// Gives every address, every UUID and what `names` lists the same name at any time.
pub(crate) fn normalised(said: &str, names: &[(&str, &str)]) -> String {
    let replace = |said: String, (from, to): &(&str, &str)| said.replace(from, to);
    let said = names.iter().fold(said.to_owned(), replace);
    let lines = said.lines().map(|line| plain(line.trim_end()) + "\n");
    lines.collect()
}

/// Where the kernel of a transcript is, and nowhere; these stay as they are.
const KEPT: [&str; 2] = ["0xffffff800f800000", "0x0000000000000000"];

fn plain(line: &str) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut plain = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match is_of_word(first) {
            true => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        plain += match word {
            word if KEPT.contains(&word) => word,
            word if is_address(word) => "0x…",
            word if is_uuid(word) => "C75BDFDD-9F27-3694-BB80-73CF991C13D8",
            word => word,
        };
        rest = after;
    }
    plain
}

/// Small numbers are none.
fn is_address(word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or_default();
    digits.len() > 8 && digits.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_uuid(word: &str) -> bool {
    let groups = word.split('-').map(str::len);
    groups.eq([8, 4, 4, 4, 12]) && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}
