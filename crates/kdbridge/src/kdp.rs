//! KDP, the protocol that an XNU kernel speaks to its debugger while it stands still.
//!
//! One datagram is one packet: a head of eight bytes and a body. The debugger asks, one request at a
//! time, and the kernel answers; the kernel tells on its own of exceptions only. A kernel that runs
//! does not listen.

pub mod client;
pub mod link;
pub mod packet;
pub mod serial;
pub mod server;
pub mod target;

mod bytes;
mod state;
mod udp;

pub use client::{AttachError, Client};
pub use link::{Link, UdpLink};
pub use serial::SerialLink;
pub use server::{Identity, Server};
pub use target::{KdpTarget, Reentry};
pub use udp::Front;

/// The UDP port on which a kernel listens.
pub const PORT: u16 = 41139;
