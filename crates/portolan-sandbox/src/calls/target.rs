//! What the arguments of a call that waits point to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use portolan_sys::notify::Notification;

use crate::places::exceptions::real;

/// The longest path that the kernel takes, with its end.
const MAX_PATH: usize = 4096;

/// Memory is read so much at a time: what comes behind may not be there.
const PIECE: usize = 256;

/// `AT_FDCWD` as an `int`.
const HERE: i32 = -100;

/// An address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Of the network.
    Network(SocketAddr),
    /// A path.
    Path(PathBuf),
}

/// A path as it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Absolute, and without `.` and `..`.
    pub(super) path: PathBuf,
    /// The working directory that it was relative to.
    pub(super) here: Option<PathBuf>,
}

/// The process that makes a call.
pub(super) struct Target<'a> {
    call: &'a Notification,
    /// `None` if it cannot be looked into.
    memory: Option<File>,
}

impl<'a> Target<'a> {
    pub(super) fn of(call: &'a Notification) -> Self {
        let memory = File::open(format!("/proc/{}/mem", call.thread)).ok();
        Self { call, memory }
    }

    pub(super) fn argument(&self, number: u8) -> u64 {
        self.call.arguments[usize::from(number) % self.call.arguments.len()]
    }

    /// A number in memory.
    pub(super) fn word(&self, pointer: u8) -> Option<u64> {
        let mut word = [0; 8];
        let memory = self.memory.as_ref()?;
        let read = memory.read_exact_at(&mut word, self.argument(pointer));
        read.ok().map(|()| u64::from_ne_bytes(word))
    }

    /// `None` for no path, such as that of an open file itself, and for one that cannot be read.
    pub(super) fn path(&self, directory: Option<u8>, path: u8) -> Option<Named> {
        let text = self.text(self.argument(path))?;
        let path = Path::new(OsStr::from_bytes(&text));
        if path.as_os_str().is_empty() {
            return None;
        }
        if path.is_absolute() {
            let path = plain(path);
            return Some(Named { path, here: None });
        }
        // The kernel takes an `int`.
        let number = directory.map_or(HERE, |number| self.argument(number) as i32);
        let base = match number {
            HERE => self.link("cwd")?,
            number => self.link(&format!("fd/{number}"))?,
        };
        Some(Named {
            path: plain(&base.join(path)),
            here: (number == HERE).then_some(base),
        })
    }

    fn link(&self, name: &str) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/{name}", self.call.thread)).ok()
    }

    /// Up to a NUL.
    fn text(&self, address: u64) -> Option<Vec<u8>> {
        let memory = self.memory.as_ref()?;
        let mut text = Vec::new();
        while text.len() < MAX_PATH {
            let at = address.checked_add(text.len() as u64)?;
            let mut piece = [0; PIECE];
            let room = PIECE - (at % PIECE as u64) as usize;
            let read = memory.read_at(&mut piece[..room], at).ok()?;
            let end = piece[..read].iter().position(|byte| *byte == 0);
            text.extend_from_slice(&piece[..end.unwrap_or(read)]);
            match end {
                Some(_) => return Some(text),
                None if read == 0 => return None,
                None => {}
            }
        }
        None
    }

    /// The address that an argument points to, whose length is in the next one. `None` for one that is
    /// neither of the network nor has a path.
    pub(super) fn address(&self, pointer: u8) -> Option<Address> {
        const UNIX: u16 = 1;
        let mut bytes = [0; 110];
        let length = (self.argument(pointer + 1) as usize).min(bytes.len());
        let at = self.argument(pointer);
        let memory = self.memory.as_ref()?;
        let read = memory.read_at(&mut bytes[..length], at).ok()?;
        let (family, rest) = bytes.get(..read)?.split_first_chunk()?;
        match u16::from_ne_bytes(*family) {
            UNIX => {
                let path = rest.split(|byte| *byte == 0).next()?;
                let path = Path::new(OsStr::from_bytes(path));
                let is_path = !path.as_os_str().is_empty();
                let base = self.link("cwd")?;
                is_path.then(|| Address::Path(plain(&base.join(path))))
            }
            family => of_the_network(family, rest).map(Address::Network),
        }
    }
}

/// What follows the family in a `sockaddr_in` or a `sockaddr_in6`.
fn of_the_network(family: u16, rest: &[u8]) -> Option<SocketAddr> {
    const INET: u16 = 2;
    const INET6: u16 = 10;
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    match family {
        INET => {
            let ip: [u8; 4] = *rest.first_chunk()?;
            Some((Ipv4Addr::from(ip), port).into())
        }
        INET6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let ip: [u8; 16] = *rest.first_chunk()?;
            Some((Ipv6Addr::from(ip), port).into())
        }
        _ => None,
    }
}

/// The process of a thread; the thread itself if that has ended.
pub(crate) fn process_of(thread: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let process = line.and_then(|number| number.trim().parse().ok());
    process.unwrap_or(thread)
}

/// Without `.`, and followed where there is a `..`, which an exception cannot have.
fn plain(path: &Path) -> PathBuf {
    let mut components = path.components();
    match components.any(|one| one == Component::ParentDir) {
        true => real(path),
        false => path.components().collect(),
    }
}
