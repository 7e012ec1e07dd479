//! Finding the program of a job, and telling why it is none.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::StartError;
use crate::job::Job;

/// As much of a script as the kernel reads for its first line (`BINPRM_BUF_SIZE`).
const FIRST_LINE_BYTES: u64 = 256;

/// A name without a slash is looked for in the directories of `search`.
pub(super) fn find(
    job: &Job,
    directory: &Path,
    search: Option<&OsString>,
) -> Result<PathBuf, StartError> {
    let first = job.program_arguments.first().map(Path::new);
    let name = job.program.as_deref().or(first).unwrap_or(Path::new(""));
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Ok(name.to_owned());
    }
    let search = search.map(OsString::as_os_str).unwrap_or_default();
    let mut candidates = env::split_paths(search).map(|within| directory.join(within).join(name));
    let found = candidates.find(|path| is_executable(path));
    found.ok_or_else(|| StartError::NotInPath {
        name: name.to_owned(),
        path: search.to_owned(),
    })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The kernel says `ENOENT` for a missing program and for a script without its interpreter alike.
pub(super) fn explain(program: PathBuf, directory: &Path, source: io::Error) -> StartError {
    let is_missing = Errno::from_io_error(&source) == Some(Errno::NOENT);
    match interpreter(&directory.join(&program)) {
        Ok(Some(interpreter)) if is_missing => StartError::Interpreter {
            program,
            interpreter,
        },
        _ => StartError::Exec { program, source },
    }
}

fn interpreter(script: &Path) -> io::Result<Option<PathBuf>> {
    // A FIFO or a device may keep whoever opens it waiting.
    if !fs::metadata(script)?.is_file() {
        return Ok(None);
    }
    let mut start = Vec::new();
    File::open(script)?
        .take(FIRST_LINE_BYTES)
        .read_to_end(&mut start)?;
    let Some(line) = start.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let mut words = line
        .trim_ascii_start()
        .split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    Ok(words.next().map(|path| OsStr::from_bytes(path).into()))
}
