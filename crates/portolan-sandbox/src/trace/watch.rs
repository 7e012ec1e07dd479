//! Looking at each call.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use portolan_sys::notify::{Listener, Notification};
use portolan_sys::signals::Blocked;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, OFlags, access};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use super::calls::{Flags, Step, steps};
use super::findings::Findings;
use super::target::{Address, Named, Target};

/// A program whose calls are looked at.
#[derive(Debug)]
pub struct Trace {
    listener: Listener,
    /// Where the program was started.
    start: PathBuf,
}

impl Trace {
    /// Takes the listener from the socket whose other end the launcher has. `None` if that has gone,
    /// and so said why, before there was one.
    ///
    /// From then on this thread, and those that it makes, are not ended by SIGINT and SIGQUIT: who
    /// interrupts a program wants to know what it would have needed.
    ///
    /// # Errors
    ///
    /// What recvmsg(2) says.
    pub fn begin(socket: impl AsFd) -> io::Result<Option<Self>> {
        Blocked::new(&[Signal::INT, Signal::QUIT])?;
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut byte)];
        recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let handed = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let start = std::env::current_dir()?;
        Ok(handed.map(|listener| Self {
            listener: listener.into(),
            start,
        }))
    }

    /// Notes what all processes of the program do, until the last one has ended.
    ///
    /// # Errors
    ///
    /// What the kernel says. Calls that wait go on waiting until this is dropped, and fail then.
    pub fn watch(&self) -> io::Result<Findings> {
        let mut findings = Findings::default();
        loop {
            let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if !ready[0].revents().contains(PollFlags::IN) {
                return Ok(findings);
            }
            match self.listener.receive() {
                Ok(call) => self.see_to(&call, &mut findings)?,
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn see_to(&self, call: &Notification, findings: &mut Findings) -> io::Result<()> {
        let seen = self.look_at(call);
        // The process may have ended while it was looked at, and another may have its number.
        if let Some(seen) = seen
            && self.listener.waits(call.id)
        {
            findings.add(seen);
        }
        match self.listener.go_on(call.id) {
            Err(error) if !is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn look_at(&self, call: &Notification) -> Option<Findings> {
        let target = Target::of(call)?;
        let mut seen = Findings::default();
        for step in steps(call.architecture, call.number) {
            match *step {
                Step::Connect(_) | Step::Bind(_) | Step::Socket => {
                    look_at_socket(&target, *step, &mut seen);
                }
                _ => self.look_at_file(&target, *step, &mut seen),
            }
        }
        Some(seen)
    }

    fn look_at_file(&self, target: &Target<'_>, step: Step, seen: &mut Findings) {
        let (Step::Open(directory, path, _)
        | Step::Make(directory, path)
        | Step::Remove(directory, path)
        | Step::Change(directory, path)
        | Step::Execute(directory, path)) = step
        else {
            return;
        };
        let Some(named) = target.path(directory, path) else {
            return;
        };
        let path = named.path.as_path();
        let mut found = Findings::default();
        match step {
            Step::Open(_, _, flags) => {
                let flags = flags_of(target, flags);
                flags
                    .into_iter()
                    .for_each(|flags| opened(path, flags, &mut found));
            }
            Step::Make(..) if fs::symlink_metadata(path).is_err() => in_directory(path, &mut found),
            Step::Remove(..) => in_directory(path, &mut found),
            Step::Change(..) => opened(path, OFlags::WRONLY, &mut found),
            Step::Execute(..) => executed(path, &mut found),
            _ => {}
        }
        if self.is_from_the_start(&named) && found != Findings::default() {
            found.start = Some(self.start.clone());
        }
        seen.add(found);
    }

    /// A path that is relative to where the program was started is found only if it is started there
    /// again, and that takes the directory.
    fn is_from_the_start(&self, named: &Named) -> bool {
        named.here.as_ref() == Some(&self.start)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
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

/// What is not there, or is not this user's to use, is not needed: the call fails anyway.
fn opened(path: &Path, flags: OFlags, seen: &mut Findings) {
    if flags.contains(OFlags::PATH) {
        return;
    }
    let write = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
    let (list, mode) = match write {
        true => (&mut seen.written, Access::WRITE_OK),
        false => (&mut seen.read, Access::READ_OK),
    };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() && flags.contains(OFlags::TMPFILE) => {
            seen.made_in.insert(path.to_owned());
        }
        Ok(found) if found.is_dir() => drop(seen.listed.insert(path.to_owned())),
        Ok(_) if access(path, mode).is_ok() => drop(list.insert(path.to_owned())),
        Err(_) if flags.contains(OFlags::CREATE) => in_directory(path, seen),
        _ => {}
    }
}

fn in_directory(path: &Path, seen: &mut Findings) {
    if let Some(directory) = path.parent()
        && access(directory, Access::WRITE_OK).is_ok()
    {
        seen.made_in.insert(directory.to_owned());
    }
}

/// A script is executed by a program that the kernel opens itself.
fn executed(path: &Path, seen: &mut Findings) {
    if path.is_file() && access(path, Access::EXEC_OK).is_ok() {
        seen.read.insert(path.to_owned());
        seen.read.extend(interpreter(path));
    }
}

fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut start = [0; 256];
    let read = File::open(script).ok()?.read_at(&mut start, 0).ok()?;
    let line = start[..read].strip_prefix(b"#!")?;
    let line = str::from_utf8(line.split(|byte| *byte == b'\n').next()?).ok()?;
    let interpreter = Path::new(line.split_whitespace().next()?);
    interpreter.is_absolute().then(|| interpreter.to_owned())
}

fn look_at_socket(target: &Target<'_>, step: Step, seen: &mut Findings) {
    let address = match step {
        Step::Connect(address) | Step::Bind(address) => target.address(address),
        _ => {
            seen.client |= is_for_datagrams(target);
            return;
        }
    };
    match address {
        Some(Address::Network) if matches!(step, Step::Bind(_)) => seen.server = true,
        Some(Address::Network) => seen.client = true,
        Some(Address::Path(path)) => drop(seen.sockets.insert(path)),
        None => {}
    }
}

/// A datagram socket of the network needs no connection.
fn is_for_datagrams(target: &Target<'_>) -> bool {
    const NETWORK: [u64; 2] = [2, 10];
    const DATAGRAMS: u64 = 2;
    const KIND: u64 = 0xf;
    NETWORK.contains(&target.argument(0)) && target.argument(1) & KIND == DATAGRAMS
}
