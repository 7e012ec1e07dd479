//! D-Bus with zbus: peer to peer, and through a bus. Programs that are not asynchronous are told
//! to use `zbus::block_on`, so this does.

use std::env;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use serde::Serialize;
use serde_bytes::{ByteBuf, Bytes};
use zbus::message::{Flags, Message, Type};
use zbus::zvariant::DynamicType;
use zbus::{Connection, Fd, Guid, MessageStream, block_on, connection};

use super::{Client, Peer};
use crate::cell::{Action, Cell};
use crate::payload::{Source, sum};

const NAME: &str = "org.portolan.Bench";
const OBJECT: &str = "/org/portolan/Bench";

struct Service;

#[zbus::interface(name = "org.portolan.Bench")]
impl Service {
    fn echo(&self, bytes: ByteBuf) -> ByteBuf {
        std::hint::black_box(sum(&bytes));
        bytes
    }

    fn sum(&self, bytes: &[u8]) -> u64 {
        sum(bytes)
    }

    fn pass(&self, bytes: ByteBuf, right: zbus::OwnedFd) -> zbus::fdo::Result<()> {
        std::hint::black_box(sum(&bytes));
        let mut answer = UnixStream::from(OwnedFd::from(right));
        let written = answer.write_all(&bytes);
        written.map_err(|error| zbus::fdo::Error::IOError(error.to_string()))
    }
}

pub(super) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let streams = cell.task.action == Action::Stream;
    if cell.peer != Peer::ZbusP2p {
        let builder = connection::Builder::address(address(&cell.directory).as_str()).name(NAME);
        wait_for_bus(&cell.directory)?;
        let builder = if streams {
            builder
        } else {
            builder.serve_at(OBJECT, Service)
        };
        let connection = block_on(builder.build())?;
        // One that nobody reads from would stop the connection when it is full.
        let messages = streams.then(|| MessageStream::from(&connection));
        ready();
        if let Some(messages) = messages {
            return serve_stream(&connection, messages);
        }
        wait_for_ever();
    }
    let listener = UnixListener::bind(socket(&cell.directory))?;
    let guid = Guid::generate();
    ready();
    let mut connections = Vec::new();
    loop {
        let (socket, _) = listener.accept()?;
        let builder = connection::Builder::unix_stream(socket).server(&guid).p2p();
        let builder = if streams {
            builder
        } else {
            builder.serve_at(OBJECT, Service)
        };
        let connection = block_on(builder.build())?;
        if streams {
            return serve_stream(&connection, MessageStream::from(&connection));
        }
        connections.push(connection);
    }
}

fn wait_for_ever() -> ! {
    loop {
        thread::park();
    }
}

/// Calls without answers are read as they come, and the one that asks for the total is answered.
fn serve_stream(connection: &Connection, mut messages: MessageStream) -> anyhow::Result<()> {
    let mut total = 0u64;
    block_on(async {
        while let Some(message) = messages.next().await {
            let message = message?;
            if message.message_type() != Type::MethodCall {
                continue;
            }
            match message.header().member().map(|member| member.as_str()) {
                Some("Add") => {
                    let body = message.body();
                    let bytes: &[u8] = body.deserialize()?;
                    total = total.wrapping_add(sum(bytes));
                }
                Some("Total") => {
                    let answer = Message::method_return(&message.header()).build(&total)?;
                    connection.send(&answer).await?;
                    total = 0;
                }
                other => bail!("no such method: {other:?}"),
            }
        }
        Ok(())
    })
}

/// Becomes the bus.
pub(super) fn run_bus(cell: &Cell) -> anyhow::Result<()> {
    let mut command = if cell.peer == Peer::ZbusDbusDaemon {
        dbus_daemon(&cell.directory)
    } else {
        dbus_broker(&cell.directory)?
    };
    // What a bus has to say is about what it was not allowed to do, which does not matter here.
    let error = command.stderr(Stdio::null()).exec();
    Err(error).context("the bus did not start")
}

const CONFIGURATION: &str = "--config-file=/usr/share/dbus-1/session.conf";
const JOURNAL: &str = "/run/systemd/journal/socket";

fn dbus_daemon(directory: &Path) -> Command {
    let mut command = Command::new("dbus-daemon");
    command.args([CONFIGURATION, "--nofork", "--nopidfile"]);
    command.arg(format!("--address={}", address(directory)));
    command
}

