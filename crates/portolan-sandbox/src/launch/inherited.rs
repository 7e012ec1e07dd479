//! What the program inherits: the standard streams, its bootstrap right and its sockets.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use portolan_sys::inherit;
use portolan_sys::orphans::Orphans;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::Failure;

const BOOTSTRAP: &str = "PORTOLAN_BOOTSTRAP_FD";
const FIRST_SOCKET: u32 = 3;

/// Descriptors for the program, all of them close-on-exec until they are left.
#[derive(Debug)]
pub(crate) struct Inherited {
    bootstrap: Option<OwnedFd>,
    sockets: Vec<OwnedFd>,
    /// Where the process is that reports what is refused to the program, which does not get this.
    reporter: Option<UnixStream>,
}

impl Inherited {
    /// Takes what the environment names, and closes everything else.
    pub(crate) fn take() -> Result<Self, Failure> {
        let mut sockets = Vec::new();
        for number in 0..sockets_announced() {
            let socket = inherit::take(FIRST_SOCKET + number);
            sockets.push(socket.map_err(Failure::Descriptors)?);
        }
        let number = env::var(BOOTSTRAP).ok().and_then(|text| text.parse().ok());
        let bootstrap = match number {
            None => None,
            Some(number) => Some(inherit::take(number).map_err(Failure::Descriptors)?),
        };
        close_others().map_err(Failure::Descriptors)?;
        refuse_ways_out(&bootstrap)?;
        Ok(Self {
            bootstrap,
            sockets,
            reporter: None,
        })
    }

    pub(crate) fn with_reporter(self, reporter: UnixStream) -> Self {
        Self {
            reporter: Some(reporter),
            ..self
        }
    }

    pub(crate) fn reporter(&self) -> Option<&UnixStream> {
        self.reporter.as_ref()
    }

    pub(crate) fn has_sockets(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// Leaves them open for the program, under the numbers that they have.
    pub(crate) fn leave(&self) -> io::Result<()> {
        for descriptor in self.bootstrap.iter().chain(&self.sockets) {
            inherit::leave(descriptor.as_fd())?;
        }
        Ok(())
    }
}

/// How many sockets this very process was started with, see sd_listen_fds(3).
fn sockets_announced() -> u32 {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}

/// Whoever has started this may have been careless.
fn close_others() -> io::Result<()> {
    let entries = fs::read_dir("/proc/self/fd")?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let names = names?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse().ok());
    Orphans::left_by_exec(numbers).close_except(|_| false);
    Ok(())
}

/// A directory leads to whatever is below and above it, a file that was opened for its path only
/// may be one, and a datagram socket reaches any other.
fn refuse_ways_out(bootstrap: &Option<OwnedFd>) -> Result<(), Failure> {
    let refuse = |number, what| Err(Failure::Leads { number, what });
    let standard = [
        Some(rustix::stdio::stdin()),
        Some(rustix::stdio::stdout()),
        Some(rustix::stdio::stderr()),
        bootstrap.as_ref().map(AsFd::as_fd),
    ];
    for (number, descriptor) in (0..).zip(standard.into_iter().flatten()) {
        let status = match rustix::fs::fstat(descriptor) {
            Err(Errno::BADF) => continue,
            other => other.map_err(|error| Failure::Descriptors(error.into()))?,
        };
        let flags = rustix::fs::fcntl_getfl(descriptor);
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind == FileType::Directory {
            return refuse(number, "a directory");
        }
        if flags.is_ok_and(|flags| flags.contains(OFlags::PATH)) {
            return refuse(number, "opened for its path");
        }
        if kind == FileType::Socket
            && sockopt::socket_domain(descriptor) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(descriptor) == Ok(SocketType::DGRAM)
        {
            return refuse(number, "a datagram socket");
        }
    }
    Ok(())
}
