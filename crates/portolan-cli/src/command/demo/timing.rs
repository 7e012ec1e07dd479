//! The table at the end of the demo: the same round trip through a port and through a Unix socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use portolan::{Message, ReceiveRight, Right, SendRight, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Actor, INHERITED_FD, say};
use crate::args::Part;

const PAYLOAD: [u8; 64] = [7; 64];
const PATIENCE: Duration = Duration::from_secs(8);

/// Times both ways against another process each, and prints medians and 99th percentiles.
pub(super) fn table(rounds: u32) -> anyhow::Result<()> {
    say("   | way | median | 99th percentile |")?;
    say("   | --- | ---: | ---: |")?;
    let (socket, theirs) = socket_pair()?;
    let echo = Actor::spawn(Part::SocketEcho, theirs)?;
    row("Unix socket (SOCK_SEQPACKET)", rounds, || {
        through_socket(&socket)
    })?;
    echo.stop()?;
    let (right, echo) = port_of_another_process()?;
    row("Portolan port", rounds, || through_port(&right))?;
    echo.stop()
}

fn row(
    way: &str,
    rounds: u32,
    mut round_trip: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for _ in 0..=rounds / 10 {
        round_trip()?;
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        round_trip()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() - 1) * percent / 100).copied();
    let (median, p99) = (at(50).unwrap_or_default(), at(99).unwrap_or_default());
    say(format_args!("   | {way} | {median:.1?} | {p99:.1?} |"))?;
    Ok(())
}

fn socket_pair() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let kind = SocketType::SEQPACKET;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn through_socket(socket: &OwnedFd) -> anyhow::Result<()> {
    rustix::net::send(socket, &PAYLOAD, SendFlags::NOSIGNAL)?;
    let mut answer = [0; 128];
    let (len, _) = rustix::net::recv(socket, &mut answer, RecvFlags::empty())?;
    anyhow::ensure!(
        answer.get(..len) == Some(&PAYLOAD[..]),
        "the echo is another"
    );
    Ok(())
}

fn through_port(right: &SendRight) -> anyhow::Result<()> {
    let answer = right.request(Message::new(1).with_bytes(PAYLOAD), PATIENCE, PATIENCE)?;
    anyhow::ensure!(answer.bytes() == PAYLOAD, "the echo is another");
    Ok(())
}

/// The other process gets a right to a port of this one, and sends back a right to its own.
fn port_of_another_process() -> anyhow::Result<(SendRight, Actor)> {
    let port = ReceiveRight::new()?;
    let Ok(socket) = port.make_send()?.into_socket() else {
        anyhow::bail!("the right is in use")
    };
    let echo = Actor::spawn(Part::PortEcho, socket)?;
    match port.receive(PATIENCE)?.take_rights().pop() {
        Some(Right::Send(right)) => Ok((right, echo)),
        _ => anyhow::bail!("the other process did not introduce itself"),
    }
}

/// Played in another process: sends back what comes through the port.
pub(super) fn echo_port() -> anyhow::Result<()> {
    let value = std::env::var_os(INHERITED_FD).context("no right was inherited")?;
    let port = ReceiveRight::new()?;
    let introduction = Message::new(0).with_right(port.make_send()?);
    SendRight::inherit(&value)?.send(introduction, PATIENCE)?;
    loop {
        let mut request = port.receive(Timeout::NEVER)?;
        if let Some(reply) = request.take_reply() {
            reply.send(Message::new(1).with_bytes(request.into_bytes()))?;
        }
    }
}

/// Played in another process: sends back what comes through the socket at descriptor 0.
pub(super) fn echo_socket() -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    let socket: BorrowedFd<'_> = stdin.as_fd();
    let mut bytes = [0; 128];
    loop {
        let (len, _) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty())?;
        if len == 0 {
            return Ok(());
        }
        rustix::net::send(
            socket,
            bytes.get(..len).unwrap_or_default(),
            SendFlags::NOSIGNAL,
        )?;
    }
}
