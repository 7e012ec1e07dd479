//! Opening regular files where somebody else may put other things.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat};

/// A regular file that is held and not open: who holds it has done nothing to it. To open a FIFO would
/// let its other end on, and to open a device may do anything.
#[derive(Debug)]
pub(crate) struct Regular(OwnedFd);

impl Regular {
    /// What a path leads to. `None` if that is no regular file, or out of reach.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let held = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let kind = FileType::from_raw_mode(fstat(&held).ok()?.st_mode);
        (kind == FileType::RegularFile).then_some(Self(held))
    }

    /// A path that leads to it whatever the one that it was found by leads to.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Opens it for reading, without waiting for somebody's lease.
    pub(crate) fn open(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.path(), flags, Mode::empty()).ok()?;
        Some(file.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use rustix::fs::{CWD, mkfifoat};
    use rustix::io::Errno;
    use std::fs;
    use std::io;

    #[test]
    fn a_fifo_is_never_opened_not_even_one_that_takes_the_place_of_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let [file, fifo] = ["file", "fifo"].map(|name| directory.path().join(name));
        fs::write(&file, "text").expect("write");
        mkfifoat(CWD, &fifo, Mode::RWXU).expect("a FIFO");
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("a queue");
        inotify::add_watch(&queue, &fifo, WatchFlags::OPEN).expect("a watch");
        let opened = || rustix::io::read(&queue, &mut [0; 256]).map(drop);

        assert!(Regular::at(&fifo).is_none());
        assert!(Regular::at(directory.path()).is_none());
        let held = Regular::at(&file).expect("a file");
        fs::rename(&fifo, &file).expect("rename");
        let text = held.open().map(io::read_to_string);
        assert_eq!(text.expect("it is held").expect("read"), "text");
        assert_eq!(opened(), Err(Errno::AGAIN), "it was opened");

        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(&file, flags, Mode::empty()).expect("open");
        assert_eq!(opened(), Ok(()), "nobody would know");
    }
}
