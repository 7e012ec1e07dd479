//! Unix sockets (statements 4 to 8).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use portolan_sys::by_number::Call;
use portolan_sys::inherit;
use rustix::fs::OFlags;
use rustix::io::IoSlice;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::getpid;

use super::super::attempt::{Attempt, Granted, Refusal, Want};
use super::super::outside::{Kind, Outside};
use super::{Attempted, home, numbers, open};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        4,
        "each_family",
        "socket() of any family 0 to 45",
        each_family,
    ),
    Attempt::new(
        4,
        "own_socket",
        "bind+listen own socket in container",
        own_socket,
    ),
    Attempt::new(5, "unix_stream", "connect pathname unix stream", |o| {
        connect(SocketType::STREAM, o.socket(Kind::Stream)?)
    }),
    Attempt::new(5, "unix_datagram", "sendto pathname unix dgram", |o| {
        send_to(new(SocketType::DGRAM)?, o.socket(Kind::Datagram)?)
    }),
    Attempt::new(5, "session_bus", "connect D-Bus socket", session_bus),
    Attempt::new(5, "system_bus", "connect system D-Bus socket", |_| {
        connect_to(Path::new(SYSTEM_BUS))
    }),
    Attempt::new(5, "systemd_run", "systemd-run --user", systemd_run),
    Attempt::new(
        6,
        "bootstrap_by_path",
        "connect bootstrap socket by path",
        |o| connect_to(&o.path(BOOTSTRAP)),
    ),
    Attempt::new(
        6,
        "bootstrap_by_symlink",
        "connect bootstrap socket by symlink in container",
        by_symlink,
    ),
    Attempt::new(
        6,
        "bootstrap_by_dotdot",
        "connect bootstrap socket by ..",
        |_| {
            enter(&home())?;
            connect_to(&Path::new("../../../../../../..").join(BOOTSTRAP))
        },
    ),
    Attempt::new(
        6,
        "bootstrap_by_descriptor",
        "connect bootstrap socket by /proc/self/fd of an O_PATH fd",
        by_descriptor,
    ),
    Attempt::new(7, "pair_datagram", "socketpair AF_UNIX dgram", |_| {
        pair(SocketType::DGRAM).map(drop)
    }),
    Attempt::new(7, "pair_raw", "socketpair AF_UNIX raw", |_| {
        pair(SocketType::RAW).map(drop)
    }),
    Attempt::new(7, "pair_sendto", "socketpair(DGRAM) sendto pathname", |o| {
        send_to(pair(SocketType::DGRAM)?, o.socket(Kind::Datagram)?)
    }),
    Attempt::new(
        7,
        "pair_sendmsg",
        "socketpair(DGRAM) sendmsg pathname",
        |o| send_message(pair(SocketType::DGRAM)?, o.socket(Kind::Datagram)?),
    ),
    Attempt::new(
        7,
        "pair_raw_sendmsg",
        "socketpair(RAW->DGRAM) sendmsg pathname",
        |o| send_message(pair(SocketType::RAW)?, o.socket(Kind::Datagram)?),
    ),
    Attempt::new(
        7,
        "pair_connect",
        "socketpair(DGRAM) connect pathname",
        |o| {
            let socket = pair(SocketType::DGRAM)?;
            Ok(rustix::net::connect(socket, &o.socket(Kind::Datagram)?)?)
        },
    ),
    Attempt::new(
        7,
        "pair_stream_connect",
        "socketpair(STREAM) re-connect pathname",
        |o| {
            let socket = pair(SocketType::STREAM)?;
            Ok(rustix::net::connect(socket, &o.socket(Kind::Stream)?)?)
        },
    ),
    Attempt::new(
        7,
        "pair_abstract",
        "socketpair(DGRAM) sendto abstract",
        |o| send_to(pair(SocketType::DGRAM)?, o.abstract_socket(Kind::Datagram)?),
    ),
    Attempt::new(7, "bootstrap_connect", "bootstrap fd re-connect", |o| {
        Ok(rustix::net::connect(
            bootstrap()?,
            &o.socket(Kind::Sequenced)?,
        )?)
    }),
    Attempt::new(
        7,
        "bootstrap_sendmsg",
        "bootstrap fd sendmsg name",
        bootstrap_sendmsg,
    ),
    Attempt::new(8, "abstract_stream", "connect abstract unix stream", |o| {
        connect(SocketType::STREAM, o.abstract_socket(Kind::Stream)?)
    }),
    Attempt::new(8, "abstract_datagram", "sendto abstract unix dgram", |o| {
        send_to(new(SocketType::DGRAM)?, o.abstract_socket(Kind::Datagram)?)
    }),
    with_group(Attempt::new(
        5,
        "group_unix_stream",
        "with a group: connect outside socket",
        |o| connect(SocketType::STREAM, o.socket(Kind::Stream)?),
    )),
    with_group(Attempt::new(
        5,
        "group_unix_datagram",
        "with a group: sendto outside socket",
        |o| send_to(new(SocketType::DGRAM)?, o.socket(Kind::Datagram)?),
    )),
    with_group(Attempt::new(
        8,
        "group_abstract",
        "with a group: connect abstract socket",
        |o| connect(SocketType::STREAM, o.abstract_socket(Kind::Stream)?),
    )),
    with_group(Attempt::new(
        5,
        "group_socket",
        "with a group: socket in its container",
        |o| own_socket_in(&o.group()),
    ))
    .want(Want::Refused, Want::Works),
];

