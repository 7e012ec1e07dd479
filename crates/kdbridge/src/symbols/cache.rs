//! What was worked out about a kernel, kept on disk for the next time under its build-id, or another name
//! of its build.
//!
//! Nothing depends on it: what is not there, damaged, or of another version is worked out again, and
//! what cannot be written is not.

use std::env;
use std::fmt::Display;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use super::bytes::Bytes;

const MAGIC: &[u8; 8] = b"kdbridge";
const HEADER: usize = 24;
/// Nothing longer is read.
const MOST_BYTES: u64 = 256 << 20;

/// A folder of things that were worked out before.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// `$XDG_CACHE_HOME/kdbridge`, or `~/.cache/kdbridge`; without either of them, nothing is kept.
    #[must_use]
    pub fn of_user() -> Self {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|it| it.is_absolute())
        };
        let folder =
            absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        Self {
            folder: folder.map(|it| it.join("kdbridge")),
        }
    }

    /// Keeps things in `folder`, which is made if need be.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self {
            folder: Some(folder),
        }
    }

    /// Keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { folder: None }
    }

    /// Where it is, if anything is kept.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What was stored as `what` of a build, if it is whole.
    #[must_use]
    pub fn load(&self, of: &impl Display, what: &str) -> Option<Vec<u8>> {
        let path = self.path(of, what)?;
        if fs::metadata(&path).ok()?.len() > MOST_BYTES {
            return None;
        }
        let mut bytes = fs::read(path).ok()?;
        let (length, sum) = (bytes.u64(8)?, bytes.u64(16)?);
        let content = bytes.get(HEADER..)?;
        let is_whole = bytes.starts_with(MAGIC)
            && length == content.len() as u64
            && sum == checksum(what, content);
        is_whole.then(|| bytes.split_off(HEADER))
    }

    /// Stores `content`; a reader sees all of it or nothing.
    pub fn store(&self, of: &impl Display, what: &str, content: &[u8]) {
        if let Some(path) = self.path(of, what) {
            // The next run has to work it out again, which is all that failing here means.
            drop(write(&path, what, content));
        }
    }

    pub(crate) fn load_words(&self, of: &impl Display, what: &str) -> Option<Vec<u64>> {
        let bytes = self.load(of, what)?;
        let (words, rest) = bytes.as_chunks();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        rest.is_empty().then(|| words.collect())
    }

    pub(crate) fn store_words(&self, of: &impl Display, what: &str, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.store(of, what, &bytes);
    }

    fn path(&self, of: &impl Display, what: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(format!("{of}.{what}")))
    }
}

fn write(path: &Path, what: &str, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let ours = path.with_added_extension(process::id().to_string());
    let written = write_new(&ours, what, content).and_then(|()| fs::rename(&ours, path));
    if written.is_err() {
        drop(fs::remove_file(&ours));
    }
    written
}

fn write_new(path: &Path, what: &str, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&(content.len() as u64).to_le_bytes())?;
    file.write_all(&checksum(what, content).to_le_bytes())?;
    file.write_all(content)
}

fn checksum(what: &str, content: &[u8]) -> u64 {
    let (words, rest) = content.as_chunks();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let bytes = rest.iter().chain(what.as_bytes()).map(|&it| u64::from(it));
    hash(words.chain(bytes))
}

/// FNV-1a over words: against damage, not against malice. What is kept on disk depends on it.
pub(crate) fn hash(words: impl Iterator<Item = u64>) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ word).wrapping_mul(PRIME).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::BuildId;
    use tempfile::TempDir;

    fn id() -> BuildId {
        BuildId::new(&[7; 20]).unwrap()
    }

    fn only_file(folder: &TempDir) -> PathBuf {
        let mut files = fs::read_dir(folder.path()).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none(), "nothing is left of the writing");
        file
    }

    #[test]
    fn what_was_stored_is_loaded_under_its_name_only() {
        let folder = TempDir::new().unwrap();
        let cache = Cache::at(folder.path().join("new"));
        cache.store_words(&id(), "units-1", &[1, 2, 3]);
        assert_eq!(cache.load_words(&id(), "units-1").unwrap(), [1, 2, 3]);
        assert_eq!(cache.load(&id(), "units-2"), None);
        assert_eq!(
            cache.load(&BuildId::new(&[8; 20]).unwrap(), "units-1"),
            None
        );
        cache.store(&id(), "units-1", b"new");
        assert_eq!(cache.load(&id(), "units-1").unwrap(), b"new");
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let folder = TempDir::new().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        cache.store(&id(), "units-1", b"some content");
        let path = only_file(&folder);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert_eq!(cache.load(&id(), "units-1"), None, "byte {at} was changed");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(cache.load(&id(), "units-1"), None, "cut after {at} bytes");
        }
        fs::rename(&path, folder.path().join(format!("{}.other", id()))).unwrap();
        assert_eq!(cache.load(&id(), "other"), None, "it is something else");
    }

    #[test]
    fn a_folder_that_cannot_be_made_does_no_harm() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = Cache::at(file.join("below"));
        cache.store(&id(), "units-1", b"content");
        assert_eq!(cache.load(&id(), "units-1"), None);
        Cache::none().store(&id(), "units-1", b"content");
    }
}
