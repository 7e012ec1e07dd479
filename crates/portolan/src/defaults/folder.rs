//! The file, and the folders that lead to it.
//!
//! Any member of the group may have put something else in their place, so no link is followed below
//! the folder that was there before, and what is read is a file of this user, of bounded length.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use portolan_wire::defaults::{Image, ImageError, MAX_BYTES};
use portolan_wire::group::GroupId;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use thiserror::Error;

/// How long a writer waits for another.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a writer sleeps at most before it tries the lock again: flock has no time-out.
const MAX_NAP: Duration = Duration::from_millis(8);

const PRIVATE_FOLDER: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

#[derive(Clone, Debug)]
pub(super) struct Folder {
    base: PathBuf,
    below: Vec<String>,
    /// Of the file, without an extension.
    name: String,
}

/// The folder, while nobody else writes.
pub(super) struct Locked<'a> {
    folder: &'a Folder,
    directory: OwnedFd,
    /// The kernel unlocks it with the last descriptor, whatever ends this process.
    _lock: OwnedFd,
}

impl Folder {
    pub(super) fn new(base: PathBuf, below: Vec<String>, group: &GroupId) -> Self {
        let name = group.as_str().to_owned();
        Self { base, below, name }
    }

    /// Nothing is there before the first write.
    pub(super) fn read(&self) -> Result<Option<Image>, ReadError> {
        match self.open() {
            Ok(directory) => self.read_in(directory.as_fd()),
            Err(ReadError::System(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Waits for the lock.
    pub(super) fn lock(&self) -> Result<Locked<'_>, ReplaceError> {
        let directory = self.make()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let name = format!("{}.lock", self.name);
        let file = rustix::fs::openat(&directory, name, flags | OFlags::CLOEXEC, PRIVATE_FILE);
        let file = file.map_err(|errno| ReplaceError::Write(errno.into()))?;
        lock(&file)?;
        Ok(Locked {
            folder: self,
            directory,
            _lock: file,
        })
    }

    fn open(&self) -> Result<OwnedFd, ReadError> {
        self.walk(|_, _| Ok(()))
    }

    /// Makes what is missing.
    fn make(&self) -> Result<OwnedFd, ReadError> {
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(PRIVATE_FOLDER.bits());
        folders.create(&self.base)?;
        self.walk(
            |above, name| match rustix::fs::mkdirat(above, name, PRIVATE_FOLDER) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            },
        )
    }

    fn walk(
        &self,
        before: impl Fn(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<OwnedFd, ReadError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A confined program may pass through the folders of others, and not read them.
        let passing = flags | OFlags::PATH;
        let open = |last| match last {
            true => flags | OFlags::RDONLY,
            false => passing,
        };
        let base_is_last = self.below.is_empty();
        let mut here = rustix::fs::openat(CWD, &self.base, open(base_is_last), Mode::empty())?;
        for (index, name) in self.below.iter().enumerate() {
            before(here.as_fd(), name)?;
            let flags = open(index + 1 == self.below.len()) | OFlags::NOFOLLOW;
            here = match rustix::fs::openat(&here, name, flags, Mode::empty()) {
                Err(Errno::LOOP | Errno::NOTDIR) => return Err(ReadError::UnsafeFolder),
                other => other?,
            };
        }
        let found = rustix::fs::fstat(&here)?;
        match is_own(&found) && found.st_mode & 0o022 == 0 {
            true => Ok(here),
            false => Err(ReadError::UnsafeFolder),
        }
    }

    fn read_in(&self, directory: BorrowedFd<'_>) -> Result<Option<Image>, ReadError> {
        // Whoever opens a pipe waits for its other end, unless it does not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, self.file(), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(ReadError::NotAFile),
            other => other?,
        };
        let found = rustix::fs::fstat(&file)?;
        if !FileType::from_raw_mode(found.st_mode).is_file() || !is_own(&found) {
            return Err(ReadError::NotAFile);
        }
        // It may grow while it is read; one byte more than fits is enough to refuse it.
        let mut bytes = Vec::new();
        let limit = MAX_BYTES as u64 + 1;
        File::from(file).take(limit).read_to_end(&mut bytes)?;
        Ok(Some(Image::decode(&bytes)?))
    }

    fn file(&self) -> String {
        format!("{}.defaults", self.name)
    }
}

impl Locked<'_> {
    pub(super) fn read(&self) -> Result<Option<Image>, ReadError> {
        self.folder.read_in(self.directory.as_fd())
    }

    /// Puts a new file in the place of the old one. Before and after a crash of the machine there is
    /// one of them, whole.
    pub(super) fn replace(&self, bytes: &[u8]) -> Result<(), ReplaceError> {
        self.put(bytes).map_err(ReplaceError::Write)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{}.new", self.folder.name);
        // What a killed writer has left.
        match rustix::fs::unlinkat(&self.directory, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(other) => return Err(other.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &new, flags, PRIVATE_FILE)?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.sync_data()?;
        rustix::fs::renameat(&self.directory, &new, &self.directory, self.folder.file())?;
        Ok(rustix::fs::fsync(&self.directory)?)
    }
}

/// Defaults without values, with an id of their own.
pub(super) fn fresh() -> Result<Image, ReadError> {
    let mut id = [0; 8];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(Image::new(u64::from_ne_bytes(id)))
}

fn lock(file: &OwnedFd) -> Result<(), ReplaceError> {
    let start = Instant::now();
    let mut nap = Duration::from_micros(100);
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => thread::sleep(nap),
            Err(Errno::WOULDBLOCK) => return Err(ReplaceError::Busy),
            Err(Errno::INTR) => {}
            Err(other) => return Err(ReplaceError::Write(other.into())),
        }
        nap = (nap * 2).min(MAX_NAP);
    }
}

fn is_own(found: &Stat) -> bool {
    found.st_uid == rustix::process::geteuid().as_raw()
}

/// The defaults of a group cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A folder on the way is a link, another user's, or one that others can write to.
    #[error("a folder of the group's container is a link or not this user's alone")]
    UnsafeFolder,
    /// In the place of the file is a link, another user's file, or something else.
    #[error("in the place of the group's defaults is something else than a file of this user")]
    NotAFile,
    /// The file is broken.
    #[error("the file of the group's defaults is broken")]
    Broken(#[from] ImageError),
    /// The kernel refused.
    #[error("the group's defaults cannot be read")]
    System(#[from] io::Error),
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// The file was not replaced.
#[derive(Debug)]
pub(super) enum ReplaceError {
    Read(ReadError),
    Busy,
    Write(io::Error),
}

impl From<ReadError> for ReplaceError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
