//! A folder for what is needed as long as the program runs.
//!
//! It is removed when it is dropped, and a program that is killed leaves it. So whoever makes one removes those that
//! were left: who has made a folder holds a lock on it, and the kernel takes that off when the program ends.

use std::env;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;
use rustix::process::geteuid;
use tempfile::TempDir;

const PREFIX: &str = "kdbridge-";

/// How often a folder is made that somebody takes for one that was left, before it is locked.
const TRIES: u32 = 8;

/// A folder that only its owner can enter.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _lock: OwnedFd,
}

impl Scratch {
    /// In the place for files that do not stay, `$TMPDIR` or `/tmp`.
    ///
    /// # Errors
    ///
    /// What the system says. That something is left which cannot be removed is none.
    pub fn new() -> io::Result<Self> {
        Self::within(&env::temp_dir())
    }

    fn within(place: &Path) -> io::Result<Self> {
        remove_left(place);
        for _ in 0..TRIES {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
            if let Some(lock) = hold(folder.path())? {
                return Ok(Self {
                    folder,
                    _lock: lock,
                });
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders of this user that nobody holds.
fn remove_left(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes());
        let path = entry.path();
        if ours && let Ok(Some(_lock)) = hold(&path) {
            // What cannot be removed stays.
            fs::remove_dir_all(&path).ok();
        }
    }
}

/// Locks a folder of this user; `None` if it is another's, is locked, or is no more.
fn hold(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        folder => folder?,
    };
    if fstat(&folder)?.st_uid != geteuid().as_raw() {
        return Ok(None);
    }
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    // It may have been removed meanwhile.
    let is_there = fstat(&folder)?.st_nlink > 0;
    Ok(is_there.then_some(folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn make(place: &Path) -> Scratch {
        Scratch::within(place).unwrap()
    }

    #[test]
    fn a_folder_is_removed_with_its_contents() {
        let place = tempfile::tempdir().unwrap();
        let scratch = make(place.path());
        fs::write(scratch.path().join("file"), "text").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_was_left_is_removed_by_the_next_one() {
        let place = tempfile::tempdir().unwrap();
        let Scratch { folder, _lock } = make(place.path());
        let left = folder.keep();
        fs::create_dir(left.join("folder")).unwrap();
        fs::write(left.join("folder/file"), "text").unwrap();
        let other = make(place.path());
        assert!(left.exists());
        drop(_lock);
        let another = make(place.path());
        assert!(!left.exists());
        assert!(other.path().exists() && another.path().exists());
    }

    #[test]
    fn nothing_else_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let precious = place.path().join("folder");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "text").unwrap();
        symlink(&precious, place.path().join("kdbridge-link")).unwrap();
        fs::write(place.path().join("kdbridge-file"), "text").unwrap();
        drop(make(place.path()));
        assert_eq!(fs::read(precious.join("file")).unwrap(), b"text");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
    }
}
