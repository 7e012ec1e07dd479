//! Paths that start jobs, or keep them alive.
//!
//! One inotify instance looks after the paths of all jobs. A path need not exist: then its nearest
//! parent that does is watched, so nothing is ever looked at again and again, and an idle server
//! sleeps. Parents that are renamed, and symbolic links on the way that are set to something else,
//! are noticed too.
//!
//! | what | fires when |
//! | --- | --- |
//! | [`What::Change`] (`WatchPaths`) | the file is written, created, removed, replaced, or gets other permissions; for a directory, when an entry comes or goes |
//! | [`What::Queue`] (`QueueDirectories`) | something happens in the directory and it is not empty |
//! | [`What::Existence`] (`PathState`, a program that is missing) | the path comes into being or ceases to exist |
//!
//! inotify sees what this machine does. Changes that another one makes to a file system on the
//! network, and those in `/proc` and `/sys`, are not noticed.

mod arm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags};
use rustix::io::Errno;

use arm::{Interest, Meaning};

/// Events that are taken at once, before others get their turn.
const MAX_EVENTS: usize = 1024;

/// What about a path is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Any change.
    Change,
    /// Whether there is something in the directory.
    Queue,
    /// Whether it exists.
    Existence,
}

/// How it is with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has changed, and exists or not ([`What::Change`]).
    Changed {
        /// It exists.
        exists: bool,
    },
    /// The directory has something in it, or not ([`What::Queue`]).
    Filled(bool),
    /// It exists, or not ([`What::Existence`]).
    Exists(bool),
}

/// Something has happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// What the watch was added with.
    pub token: u64,
    /// The path.
    pub path: PathBuf,
    /// How it is now.
    pub state: State,
}

/// The paths that are watched for jobs.
///
/// The descriptor ([`AsFd`]) is readable when there is something to [`take`](Self::take).
#[derive(Debug)]
pub struct Watches {
    inotify: OwnedFd,
    entries: BTreeMap<Key, Entry>,
    last: u64,
    /// What is watched, by the number that inotify has given it.
    watched: HashMap<i32, Vec<(Key, Interest)>>,
}

/// One call of [`Watches::add`]: its token, and a number given out once.
type Key = (u64, u64);

#[derive(Debug)]
struct Entry {
    what: What,
    path: PathBuf,
    /// Numbers of inotify.
    armed: BTreeSet<i32>,
    seen: Seen,
}

/// What tells one state of a path from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen(Option<[i64; 7]>);

impl Watches {
    /// Watches nothing yet.
    ///
    /// # Errors
    ///
    /// What `inotify_init1(2)` says, such as too many instances of this user.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify,
            entries: BTreeMap::new(),
            last: 0,
            watched: HashMap::new(),
        })
    }

    /// Watches an absolute path, and says how it is now. A token may have several.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a path that is not absolute; what `inotify_add_watch(2)` says, such as
    /// `ENOSPC` for too many watches of this user, and `EACCES` for a directory that cannot be read.
    pub fn add(&mut self, token: u64, what: What, path: &Path) -> io::Result<State> {
        if !path.is_absolute() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.last += 1;
        let key = (token, self.last);
        let entry = Entry {
            what,
            path: path.to_path_buf(),
            armed: BTreeSet::new(),
            seen: Seen(None),
        };
        self.entries.insert(key, entry);
        if let Err(errno) = self.arm(key) {
            self.forget(key);
            return Err(errno.into());
        }
        Ok(state(what, path))
    }

    /// Ends all watches with this token.
    pub fn remove(&mut self, token: u64) {
        let keys: Vec<Key> = self.keys(token).collect();
        for key in keys {
            self.forget(key);
        }
    }

    /// How it is with the paths of a token now, for who did not listen for a while: a directory that
    /// was not emptied does not fire again by itself.
    pub fn states(&self, token: u64) -> impl Iterator<Item = Fired> {
        self.keys(token).filter_map(move |key| self.fired(key))
    }

    /// What has happened since the last call, each path once.
    pub fn take(&mut self) -> Vec<Fired> {
        let happened = self.happened();
        let mut fired = Vec::new();
        for (key, meaning) in happened {
            if self.look(key, meaning) {
                fired.extend(self.fired(key));
            }
        }
        fired
    }

    fn keys(&self, token: u64) -> impl Iterator<Item = Key> {
        let range = self.entries.range((token, 0)..=(token, u64::MAX));
        range.map(|(key, _)| *key)
    }

    /// What the next events mean for which entry.
    fn happened(&self) -> BTreeMap<Key, Meaning> {
        let mut happened: BTreeMap<Key, Meaning> = BTreeMap::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut taken = 0;
        // What was read must be looked at to its end.
        while taken < MAX_EVENTS || !events.is_buffer_empty() {
            taken += 1;
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    tracing::error!(%errno, "cannot tell what happens to the paths of jobs");
                    break;
                }
            };
            let (flags, name) = (event.events(), event.file_name());
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                let all = self.entries.keys().map(|key| (*key, Meaning::Anything));
                happened.extend(all);
                continue;
            }
            let name = name.map(|name| OsStr::from_bytes(name.to_bytes()));
            for (key, interest) in self.watched.get(&event.wd()).into_iter().flatten() {
                let meaning = interest.meaning(flags, name);
                let known = happened.entry(*key).or_default();
                *known = meaning.max(*known);
            }
        }
        happened
    }

    /// Whether what has happened is of interest.
    fn look(&mut self, key: Key, meaning: Meaning) -> bool {
        let Some(entry) = self.entries.get(&key) else {
            return false;
        };
        let before = entry.seen.clone();
        let (what, path) = (entry.what, entry.path.clone());
        if meaning >= Meaning::Way {
            self.disarm(key);
            if let Err(errno) = self.arm(key) {
                tracing::warn!(path = %path.display(), %errno, "cannot watch the path of a job");
            }
        } else if meaning == Meaning::Content
            && let Some(entry) = self.entries.get_mut(&key)
        {
            entry.seen = Seen::of(&path);
        }
        let now = self.entries.get(&key).map(|entry| &entry.seen);
        let differs = now != Some(&before);
        match what {
            _ if meaning == Meaning::Nothing => false,
            What::Change => differs || meaning != Meaning::Way,
            What::Queue => state(what, &path) == State::Filled(true),
            What::Existence => {
                let exists = now.is_some_and(|now| now.0.is_some());
                meaning == Meaning::Anything || exists != before.0.is_some()
            }
        }
    }

    fn fired(&self, key: Key) -> Option<Fired> {
        let entry = self.entries.get(&key)?;
        let existence = || entry.seen.0.is_some();
        Some(Fired {
            token: key.0,
            path: entry.path.clone(),
            state: match entry.what {
                What::Change => State::Changed {
                    exists: existence(),
                },
                What::Existence => State::Exists(existence()),
                What::Queue => state(What::Queue, &entry.path),
            },
        })
    }

    fn forget(&mut self, key: Key) {
        self.disarm(key);
        self.entries.remove(&key);
    }
}

impl AsFd for Watches {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Seen {
    fn of(path: &Path) -> Self {
        let found = fs::metadata(path).ok();
        Self(found.map(|found| {
            [
                found.dev().cast_signed(),
                found.ino().cast_signed(),
                found.size().cast_signed(),
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec(),
            ]
        }))
    }
}

fn state(what: What, path: &Path) -> State {
    match what {
        What::Change => State::Changed {
            exists: path.exists(),
        },
        What::Existence => State::Exists(path.exists()),
        What::Queue => {
            State::Filled(fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()))
        }
    }
}
