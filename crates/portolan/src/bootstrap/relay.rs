//! A port that stands for a bootstrap server, and tells which names a program uses.

use portolan_port::{
    CreateError, Message, MintError, Notification, ReceiveError, ReceiveRight, SendOnceRight,
    SendRight, Timeout,
};
use portolan_wire::bootstrap::{Flags, Request};
use portolan_wire::group::GroupId;
use portolan_wire::name::ServiceName;
use thiserror::Error;

use super::{Bootstrap, PATIENCE};

/// Passes requests on to a bootstrap server, one after the other.
///
/// To the server this process is the one that asks: what a program registers through it belongs to
/// this process, also names that are found with a pid only.
#[derive(Debug)]
pub struct Relay {
    server: SendRight,
    port: ReceiveRight,
}

/// What was used, whatever came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Used {
    /// A name.
    Name {
        /// The name.
        name: ServiceName,
        /// Whether it was to be published, and not only looked up.
        registered: bool,
        /// Whether it is one that is found with a pid only.
        per_pid: bool,
    },
    /// Memory, a semaphore or a socket of a group.
    Group(GroupId),
}

/// A relay could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RelayError {
    /// There is no port for it.
    #[error("cannot make a port")]
    Port(#[from] CreateError),
    /// There is no right to it.
    #[error("cannot make a right")]
    Right(#[from] MintError),
}

impl Relay {
    /// A relay to a server, and the one right to it.
    ///
    /// # Errors
    ///
    /// [`RelayError`]
    pub fn new(server: Bootstrap) -> Result<(Self, SendRight), RelayError> {
        let port = ReceiveRight::new()?;
        let right = port.make_send()?;
        port.request_no_senders(1);
        let server = server.into_right();
        Ok((Self { server, port }, right))
    }

    /// Passes on until the right, and all that were copied from it, are gone.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]
    pub fn run(&self, mut used: impl FnMut(Used)) -> Result<(), ReceiveError> {
        loop {
            let mut message = self.port.receive(Timeout::NEVER)?;
            if let Some(Notification::NoSenders { .. }) = message.notification() {
                return Ok(());
            }
            let request = Request::decode(message.id(), message.bytes()).ok();
            request.and_then(used_by).into_iter().for_each(&mut used);
            if let Some(reply) = message.take_reply() {
                self.pass_on(message, reply);
            }
        }
    }

    /// Who gets no answer from the server gets none from here.
    fn pass_on(&self, mut message: Message, reply: SendOnceRight) {
        let request = copied(&mut message);
        if let Ok(mut answer) = self.server.request(request, PATIENCE, Timeout::NEVER) {
            // One that has gone away does not need it.
            reply.send(copied(&mut answer)).ok();
        }
    }
}

fn copied(message: &mut Message) -> Message {
    let copy = Message::new(message.id()).with_bytes(message.bytes());
    let rights = message.take_rights().into_iter();
    rights.fold(copy, Message::with_right)
}

fn used_by(request: Request) -> Option<Used> {
    let (name, flags, registered) = match request {
        Request::Register { name, flags } | Request::CheckIn { name, flags } => (name, flags, true),
        Request::LookUp { name, flags, .. } => (name, flags, false),
        Request::Status { name } => (name, Flags::NONE, false),
        Request::OpenObject { name, .. } | Request::UnlinkObject { name, .. } => {
            return name.group().parse().ok().map(Used::Group);
        }
        Request::GroupSocket { group, .. } => return Some(Used::Group(group)),
        _ => return None,
    };
    Some(Used::Name {
        name,
        registered,
        per_pid: flags.contains(Flags::PER_PID_SERVICE),
    })
}