/// Does what systemd does for it: passes the socket as descriptor 3, says for which process it is,
/// and has a journal.
fn dbus_broker(directory: &Path) -> anyhow::Result<Command> {
    const ACTIVATE: &str =
        "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec dbus-broker-launch \"$@\"";
    const STAND_IN: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
        ln -s \"$0\" /run/systemd/journal/socket || exit 1; ";
    let listener = UnixListener::bind(socket(directory))?;
    let mut command = Command::new("sh");
    let mut script = ACTIVATE.to_owned();
    if !Path::new(JOURNAL).exists() {
        command = Command::new("unshare");
        command.args(["--mount", "sh"]);
        script.insert_str(0, STAND_IN);
        // Open for as long as the bus runs, since it is its standard output.
        let journal = UnixDatagram::bind(directory.join("journal"))?;
        command.stdout(Stdio::from(OwnedFd::from(journal)));
    }
    command.args(["-c", &script]).arg(directory.join("journal"));
    command.args(["--scope", "user", CONFIGURATION]);
    // It is its own first client.
    command.env("DBUS_SESSION_BUS_ADDRESS", address(directory));
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    Ok(command)
}

/// What keeps a bus from running here.
pub(super) fn missing(peer: Peer) -> Option<&'static str> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_installed =
        |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    match peer {
        Peer::ZbusDbusDaemon if !is_installed("dbus-daemon") => {
            Some("the Debian package dbus-daemon")
        }
        Peer::ZbusDbusBroker if !is_installed("dbus-broker-launch") => {
            Some("the Debian package dbus-broker")
        }
        Peer::ZbusDbusBroker
            if !Path::new(JOURNAL).exists() && !rustix::process::getuid().is_root() =>
        {
            Some("systemd's journal, or root to put something in its place")
        }
        _ => None,
    }
}

fn wait_for_bus(directory: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = UnixStream::connect(socket(directory)) {
        if Instant::now() > deadline {
            return Err(error).context("the bus does not listen");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

struct Zbus {
    connection: Connection,
    peer: Peer,
    directory: PathBuf,
    sum: bool,
}

pub(super) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(Zbus {
        connection: dial(cell.peer, &cell.directory)?,
        peer: cell.peer,
        directory: cell.directory.clone(),
        sum: cell.task.action == Action::Sum,
    }))
}

impl Zbus {
    /// `None` where there is nobody else.
    fn destination(&self) -> Option<&'static str> {
        (self.peer != Peer::ZbusP2p).then_some(NAME)
    }

    fn call<B: Serialize + DynamicType>(&self, method: &str, body: &B) -> zbus::Result<Message> {
        let (to, connection) = (self.destination(), &self.connection);
        block_on(connection.call_method(to, OBJECT, Some(NAME), method, body))
    }
}

impl Client for Zbus {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let bytes = source.vector(length);
        if self.sum {
            let answer = self.call("Sum", &Bytes::new(&bytes))?;
            return Ok(answer.body().deserialize()?);
        }
        let answer = self.call("Echo", &Bytes::new(&bytes))?;
        let body = answer.body();
        Ok(sum(body.deserialize::<&[u8]>()?))
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        let bytes = source.vector(length);
        let mut builder = Message::method_call(OBJECT, "Add")
            .interface(NAME)
            .with_flags(Flags::NO_REPLY_EXPECTED);
        if let Some(name) = self.destination() {
            builder = builder.destination(name);
        }
        let message = builder.build(&Bytes::new(&bytes))?;
        Ok(block_on(self.connection.send(&message))?)
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        Ok(self.call("Total", &())?.body().deserialize()?)
    }

    fn pass_right(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let (mut kept, given) = UnixStream::pair()?;
        let bytes = source.vector(length);
        self.call("Pass", &(Bytes::new(&bytes), Fd::from(given.as_fd())))?;
        let mut answer = vec![0; length];
        kept.read_exact(&mut answer)?;
        Ok(sum(&answer))
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        Ok(Box::new(Self {
            connection: dial(self.peer, &self.directory)?,
            peer: self.peer,
            directory: self.directory.clone(),
            sum: false,
        }))
    }
}

fn dial(peer: Peer, directory: &Path) -> anyhow::Result<Connection> {
    let builder = if peer == Peer::ZbusP2p {
        connection::Builder::unix_stream(UnixStream::connect(socket(directory))?).p2p()
    } else {
        connection::Builder::address(address(directory).as_str())
    };
    Ok(block_on(builder.build())?)
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("bus")
}

fn address(directory: &Path) -> String {
    format!("unix:path={}", socket(directory).display())
}
