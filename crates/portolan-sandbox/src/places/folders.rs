//! Where a user has the folders that keys are about, as xdg-user-dirs has it.

use std::env;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::entitlements::Folder;
use crate::regular::Regular;

/// `None` if the user has turned it off by giving it the whole home for a place.
pub(super) fn place(folder: Folder, home: &Path) -> Option<PathBuf> {
    let named = settings(home).and_then(|text| value(&text, folder.variable(), home));
    let path = named.unwrap_or_else(|| home.join(folder.usual_name()));
    (!home.starts_with(&path)).then_some(path)
}

/// Longer than any that a program writes.
const MAX_BYTES: u64 = 64 << 10;

/// What the user's programs have written down, if it can be read without waiting.
fn settings(home: &Path) -> Option<Vec<u8>> {
    let config = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.filter(|path| path.is_absolute());
    let path = config
        .unwrap_or_else(|| home.join(".config"))
        .join("user-dirs.dirs");
    let file = Regular::at(&path)?.open()?;
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The value of the last line that sets a variable: `XDG_MUSIC_DIR="$HOME/Music"`.
fn value(text: &[u8], variable: &str, home: &Path) -> Option<PathBuf> {
    let lines = text.split(|byte| *byte == b'\n').rev();
    { lines }.find_map(|line| {
        let value = line.trim_ascii().strip_prefix(variable.as_bytes())?;
        let value = value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
        let value = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        path(&unescaped(value), home)
    })
}

fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = value.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => bytes.extend(rest.next()),
            other => bytes.push(*other),
        }
    }
    bytes
}

/// It is absolute, or relative to the home.
fn path(value: &[u8], home: &Path) -> Option<PathBuf> {
    let path = match value.strip_prefix(b"$HOME") {
        Some(below) => {
            let below = OsStr::from_bytes(below);
            home.join(Path::new(below).strip_prefix("/").unwrap_or(below.as_ref()))
        }
        None => PathBuf::from(OsStr::from_bytes(value)),
    };
    path.is_absolute().then(|| path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "/home/alice";

    fn of(text: &str) -> Option<PathBuf> {
        value(text.as_bytes(), "XDG_MUSIC_DIR", Path::new(HOME))
    }

    #[test]
    fn a_folder_is_where_the_last_line_says() {
        let home = Path::new(HOME);
        assert_eq!(
            of("XDG_MUSIC_DIR=\"$HOME/Music\""),
            Some(home.join("Music"))
        );
        assert_eq!(
            of(" XDG_MUSIC_DIR = \"/srv/a\\\"b/\"\n"),
            Some("/srv/a\"b".into())
        );
        let twice = "XDG_MUSIC_DIR=\"/a\"\n#XDG_MUSIC_DIR=\"/c\"\nXDG_MUSIC_DIR=\"/b\"\n";
        assert_eq!(of(twice), Some("/b".into()));
        assert_eq!(of("XDG_MUSIC_DIR=\"$HOME/\""), Some(home.into()));
        for nothing in [
            "",
            "XDG_MUSIC_DIR=\"Music\"",
            "XDG_MUSIC_DIRS=\"/a\"",
            "XDG_MUSIC_DIR=/a",
        ] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }
}
