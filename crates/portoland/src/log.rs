//! What jobs write, in a file for each.
//!
//! A job's standard output and error are the write end of a pipe that belongs to the server, which
//! stamps each line and appends it to `LABEL.log`:
//!
//! ```text
//! 2026-11-25T17:16:16.123Z portoland: started, pid 4711
//! 2026-11-25T17:16:16.140Z 4711: listening on port 8080
//! ```
//!
//! The pipe outlives the instance and, with [`JobLog::resume`], the server. If the server is killed, no
//! line is lost; the last ones may be there twice. Nothing that goes wrong
//! with the file holds up a job or the server: lines that cannot be written are counted, and the
//! number is written as soon as it can be. (A file system that hangs hangs the server; a log on a
//! network is not for this.)
//!
//! | what | default |
//! | --- | --- |
//! | directory of a user's server | `$XDG_STATE_HOME/portolan/log`, or `~/.local/state/portolan/log` |
//! | directory of root's server | `/var/log/portolan` |
//! | directory of a server at a place of its own | `log` beside its socket |
//! | permissions | 0700 for a directory that is made, 0600 for a file |
//! | size at which a file is put away | 1 MiB ([`Limits::file_bytes`]) |
//! | files put away | 3: `LABEL.log.1` (the youngest) to `.3` ([`Limits::old_files`]) |
//! | longest line | 16 KiB; the rest goes on in the next line, after a `[...]` |
//! | a line without its end is kept for | 200 ms |
//! | bytes taken from one job in its turn | 32 KiB |
//! | a character that could play with a terminal | stands as `\x1b` or `\u{202e}`, a byte that is not UTF-8 as `\xff` |
//!
//! In the name of a file, `/` and `%` of the label stand as `%2F` and `%25`, and so does a period at
//! its beginning (`%2E`).

mod desk;
mod file;
mod lines;
mod reader;
mod stamp;

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use portolan_wire::label::JobLabel;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::daemon;
use desk::Desk;
use file::LogFile;
use lines::Lines;
pub use reader::{ReadError, Reader};

/// Bytes that are taken from one job before others get their turn.
const TURN: usize = 32 << 10;

/// Turns after which a note is written although the job goes on writing.
const TURNS_BEFORE_NOTE: usize = 4;

/// How large the files of one job get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after which a file is put away. No line is in two files, so a file may be shorter, and
    /// it is longer only if a single line is.
    pub file_bytes: u64,
    /// How many files that were put away are kept, 9 at the most.
    pub old_files: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 1 << 20,
            old_files: 3,
        }
    }
}

/// The log of one job, as its only writer.
///
/// Its descriptor ([`AsFd`]) is readable when there is something to [`drain`](Self::drain).
#[derive(Debug)]
pub struct JobLog {
    output: OwnedFd,
    /// Keeps the pipe open between two instances.
    input: OwnedFd,
    desk: Desk,
    pid: Option<u32>,
    lines: Lines,
    file: LogFile,
}

impl JobLog {
    /// Makes the pipe. The directory and the file are made when there is something to write.
    ///
    /// # Errors
    ///
    /// What `pipe2(2)` and `memfd_create(2)` say, such as too many open files.
    pub fn open(directory: &Path, label: &JobLabel) -> io::Result<Self> {
        let (output, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Self::resume(directory, label, [output, input, Desk::memory()?])
    }

    /// Goes on with the [`descriptors`](Self::descriptors) of a server that was here before. To be
    /// [drained](Self::drain) at once, for that one may have left something.
    ///
    /// # Errors
    ///
    /// What the kernel says if they are not what they should be.
    pub fn resume(
        directory: &Path,
        label: &JobLabel,
        descriptors: [OwnedFd; 3],
    ) -> io::Result<Self> {
        let [output, input, desk] = descriptors;
        // The ends have flags of their own, so the job's stays one that blocks.
        let flags = rustix::fs::fcntl_getfl(&output)?;
        rustix::fs::fcntl_setfl(&output, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            output,
            input,
            desk: Desk::resume(desk)?,
            pid: None,
            lines: Lines::default(),
            file: LogFile::new(directory, label),
        })
    }

    /// Other limits than the default ones, from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.file.limits = limits;
    }

    /// The process whose output the next lines are, until the next call.
    pub fn set_pid(&mut self, pid: Option<u32>) {
        self.pid = pid;
    }

    /// The end that a job gets as its standard output and error.
    #[must_use]
    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Both ends of the pipe and what is between it and the file, for [`resume`](Self::resume) in
    /// another server.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.output.as_fd(), self.input.as_fd(), self.desk.as_fd()]
    }

    /// Appends what the job has written to its file, 32 KiB at the most. Says whether there may be
    /// more.
    pub fn drain(&mut self, now: SystemTime) -> bool {
        let mut buffer = [0; TURN];
        let mut batch = Vec::new();
        let stamp = stamp::Stamp::of(now, self.pid);
        let bytes = self.desk.take(&self.output, &mut buffer);
        self.lines
            .push(bytes, now, |line| stamp.write(line, &mut batch));
        let rest = self.lines.take_if_old(now);
        rest.into_iter()
            .for_each(|line| stamp.write(&line, &mut batch));
        self.file.append(&batch, now);
        self.desk.done_but(self.lines.begun());
        bytes.len() == TURN
    }

    /// How long from now a line without its end is still kept; to be drained again after that time.
    #[must_use]
    pub fn due(&self, now: SystemTime) -> Option<Duration> {
        self.lines.due(now)
    }

    /// Appends all that is there, and a line without its end.
    ///
    /// To be called when an instance is over or the server ends. Stops after 128 KiB, should other
    /// processes of the job go on writing.
    pub fn flush(&mut self, now: SystemTime) {
        for _ in 0..TURNS_BEFORE_NOTE {
            if !self.drain(now) {
                break;
            }
        }
        if let Some(line) = self.lines.take() {
            let mut batch = Vec::new();
            stamp::Stamp::of(now, self.pid).write(&line, &mut batch);
            self.file.append(&batch, now);
            self.desk.done_but(0);
        }
    }

    /// Writes a line of the server's own, behind what the job has written so far.
    pub fn note(&mut self, text: &str, now: SystemTime) {
        self.flush(now);
        let mut line = Vec::new();
        stamp::Stamp::of_server(now).write(text.as_bytes(), &mut line);
        self.file.append(&line, now);
    }

    /// Lines that could not be written and are not accounted for in the file yet, and why the last
    /// one could not.
    #[must_use]
    pub fn lost(&self) -> Option<(u64, io::Error)> {
        let (lines, errno) = self.file.lost()?;
        Some((lines, errno.into()))
    }

    /// The file that is written to.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.file.path()
    }
}

