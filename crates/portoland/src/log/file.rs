//! The files of one job's log.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use portolan_wire::label::JobLabel;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::stamp::Stamp;
use super::{Limits, MAX_OLD_FILES, file_name, open_directory, rotated};

/// A log that is opened anew for each batch of lines, so that it costs no descriptor while nothing
/// is written, and whoever removes or renames a file has done no harm.
#[derive(Debug)]
pub(super) struct LogFile {
    directory: PathBuf,
    name: OsString,
    pub(super) limits: Limits,
    /// Lines that were not written, and why the last of them was not.
    lost: Option<(u64, Errno)>,
}

/// The lines from `rest` on could not be written.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    rest: usize,
    errno: Errno,
}

impl LogFile {
    pub(super) fn new(directory: &Path, label: &JobLabel) -> Self {
        Self {
            directory: directory.to_path_buf(),
            name: file_name(label),
            limits: Limits::default(),
            lost: None,
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    pub(super) fn lost(&self) -> Option<(u64, Errno)> {
        self.lost
    }

    /// Appends whole lines. Those that cannot be written are counted, and the number comes before
    /// the next ones that can.
    pub(super) fn append(&mut self, lines: &[u8], now: SystemTime) {
        if lines.is_empty() {
            return;
        }
        if let Some((number, errno)) = self.lost {
            let text = format!("{number} lines before this one could not be written: {errno}");
            let mut line = Vec::new();
            Stamp::of_server(now).write(text.as_bytes(), &mut line);
            match self.write(&line) {
                Ok(()) => self.lost = None,
                Err(failure) => return self.lose(lines, failure.errno),
            }
        }
        if let Err(failure) = self.write(lines) {
            self.lose(&lines[failure.rest..], failure.errno);
        }
    }

    fn lose(&mut self, lines: &[u8], errno: Errno) {
        let number = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.lost.is_none() {
            let path = self.path();
            tracing::warn!(path = %path.display(), %errno, "cannot write to the log of a job");
        }
        let before = self.lost.map_or(0, |(before, _)| before);
        self.lost = Some((before + number, errno));
    }

    fn write(&self, lines: &[u8]) -> Result<(), Failure> {
        let mut rest = 0;
        let failure = |rest| move |errno| Failure { rest, errno };
        let directory = self.directory().map_err(failure(rest))?;
        while rest < lines.len() {
            let (file, size) = self.open(&directory).map_err(failure(rest))?;
            let room = self.limits.file_bytes.saturating_sub(size);
            let some = match whole_lines(&lines[rest..], room) {
                0 if size > 0 => {
                    self.rotate(&directory).map_err(failure(rest))?;
                    continue;
                }
                // Longer than a file may be: then the file is longer.
                0 => whole_lines(&lines[rest..], first_line(&lines[rest..])),
                some => some,
            };
            append_whole(&file, size, &lines[rest..rest + some])
                .map_err(|failed| failure(rest + failed.rest)(failed.errno))?;
            rest += some;
        }
        Ok(())
    }

    /// The directory, which is made if need be.
    fn directory(&self) -> Result<OwnedFd, Errno> {
        let directory = match open_directory(&self.directory) {
            Err(Errno::NOENT) => {
                let mut builder = DirBuilder::new();
                let made = builder.recursive(true).mode(0o700).create(&self.directory);
                made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                open_directory(&self.directory)
            }
            other => other,
        }?;
        let found = rustix::fs::fstat(&directory)?;
        let own = found.st_uid == rustix::process::geteuid().as_raw();
        let others = Mode::from_raw_mode(found.st_mode) & (Mode::WGRP | Mode::WOTH);
        // Whoever could put a file there could have the lines of a job written to any other.
        if own && others.is_empty() {
            Ok(directory)
        } else {
            Err(Errno::PERM)
        }
    }

    fn open(&self, directory: &OwnedFd) -> Result<(OwnedFd, u64), Errno> {
        // Without NONBLOCK, a named pipe in the place of the file would be waited for.
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(directory, &self.name, flags, mode)?;
        let found = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Ok((file, u64::try_from(found.st_size).unwrap_or(0))),
            _ => Err(Errno::PERM),
        }
    }

    fn rotate(&self, directory: &OwnedFd) -> Result<(), Errno> {
        let old = self.limits.old_files.min(MAX_OLD_FILES);
        if old == 0 {
            return rustix::fs::unlinkat(directory, &self.name, AtFlags::empty());
        }
        for number in (0..old).rev() {
            let (from, to) = (rotated(&self.name, number), rotated(&self.name, number + 1));
            match rustix::fs::renameat(directory, &from, directory, &to) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// How many bytes at the beginning are whole lines and no more than `room`.
fn whole_lines(lines: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
    let end = lines[..room].iter().rposition(|byte| *byte == b'\n');
    end.map_or(0, |end| end + 1)
}

fn first_line(lines: &[u8]) -> u64 {
    let end = lines.iter().position(|byte| *byte == b'\n');
    end.map_or(lines.len(), |end| end + 1) as u64
}

/// Appends all of it, or as many whole lines as there is room for.
fn append_whole(file: impl AsFd, size: u64, lines: &[u8]) -> Result<(), Failure> {
    let mut written = 0;
    let errno = loop {
        if written == lines.len() {
            return Ok(());
        }
        match rustix::io::write(&file, &lines[written..]) {
            Ok(0) => break Errno::NOSPC,
            Ok(more) => written += more,
            Err(Errno::INTR) => {}
            Err(errno) => break errno,
        }
    };
    let rest = whole_lines(&lines[..written], u64::MAX);
    // If that fails as well, half a line stays, and there is nothing else to be done about it.
    rustix::fs::ftruncate(&file, size + rest as u64).ok();
    Err(Failure { rest, errno })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, SealFlags};
    use std::fs::File;
    use std::io::{Read, Seek};

    #[test]
    fn a_disk_that_is_full_gets_no_half_lines() {
        let disk = rustix::fs::memfd_create("full", MemfdFlags::ALLOW_SEALING).expect("memfd");
        let page = rustix::param::page_size();
        rustix::fs::ftruncate(&disk, page as u64).expect("ftruncate");
        rustix::fs::fcntl_add_seals(&disk, SealFlags::GROW).expect("seal");
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let lines = line.repeat(2 * page / 100);
        let fit = page / 100 * 100;
        assert_eq!(
            append_whole(&disk, 0, &lines),
            Err(Failure {
                rest: fit,
                errno: Errno::PERM
            })
        );
        let mut file = File::from(disk);
        let mut text = Vec::new();
        file.rewind().expect("rewind");
        file.read_to_end(&mut text).expect("read");
        assert!(text == lines[..fit], "{} bytes", text.len());
    }

    #[test]
    fn lines_are_counted_whole() {
        assert_eq!(whole_lines(b"ab\nc\nd", 6), 5);
        assert_eq!(whole_lines(b"ab\nc\nd", 4), 3);
        assert_eq!(whole_lines(b"ab\nc\n", 2), 0);
        assert_eq!(whole_lines(b"", 2), 0);
        assert_eq!(first_line(b"ab\nc\n"), 3);
    }
}
