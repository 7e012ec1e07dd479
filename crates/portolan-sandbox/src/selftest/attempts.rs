//! Every attempt, in the order of the statements that they are about.

mod attributes;
mod descriptors;
mod devices;
mod files;
mod kernel;
mod names;
mod needs;
mod network;
mod privileges;
mod processes;
mod sockets;
mod terminal;
mod worlds;

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use portolan_sys::by_number::{Argument, Call, call};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::attempt::{Attempt, Refusal};

/// What an attempt came to.
type Attempted = Result<(), Refusal>;

const TABLES: &[&[Attempt]] = &[
    needs::ATTEMPTS,
    files::ATTEMPTS,
    attributes::ATTEMPTS,
    sockets::ATTEMPTS,
    network::ATTEMPTS,
    processes::ATTEMPTS,
    names::ATTEMPTS,
    worlds::ATTEMPTS,
    kernel::ATTEMPTS,
    terminal::ATTEMPTS,
    privileges::ATTEMPTS,
    descriptors::ATTEMPTS,
    devices::ATTEMPTS,
];

/// Every attempt.
pub fn attempts() -> impl Iterator<Item = &'static Attempt> {
    TABLES.iter().copied().flatten()
}

/// The program's own directory.
fn home() -> PathBuf {
    env::var_os("HOME").unwrap_or_default().into()
}

/// A file of its own, with something in it.
fn own_file(name: &str) -> Result<PathBuf, Refusal> {
    let path = home().join(name);
    std::fs::write(&path, "own")?;
    Ok(path)
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty())
}

/// A path for calls that are made by their numbers.
fn text(path: &Path) -> Result<CString, Refusal> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Refusal::Nothing)
}

/// A call that takes numbers only.
fn numbers<const N: usize>(which: Call, numbers: [i64; N]) -> Attempted {
    call(which, &mut numbers.map(Argument::Number))?;
    Ok(())
}

/// Opens a file and reads from it.
fn read(path: impl AsRef<Path>) -> Attempted {
    let mut file = File::from(open(path, OFlags::RDONLY)?);
    let mut byte = [0];
    match file.read(&mut byte)? {
        0 => Err(Refusal::Nothing),
        _ => Ok(()),
    }
}

/// Opens a directory and reads from it.
fn list(path: impl AsRef<Path>) -> Attempted {
    let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let entry = rustix::fs::Dir::read_from(directory)?.next();
    entry
        .ok_or(Refusal::Nothing)?
        .map(drop)
        .map_err(Refusal::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_attempts_have_one_name() {
        let names: BTreeSet<&str> = attempts().map(|attempt| attempt.name).collect();
        assert_eq!(names.len(), attempts().count());
    }
}
