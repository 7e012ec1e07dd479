//! The network (statement 9), and what its entitlements grant.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType, ipproto};

use super::super::attempt::{Attempt, Control, Granted, Refusal};
use super::super::outside::Outside;
use super::Attempted;

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(9, "tcp_connect", "TCP connect 127.0.0.1", tcp_connect),
    Attempt::new(
        9,
        "tcp_fast_open",
        "TCP fast open sendto(MSG_FASTOPEN)",
        tcp_fast_open,
    ),
    Attempt::new(9, "mptcp_connect", "MPTCP connect", mptcp_connect),
    Attempt::new(9, "udp_send", "UDP sendto", udp_send),
    Attempt::new(9, "udp_bind", "UDP bind any port", udp_bind),
    Attempt::new(9, "tcp_listen", "TCP bind+listen any port", tcp_listen),
    Attempt::new(
        9,
        "tcp_listen_unbound",
        "TCP listen without bind",
        tcp_listen_unbound,
    ),
    Attempt::new(9, "sctp", "SCTP", |_| {
        made(AddressFamily::INET, SocketType::STREAM, SCTP)
    }),
    Attempt::new(9, "icmp", "raw IP", |_| {
        made(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))
    })
    .control(Control::Root),
    Attempt::new(9, "netlink", "AF_NETLINK route socket", |_| {
        made(AddressFamily::NETLINK, SocketType::RAW, None)
    }),
    Attempt::new(9, "packet", "AF_PACKET raw", |_| {
        made(AddressFamily::PACKET, SocketType::RAW, None)
    })
    .control(Control::Root),
    Attempt::new(9, "vsock", "AF_VSOCK", |_| {
        made(AddressFamily::VSOCK, SocketType::STREAM, None)
    }),
    Attempt::new(9, "alg", "AF_ALG", |_| {
        made(ALG, SocketType::SEQPACKET, None)
    }),
    Attempt::new(
        9,
        "client_tcp",
        "with network.client: TCP connect",
        tcp_connect,
    )
    .granted(Granted::Client)
    .works(),
    Attempt::new(9, "client_udp", "with network.client: UDP sendto", udp_send)
        .granted(Granted::Client)
        .works(),
    Attempt::new(
        9,
        "client_listen",
        "with network.client: TCP bind+listen",
        tcp_listen,
    )
    .granted(Granted::Client),
    Attempt::new(9, "client_bind", "with network.client: UDP bind", udp_bind)
        .granted(Granted::Client),
    Attempt::new(
        9,
        "client_netlink",
        "with network.client: AF_NETLINK",
        |_| made(AddressFamily::NETLINK, SocketType::RAW, None),
    )
    .granted(Granted::Client),
    Attempt::new(
        9,
        "server_listen",
        "with network.server: TCP bind+listen",
        tcp_listen,
    )
    .granted(Granted::Server)
    .works(),
    Attempt::new(9, "server_bind", "with network.server: UDP bind", udp_bind)
        .granted(Granted::Server)
        .works(),
    Attempt::new(
        9,
        "server_connect",
        "with network.server: TCP connect",
        tcp_connect,
    )
    .granted(Granted::Server),
    Attempt::new(
        9,
        "server_fast_open",
        "with network.server: TCP fast open",
        tcp_fast_open,
    )
    .granted(Granted::Server),
];

/// `AF_ALG` of `linux/socket.h`.
const ALG: AddressFamily = AddressFamily::from_raw(38);

const SCTP: Option<Protocol> = Some(ipproto::SCTP);

fn socket(kind: SocketType, protocol: Option<Protocol>) -> Result<OwnedFd, Refusal> {
    Ok(rustix::net::socket(AddressFamily::INET, kind, protocol)?)
}

fn made(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> Attempted {
    rustix::net::socket(family, kind, protocol)?;
    Ok(())
}

fn local(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

fn tcp_connect(outside: &Outside) -> Attempted {
    let socket = socket(SocketType::STREAM, None)?;
    Ok(rustix::net::connect(socket, &local(outside.tcp))?)
}

/// `MSG_FASTOPEN` of `linux/socket.h`: sends and connects at once.
const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

fn tcp_fast_open(outside: &Outside) -> Attempted {
    let socket = socket(SocketType::STREAM, None)?;
    rustix::net::sendto(socket, b"x", FAST_OPEN, &local(outside.tcp))?;
    Ok(())
}

fn mptcp_connect(outside: &Outside) -> Attempted {
    let socket = socket(SocketType::STREAM, Some(ipproto::MPTCP))?;
    Ok(rustix::net::connect(socket, &local(outside.tcp))?)
}

fn udp_send(outside: &Outside) -> Attempted {
    let socket = socket(SocketType::DGRAM, None)?;
    rustix::net::sendto(socket, b"x", SendFlags::DONTWAIT, &local(outside.udp))?;
    Ok(())
}

fn udp_bind(_: &Outside) -> Attempted {
    let socket = socket(SocketType::DGRAM, None)?;
    Ok(rustix::net::bind(socket, &local(0))?)
}

fn tcp_listen(_: &Outside) -> Attempted {
    let socket = socket(SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &local(0))?;
    Ok(rustix::net::listen(socket, 1)?)
}

fn tcp_listen_unbound(_: &Outside) -> Attempted {
    Ok(rustix::net::listen(socket(SocketType::STREAM, None)?, 1)?)
}