impl AsFd for JobLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

/// Where the server that has its socket in `runtime` keeps the logs of its jobs.
///
/// A server at a place of its own keeps them there; see the table at the head of this module.
#[must_use]
pub fn directory(runtime: &Path) -> PathBuf {
    Places {
        usual: daemon::usual_directory(),
        state: env::var_os("XDG_STATE_HOME"),
        home: env::var_os("HOME"),
        root: rustix::process::getuid().is_root(),
    }
    .directory(runtime)
}

/// Where the server of the system has its socket, if it is started as its unit does.
const SYSTEM_RUNTIME: &str = "/run/portolan";

/// What decides where the logs are.
struct Places {
    /// Where the socket is if nobody chose.
    usual: PathBuf,
    state: Option<OsString>,
    home: Option<OsString>,
    root: bool,
}

impl Places {
    fn directory(self, runtime: &Path) -> PathBuf {
        let system = self.root && runtime == Path::new(SYSTEM_RUNTIME);
        if runtime != self.usual && !system {
            return runtime.join("log");
        }
        if self.root {
            return PathBuf::from("/var/log/portolan");
        }
        // As of the XDG base directory specification, a relative path is as good as none.
        let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
        let home = self.home.and_then(absolute);
        let state = self.state.and_then(absolute);
        state
            .or_else(|| home.map(|home| home.join(".local/state")))
            .map_or_else(
                || runtime.join("log"),
                |state| state.join("portolan").join("log"),
            )
    }
}

/// The name of the file that is written to, without that of its directory.
fn file_name(label: &JobLabel) -> OsString {
    let mut name = String::new();
    for (at, c) in label.as_str().char_indices() {
        match c {
            '/' => name.push_str("%2F"),
            '%' => name.push_str("%25"),
            '.' if at == 0 => name.push_str("%2E"),
            c => name.push(c),
        }
    }
    name.push_str(".log");
    name.into()
}

/// The name of the `number`th file that was put away, or of the one that is written to for 0.
fn rotated(name: &OsString, number: u8) -> OsString {
    let mut name = name.clone();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name
}

/// The most files that are kept, as far as a reader looks.
const MAX_OLD_FILES: u8 = 9;

/// A directory that nobody else can put files into.
fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::{CWD, Mode};
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(label: &str) -> String {
        let label = JobLabel::try_from(label).expect("a label");
        file_name(&label).into_string().expect("UTF-8")
    }

    #[test]
    fn no_label_leaves_the_directory_or_shares_a_file() {
        assert_eq!(name("org.example.echo"), "org.example.echo.log");
        assert_eq!(name("../../etc/passwd"), "%2E.%2F..%2Fetc%2Fpasswd.log");
        assert_eq!(name("a/b"), "a%2Fb.log");
        assert_eq!(name("a%2Fb"), "a%252Fb.log");
        assert_eq!(name("."), "%2E.log");
    }

    fn places(root: bool) -> Places {
        Places {
            usual: "/run/user/7/portolan".into(),
            state: None,
            home: Some("/home/u".into()),
            root,
        }
    }

    #[test]
    fn logs_of_a_users_server_are_in_the_state_directory() {
        let usual = Path::new("/run/user/7/portolan");
        assert_eq!(
            places(false).directory(usual),
            Path::new("/home/u/.local/state/portolan/log")
        );
        let state = |state: &str| Places {
            state: Some(state.into()),
            ..places(false)
        };
        assert_eq!(state("/s").directory(usual), Path::new("/s/portolan/log"));
        assert_eq!(
            state("relative").directory(usual),
            Path::new("/home/u/.local/state/portolan/log")
        );
        let nothing = Places {
            home: None,
            ..places(false)
        };
        assert_eq!(
            nothing.directory(usual),
            Path::new("/run/user/7/portolan/log")
        );
    }

    #[test]
    fn logs_of_a_private_server_are_beside_its_socket() {
        let private = Path::new("/tmp/x");
        assert_eq!(places(false).directory(private), Path::new("/tmp/x/log"));
        assert_eq!(places(true).directory(private), Path::new("/tmp/x/log"));
    }

    #[test]
    fn logs_of_roots_server_are_with_the_systems() {
        for runtime in ["/run/user/7/portolan", SYSTEM_RUNTIME] {
            assert_eq!(
                places(true).directory(Path::new(runtime)),
                Path::new("/var/log/portolan")
            );
        }
    }
}
