//! What a call uses.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use portolan_sys::notify::Notification;
use rustix::fs::{Access, OFlags, access};

use super::target::{Address, Target};
use super::{Flags, Step, steps};
use crate::regular::Regular;

/// Something that a call uses, and that is there and the user's to use: else the call fails anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Used {
    /// A file is read.
    Read(PathBuf),
    /// A file is written.
    Write(PathBuf),
    /// A directory is listed.
    List(PathBuf),
    /// Something is made, replaced or removed.
    Entry { path: PathBuf, directory: PathBuf },
    /// A program is executed.
    Execute(PathBuf),
    /// A socket of the network is made.
    Socket { datagrams: bool },
    /// An address of the network is connected to.
    Connect(SocketAddr),
    /// A socket gets an address of the network.
    Bind(SocketAddr),
    /// A socket with a path is used.
    UnixSocket(PathBuf),
}

/// What a call uses, and the working directory that it was named by, if it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) used: Used,
    pub(crate) here: Option<PathBuf>,
}

/// What a call uses. If its process cannot be looked into, or has ended, only what the arguments say
/// themselves: that a socket is made.
pub(crate) fn seen(call: &Notification) -> Vec<Seen> {
    let target = Target::of(call);
    let steps = steps(call.architecture, call.number).iter();
    let seen = steps.flat_map(|step| match step.is_of_a_socket() {
        true => socket(&target, *step),
        false => file(&target, *step),
    });
    seen.collect()
}

fn file(target: &Target<'_>, step: Step) -> Vec<Seen> {
    let (Step::Open(directory, path, _)
    | Step::Make(directory, path)
    | Step::Remove(directory, path)
    | Step::Change(directory, path)
    | Step::Execute(directory, path)) = step
    else {
        return Vec::new();
    };
    let Some(named) = target.path(directory, path) else {
        return Vec::new();
    };
    let path = named.path.as_path();
    let used = match step {
        Step::Open(_, _, flags) => {
            let flags = flags_of(target, flags);
            flags
                .and_then(|flags| opened(path, flags))
                .into_iter()
                .collect()
        }
        Step::Make(..) if fs::symlink_metadata(path).is_ok() => Vec::new(),
        Step::Make(..) | Step::Remove(..) => entry(path).into_iter().collect(),
        Step::Change(..) => opened(path, OFlags::WRONLY).into_iter().collect(),
        _ => executed(path),
    };
    let seen = used.into_iter().map(|used| Seen {
        used,
        here: named.here.clone(),
    });
    seen.collect()
}

fn flags_of(target: &Target<'_>, flags: Flags) -> Option<OFlags> {
    let bits = match flags {
        Flags::Argument(number) => target.argument(number),
        Flags::Pointer(number) => target.word(number)?,
        Flags::Creat => return Some(OFlags::CREATE | OFlags::WRONLY),
    };
    // The kernel takes an `int`.
    Some(OFlags::from_bits_retain(bits as u32))
}

fn opened(path: &Path, flags: OFlags) -> Option<Used> {
    if flags.contains(OFlags::PATH) {
        return None;
    }
    let write = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
    let may = |mode| access(path, mode).is_ok();
    let here = || path.to_owned();
    match fs::metadata(path) {
        Ok(found) if found.is_dir() && flags.contains(OFlags::TMPFILE) => Some(Used::Entry {
            path: here(),
            directory: here(),
        }),
        Ok(found) if found.is_dir() => Some(Used::List(here())),
        Ok(_) if write => may(Access::WRITE_OK).then(|| Used::Write(here())),
        Ok(_) => may(Access::READ_OK).then(|| Used::Read(here())),
        Err(_) if flags.contains(OFlags::CREATE) => entry(path),
        Err(_) => None,
    }
}

fn entry(path: &Path) -> Option<Used> {
    let directory = path.parent()?;
    let may = access(directory, Access::WRITE_OK).is_ok();
    may.then(|| Used::Entry {
        path: path.to_owned(),
        directory: directory.to_owned(),
    })
}

/// A script is executed by a program that the kernel opens itself.
fn executed(path: &Path) -> Vec<Used> {
    let found = Regular::at(path).filter(|file| access(file.path(), Access::EXEC_OK).is_ok());
    let Some(found) = found else {
        return Vec::new();
    };
    let all = [Some(path.to_owned()), interpreter(&found)];
    all.into_iter().flatten().map(Used::Execute).collect()
}

fn interpreter(script: &Regular) -> Option<PathBuf> {
    let mut start = [0; 256];
    let read = script.open()?.read_at(&mut start, 0).ok()?;
    let line = start[..read].strip_prefix(b"#!")?;
    let line = str::from_utf8(line.split(|byte| *byte == b'\n').next()?).ok()?;
    let interpreter = Path::new(line.split_whitespace().next()?);
    interpreter.is_absolute().then(|| interpreter.to_owned())
}

fn socket(target: &Target<'_>, step: Step) -> Vec<Seen> {
    let address = |pointer| target.address(pointer);
    let used = match step {
        Step::Connect(pointer) => address(pointer).map(|address| match address {
            Address::Network(address) => Used::Connect(address),
            Address::Path(path) => Used::UnixSocket(path),
        }),
        Step::Bind(pointer) => address(pointer).map(|address| match address {
            Address::Network(address) => Used::Bind(address),
            Address::Path(path) => Used::UnixSocket(path),
        }),
        _ => of_the_network(target),
    };
    let seen = used.map(|used| Seen { used, here: None });
    seen.into_iter().collect()
}

fn of_the_network(target: &Target<'_>) -> Option<Used> {
    const NETWORK: [u64; 2] = [2, 10];
    const DATAGRAMS: u64 = 2;
    const KIND: u64 = 0xf;
    let datagrams = target.argument(1) & KIND == DATAGRAMS;
    let is_network = NETWORK.contains(&target.argument(0));
    is_network.then_some(Used::Socket { datagrams })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Architecture;

    #[test]
    fn that_a_socket_is_made_is_seen_without_looking_into_the_process() {
        let here = Architecture::current().expect("an architecture");
        let nobodys = |name: &str, arguments| Notification {
            id: 0,
            thread: 0,
            number: here.number(name).expect("a number"),
            architecture: here.token(),
            arguments,
        };
        let used = |name, arguments| {
            let seen = seen(&nobodys(name, arguments)).into_iter();
            seen.map(|seen| seen.used).collect::<Vec<_>>()
        };
        let datagrams = |datagrams| vec![Used::Socket { datagrams }];
        assert_eq!(used("socket", [2, 1, 0, 0, 0, 0]), datagrams(false));
        assert_eq!(used("socket", [10, 2, 0, 0, 0, 0]), datagrams(true));
        assert_eq!(used("socket", [1, 1, 0, 0, 0, 0]), []);
        assert_eq!(used("connect", [3, 1 << 12, 16, 0, 0, 0]), []);
        assert_eq!(used("openat", [0, 1 << 12, 0, 0, 0, 0]), []);
    }
}
