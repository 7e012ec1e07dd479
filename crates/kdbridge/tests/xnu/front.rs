//! A kernel that listens on a UDP port, and its end.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use kdbridge::kdp::{Front, Identity, KdpTarget, Server, UdpLink};

use crate::build::Built;
use crate::machine::Machine;

/// The machine with its kernel in the debugger, served by a thread.
pub(crate) struct Kernel {
    pub(crate) address: SocketAddr,
    pub(crate) ticks: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kernel {
    pub(crate) fn start(built: &Built, slide: u64) -> Self {
        Self::of(Machine::new(built, slide, false))
    }

    /// The kernel of a machine that does not listen.
    pub(crate) fn of(machine: Machine) -> Self {
        let ticks = Arc::clone(&machine.ticks);
        let identity = Identity {
            banner: machine.banner().into_bytes(),
        };
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
        let address = socket.local_addr().expect("an address");
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut front = Front::new(Server::new(machine, identity), socket).expect("a socket");
            front.serve(&ended).expect("a machine");
        });
        Self {
            address,
            ticks,
            end,
            thread: Some(thread),
        }
    }

    /// As `kdbridge` calls it.
    pub(crate) fn place(&self) -> String {
        format!("kdp:{}", self.address)
    }

    pub(crate) fn attach(&self) -> KdpTarget<UdpLink> {
        let link = UdpLink::connect(self.address).expect("a link");
        KdpTarget::attach(link).expect("a kernel that answers")
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || thread::panicking());
    }
}
