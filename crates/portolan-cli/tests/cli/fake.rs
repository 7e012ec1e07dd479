//! A bootstrap server that is a thread of the test and answers as it is told: what a real one says
//! of jobs depends on how they fare.

use std::fs;
use std::io::PipeWriter;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use portolan::{BootstrapCode, Message, ReceiveRight, Timeout};
use portolan_wire::bootstrap::{Reply, Request};
use portolan_wire::failure::Refusal;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::world::World;

/// Ends and takes its socket away when it is dropped.
pub(crate) struct Fake {
    world: World,
    /// Closed to tell the thread to end.
    quit: Option<PipeWriter>,
    thread: Option<JoinHandle<Vec<Request>>>,
}

impl Fake {
    /// A world whose server this is.
    pub(crate) fn new(answer: impl Fn(&Request) -> Message + Send + 'static) -> Self {
        let world = World::new();
        let listener = listen(&world);
        let (told, quit) = std::io::pipe().expect("pipe");
        let told = OwnedFd::from(told);
        let thread = thread::spawn(move || serve(&listener, &told, answer));
        Self {
            world,
            quit: Some(quit),
            thread: Some(thread),
        }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// What it was asked.
    pub(crate) fn asked(mut self) -> Vec<Request> {
        self.end()
    }

    fn end(&mut self) -> Vec<Request> {
        fs::remove_file(self.world.runtime().join("bootstrap")).ok();
        drop(self.quit.take());
        let thread = self.thread.take();
        thread.map_or_else(Vec::new, |thread| {
            thread.join().expect("the server's thread")
        })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.end();
        }
        fs::remove_file(self.world.runtime().join("bootstrap")).ok();
    }
}

fn listen(world: &World) -> OwnedFd {
    fs::create_dir(world.runtime()).expect("directory");
    let address = SocketAddrUnix::new(world.runtime().join("bootstrap")).expect("address");
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = socket.expect("socket");
    rustix::net::bind(&socket, &address).expect("bind");
    rustix::net::listen(&socket, 16).expect("listen");
    socket
}

fn serve(listener: &OwnedFd, told: &OwnedFd, answer: impl Fn(&Request) -> Message) -> Vec<Request> {
    let port = ReceiveRight::new().expect("port");
    let mut asked = Vec::new();
    loop {
        let sources = [listener.as_fd(), port.as_fd(), told.as_fd()];
        let mut fds = sources.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None)).expect("poll");
        if !fds[2].revents().is_empty() {
            return asked;
        }
        while let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            port.adopt(socket, 0).expect("adopt");
        }
        while let Ok(mut message) = port.receive(Timeout::POLL) {
            let request = Request::decode(message.id(), message.bytes()).expect("a request");
            let reply = message.take_reply().expect("a reply right");
            // The command may have been killed.
            reply.send(answer(&request)).ok();
            asked.push(request);
        }
    }
}

pub(crate) fn done(reply: &Reply) -> Message {
    Message::new(0).with_bytes(reply.encode())
}

pub(crate) fn refuse(code: BootstrapCode) -> Message {
    Message::new(code.raw())
}

pub(crate) fn explain(code: BootstrapCode, why: &Refusal) -> Message {
    refuse(code).with_bytes(why.encode())
}
