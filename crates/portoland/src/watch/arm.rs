//! Which files and directories have to be watched for a path.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::{Key, Seen, Watches, What};

/// Why a file or directory is watched for a path.
#[derive(Debug)]
pub(super) enum Interest {
    /// It is a directory on the way to the path.
    Way,
    /// It has, or will have, an entry on the way to the path, or the path itself.
    Entry(OsString),
    /// It is what the path names.
    Itself,
}

/// What an event means for a path, from the least on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Meaning {
    #[default]
    Nothing,
    /// What it names has changed.
    Content,
    /// It may name something else, or nothing.
    Way,
    /// Events were lost.
    Anything,
}

/// Symbolic links that are followed one into another.
const MAX_LINKS: usize = 8;

/// How often a directory on the way may go while it is looked for.
const ATTEMPTS: usize = 8;

/// What tells that a directory is not what the path goes through any more.
const MOVED: WatchFlags = WatchFlags::MOVE_SELF.union(WatchFlags::DELETE_SELF);

/// What tells that a directory has another entry or lacks one.
const ENTRIES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM);

impl Interest {
    pub(super) fn meaning(&self, event: ReadFlags, name: Option<&OsStr>) -> Meaning {
        let gone =
            ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        if event.intersects(gone) {
            return Meaning::Way;
        }
        let entries = ReadFlags::from_bits_retain(ENTRIES.bits());
        match (self, name) {
            (Self::Entry(entry), Some(name)) if entry == name && event.intersects(entries) => {
                Meaning::Way
            }
            // Of a directory that is watched for others as well, more than this may be told.
            (Self::Itself, Some(_)) if event.intersects(entries) => Meaning::Content,
            (Self::Itself, None) => Meaning::Content,
            _ => Meaning::Nothing,
        }
    }
}

impl Watches {
    /// Watches what there is on the way to the path of an entry, and looks at what it names.
    ///
    /// Each directory is watched before its entry is looked for, so that one that is made meanwhile
    /// is not missed.
    pub(super) fn arm(&mut self, key: Key) -> Result<(), Errno> {
        let Some(entry) = self.entries.get(&key) else {
            return Ok(());
        };
        let (what, path) = (entry.what, entry.path.clone());
        let armed = self.arm_all(key, what, &path);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.seen = Seen::of(&path);
        }
        armed
    }

    fn arm_all(&mut self, key: Key, what: What, path: &Path) -> Result<(), Errno> {
        for _ in 0..ATTEMPTS {
            match self.arm_way(key, path, MAX_LINKS) {
                Err(Errno::AGAIN) => self.disarm(key),
                other => {
                    other?;
                    break;
                }
            }
        }
        match self.watch(key, path, itself(what, path), Interest::Itself) {
            // Not there, or not to be read: then it can still come, go, and be replaced.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => Ok(()),
            other => other,
        }
    }

    /// Watches the directories on the way; `EAGAIN` if one went meanwhile.
    fn arm_way(&mut self, key: Key, path: &Path, links: usize) -> Result<(), Errno> {
        let mut components = path.components().peekable();
        let (mut directory, mut above_is_quiet) = (PathBuf::new(), false);
        while let Some(component) = components.next() {
            directory.push(component);
            let Some(Component::Normal(entry)) = components.peek() else {
                continue;
            };
            let next = directory.join(entry);
            if let (Ok(target), Some(links)) = (fs::read_link(&next), links.checked_sub(1)) {
                self.arm_way(key, &directory.join(target), links)?;
            }
            // All entries are of interest only where one may come or be replaced; elsewhere a busy
            // directory would wake the server for nothing.
            let quiet = next != path && fs::symlink_metadata(&next).is_ok_and(|next| next.is_dir());
            match self.watch_on_the_way(key, &directory, entry, quiet) {
                // The directory above it tells when it comes again, if all its entries are watched.
                Err(Errno::NOENT | Errno::NOTDIR) if above_is_quiet => return Err(Errno::AGAIN),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                // Only that it is renamed stays unnoticed.
                Err(Errno::ACCESS) if quiet => {}
                other => other?,
            }
            above_is_quiet = quiet;
        }
        Ok(())
    }

    fn watch_on_the_way(
        &mut self,
        key: Key,
        directory: &Path,
        entry: &OsStr,
        quiet: bool,
    ) -> Result<(), Errno> {
        if quiet {
            return self.watch(key, directory, MOVED, Interest::Way);
        }
        let interest = Interest::Entry(entry.to_os_string());
        self.watch(key, directory, MOVED | ENTRIES, interest)
    }

    fn watch(
        &mut self,
        key: Key,
        path: &Path,
        events: WatchFlags,
        interest: Interest,
    ) -> Result<(), Errno> {
        // The same directory may be watched for others, and one call would end what another asked.
        let events = events | WatchFlags::MASK_ADD;
        let number = inotify::add_watch(&self.inotify, path, events)?;
        self.watched
            .entry(number)
            .or_default()
            .push((key, interest));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.armed.insert(number);
        }
        Ok(())
    }

    pub(super) fn disarm(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        for number in std::mem::take(&mut entry.armed) {
            let Some(interested) = self.watched.get_mut(&number) else {
                continue;
            };
            interested.retain(|(other, _)| *other != key);
            if interested.is_empty() {
                self.watched.remove(&number);
                // Fails for what is gone, which ended the watch as well.
                inotify::remove_watch(&self.inotify, number).ok();
            }
        }
    }
}

/// What is to be told about what a path names.
fn itself(what: What, path: &Path) -> WatchFlags {
    let is_directory = fs::metadata(path).is_ok_and(|found| found.is_dir());
    match what {
        What::Existence => MOVED,
        What::Queue => MOVED | ENTRIES,
        What::Change if is_directory => MOVED | ENTRIES | WatchFlags::ATTRIB,
        What::Change => MOVED | WatchFlags::MODIFY | WatchFlags::ATTRIB,
    }
}