const fn with_group(attempt: Attempt) -> Attempt {
    attempt.granted(Granted::Group)
}

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const BOOTSTRAP: &str = "portolan/bootstrap";

/// The families up to `AF_MCTP`, with the kinds and protocols that some of them have.
fn each_family(_: &Outside) -> Attempted {
    for family in 0..46 {
        for kind in [1, 2, 3, 5] {
            for protocol in [0, 1, 6, 132, 262] {
                if numbers(Call::SOCKET, [family, kind, protocol]).is_ok() {
                    return Ok(());
                }
            }
        }
    }
    Err(Refusal::Nothing)
}

fn new(kind: SocketType) -> Result<OwnedFd, Refusal> {
    Ok(rustix::net::socket(AddressFamily::UNIX, kind, None)?)
}

fn pair(kind: SocketType) -> Result<OwnedFd, Refusal> {
    let family = AddressFamily::UNIX;
    let (one, other) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
    // As long as it is open, what is sent without an address has somewhere to go.
    std::mem::forget(other);
    Ok(one)
}

fn connect(kind: SocketType, address: SocketAddrUnix) -> Attempted {
    Ok(rustix::net::connect(new(kind)?, &address)?)
}

fn connect_to(path: &Path) -> Attempted {
    connect(SocketType::STREAM, SocketAddrUnix::new(path)?)
}

fn send_to(socket: OwnedFd, address: SocketAddrUnix) -> Attempted {
    rustix::net::sendto(socket, b"x", SendFlags::DONTWAIT, &address)?;
    Ok(())
}

fn send_message(socket: OwnedFd, address: SocketAddrUnix) -> Attempted {
    let bytes = [IoSlice::new(b"x")];
    let mut control = SendAncillaryBuffer::default();
    let flags = SendFlags::DONTWAIT;
    rustix::net::sendmsg_addr(socket, &address, &bytes, &mut control, flags)?;
    Ok(())
}

fn own_socket(_: &Outside) -> Attempted {
    own_socket_in(&home())
}

/// The address of a socket has no room for long paths.
fn enter(directory: &Path) -> Attempted {
    Ok(rustix::process::chdir(directory)?)
}

/// Listens there, and connects to it.
fn own_socket_in(directory: &Path) -> Attempted {
    enter(directory)?;
    let address = SocketAddrUnix::new(format!("socket-{}", getpid()))?;
    let server = new(SocketType::STREAM)?;
    rustix::net::bind(&server, &address)?;
    rustix::net::listen(&server, 1)?;
    connect(SocketType::STREAM, address)
}

fn session_bus(outside: &Outside) -> Attempted {
    connect_to(outside.bus.as_deref().ok_or(Refusal::Absent)?)
}

/// A program that runs another one outside for whoever reaches the bus.
fn systemd_run(outside: &Outside) -> Attempted {
    let bus = outside.bus.as_deref().ok_or(Refusal::Absent)?;
    let mut command = std::process::Command::new("systemd-run");
    command.args(["--user", "--quiet", "--wait", "/bin/true"]);
    command.env("XDG_RUNTIME_DIR", bus.parent().unwrap_or(Path::new("/")));
    command.env(
        "DBUS_SESSION_BUS_ADDRESS",
        format!("unix:path={}", bus.display()),
    );
    match super::needs::succeeds(&mut command) {
        Err(Refusal::Errno(rustix::io::Errno::NOENT)) => Err(Refusal::Absent),
        other => other,
    }
}

fn by_symlink(outside: &Outside) -> Attempted {
    enter(&home())?;
    let link = format!("bootstrap-{}", getpid());
    rustix::fs::symlink(outside.path(BOOTSTRAP), &link)?;
    connect_to(Path::new(&link))
}

fn by_descriptor(outside: &Outside) -> Attempted {
    let file = open(outside.path(BOOTSTRAP), OFlags::PATH)?;
    connect_to(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// The descriptor of the bootstrap right.
pub(super) fn bootstrap() -> io::Result<OwnedFd> {
    inherit::duplicate(3)
}

/// An address is not an error on such a socket: what is sent goes to its own peer.
fn bootstrap_sendmsg(outside: &Outside) -> Attempted {
    let sent = send_message(bootstrap()?, outside.socket(Kind::Sequenced)?);
    match sent {
        Ok(()) if super::needs::bootstrap_answers().is_ok() => Err(Refusal::Nothing),
        other => other,
    }
}
