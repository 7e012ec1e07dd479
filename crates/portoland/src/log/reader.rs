//! Reading a log while it is written.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use portolan_wire::label::JobLabel;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::{MAX_OLD_FILES, file_name, open_directory, rotated};

/// A log could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The job has never written anything, or there is no such job.
    #[error("there is no log at {}", path.display())]
    NoLog {
        /// Where it would be.
        path: PathBuf,
    },
    /// The directory of the logs was removed.
    #[error("{} is gone", directory.display())]
    Gone {
        /// The directory.
        directory: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What was read could not be passed on.
    #[error("cannot write what was read")]
    Write(#[source] io::Error),
}

/// Reads the log of one job, with the files that were put away, and follows it.
///
/// It only ever reads, so however slow it is, whoever writes the log does not notice. Lines that
/// are put away and removed faster than they are read are left out.
///
/// Its descriptor ([`AsFd`]) is readable when there may be more.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    name: OsString,
    changes: OwnedFd,
    /// Files that were read, the youngest up to where it was read, all others to their end. They
    /// stay open so that no other file can be taken for one of them.
    seen: Vec<File>,
}

/// How many files there can be at once.
const MAX_SEEN: usize = MAX_OLD_FILES as usize + 1;

/// Changes that are looked at before the files are.
const MAX_CHANGES: usize = 1024;

impl Reader {
    /// Opens the log of a job in the directory that [`directory`](super::directory) gives.
    ///
    /// # Errors
    ///
    /// [`ReadError`]
    pub fn open(directory: &Path, label: &JobLabel) -> Result<Self, ReadError> {
        let name = file_name(label);
        let path = directory.join(&name);
        let failed = |errno| match errno {
            Errno::NOENT => ReadError::NoLog { path: path.clone() },
            errno => read_error(&path, errno),
        };
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let changes = inotify::init(flags).map_err(failed)?;
        let events = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF;
        inotify::add_watch(&changes, directory, events).map_err(failed)?;
        let reader = Self {
            directory: directory.to_path_buf(),
            name,
            changes,
            seen: Vec::new(),
        };
        if reader.unseen()?.is_empty() {
            return Err(ReadError::NoLog { path });
        }
        Ok(reader)
    }

    /// Writes the last `lines` lines to `out`, or all that there are.
    ///
    /// # Errors
    ///
    /// [`ReadError`]
    pub fn last(&mut self, lines: Option<usize>, out: &mut dyn Write) -> Result<(), ReadError> {
        self.seen.clear();
        let Some(lines) = lines else {
            return self.more(out);
        };
        let mut all = Vec::new();
        self.more(&mut all)?;
        out.write_all(&all[start_of_last(lines, &all)..])
            .map_err(ReadError::Write)
    }

    /// Writes what came since the last call to `out`, without waiting.
    ///
    /// # Errors
    ///
    /// [`ReadError`]
    pub fn more(&mut self, out: &mut dyn Write) -> Result<(), ReadError> {
        let gone = self.take_changes()?;
        let unseen = self.unseen()?;
        if let Some(current) = self.seen.last() {
            self.copy(current, out)?;
        }
        for file in unseen {
            self.copy(&file, out)?;
            self.seen.push(file);
        }
        let old = self.seen.len().saturating_sub(MAX_SEEN);
        self.seen.drain(..old);
        if gone { Err(self.gone()) } else { Ok(()) }
    }

    /// Waits until there may be more.
    ///
    /// # Errors
    ///
    /// [`ReadError`]
    pub fn wait(&self) -> Result<(), ReadError> {
        let mut fds = [PollFd::new(&self.changes, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(read_error(&self.directory, errno)),
        }
    }

    fn copy(&self, mut file: &File, out: &mut dyn Write) -> Result<(), ReadError> {
        let mut buffer = [0; 16 << 10];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let path = self.directory.join(&self.name);
                    return Err(ReadError::Read { path, source });
                }
            };
            out.write_all(&buffer[..read]).map_err(ReadError::Write)?;
        }
    }

    /// The files that were not seen yet, the oldest first.
    ///
    /// They are opened from the youngest to the oldest. While that goes on, files only ever become
    /// older, so none is missed; one that is met twice is left out. If there is one, nothing more is
    /// written to those that were seen.
    fn unseen(&self) -> Result<Vec<File>, ReadError> {
        // It is not kept open: the kernel does not tell of the end of a directory that is.
        let directory = open_directory(&self.directory).map_err(|errno| match errno {
            Errno::NOENT => self.gone(),
            errno => read_error(&self.directory, errno),
        })?;
        let seen = self.seen.iter().map(identity);
        let seen = seen.collect::<Result<Vec<_>, _>>();
        let mut known = seen.map_err(|errno| read_error(&self.directory, errno))?;
        let mut unseen = Vec::new();
        for number in 0..=MAX_OLD_FILES {
            if let Some((file, identity)) = self.file(&directory, number)?
                && !known.contains(&identity)
            {
                known.push(identity);
                unseen.push(file);
            }
        }
        unseen.reverse();
        Ok(unseen)
    }

    fn gone(&self) -> ReadError {
        ReadError::Gone {
            directory: self.directory.clone(),
        }
    }

    fn file(&self, directory: &OwnedFd, number: u8) -> Result<Option<(File, Identity)>, ReadError> {
        let name = rotated(&self.name, number);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, &name, flags, Mode::empty());
        let opened = opened.and_then(|file| {
            let file = File::from(file);
            identity(&file).map(|identity| (file, identity))
        });
        match opened {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(read_error(&self.directory.join(name), errno)),
        }
    }

    /// Takes what inotify has to say, all of which means to look again. Whether the directory is
    /// gone.
    fn take_changes(&self) -> Result<bool, ReadError> {
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let mut changes = inotify::Reader::new(&self.changes, &mut buffer);
        let mut gone = false;
        for _ in 0..MAX_CHANGES {
            match changes.next() {
                Ok(event) => {
                    let end = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
                    gone |= event.events().intersects(end);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(read_error(&self.directory, errno)),
            }
        }
        Ok(gone)
    }
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

/// The device and the inode.
type Identity = (u64, u64);

fn identity(file: &File) -> Result<Identity, Errno> {
    let found = rustix::fs::fstat(file)?;
    Ok((found.st_dev, found.st_ino))
}

fn read_error(path: &Path, errno: Errno) -> ReadError {
    ReadError::Read {
        path: path.to_path_buf(),
        source: errno.into(),
    }
}

fn start_of_last(lines: usize, text: &[u8]) -> usize {
    let ends = text.iter().enumerate().rev();
    let mut ends = ends.filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    // The end of the line before those.
    ends.nth(lines).map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        assert_eq!(start_of_last(2, b"a\nb\nc\n"), 2);
        assert_eq!(start_of_last(3, b"a\nb\nc\n"), 0);
        assert_eq!(start_of_last(9, b"a\nb\nc\n"), 0);
        assert_eq!(start_of_last(0, b"a\nb\nc\n"), 6);
        assert_eq!(start_of_last(1, b""), 0);
    }
}
