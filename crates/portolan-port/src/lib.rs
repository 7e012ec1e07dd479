//! Ports and port rights: Mach messages over kernel descriptors.
//!
//! A *port* is a queue that one process receives from. Holding a right to it is holding a
//! descriptor, so the kernel keeps the rules:
//!
//! * [`ReceiveRight`] is the port itself: whoever owns it receives. Dropping it kills the port.
//! * [`SendRight`] is one end of a channel of its own to the port. Copies
//!   ([`SendRight::copy`]) have channels of their own, so no holder can disturb another.
//! * [`SendOnceRight`] is good for one message, most often an answer. Dropped unused, it tells
//!   whoever waits.
//! * [`PortSet`] receives from several ports at once.
//!
//! A [`Message`] carries an `i32` id, bytes, and rights, as one unit. Sending a right moves it;
//! a send that fails gives the message back with every right in it.
//!
//! No server is involved once two processes hold the two ends, and what a peer does wrong closes
//! its own channel and nothing else.
//!
//! ```
//! use portolan_port::{Message, ReceiveRight, Timeout};
//!
//! let port = ReceiveRight::new()?;
//! let right = port.make_send()?;
//! let server = std::thread::spawn(move || {
//!     let mut request = port.receive(Timeout::NEVER).expect("a request");
//!     let reply = request.take_reply().expect("the client waits");
//!     reply.send(Message::new(0).with_bytes(request.bytes().to_ascii_uppercase()))
//! });
//! let answer = right.request(Message::new(1).with_bytes("hello"), Timeout::NEVER, Timeout::NEVER)?;
//! assert_eq!(answer.bytes(), b"HELLO");
//! # server.join().expect("no panic").expect("sent");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

mod ahead;
mod answers;
mod batch;
mod body;
mod channel;
mod error;
mod kept;
mod ledger;
mod lent;
mod link;
mod mapping;
mod memory;
mod message;
mod payload;
mod port_set;
mod receive_right;
mod ring_end;
mod send_once;
mod send_right;
mod sender;
mod socket;
mod timeout;
mod transfer;
mod wait;

pub use batch::{BatchMessage, ReceiveBatch, SendBatch};
pub use body::Body;
pub use error::{
    CreateError, MintError, ReceiveError, ReplyError, RequestError, SendError, SendErrorKind,
};
pub use kept::{ChannelId, ChannelParts, Custody, Debts, LendError, PortParts, Presence, Witness};
pub use lent::Loan;
pub use mapping::SharedMapping;
pub use message::{Message, Notification, Right};
pub use port_set::PortSet;
pub use receive_right::{Head, PortStatus, ReceiveRight};
pub use send_once::SendOnceRight;
pub use send_right::{PendingReply, SendRight};
pub use sender::Sender;
pub use timeout::Timeout;
pub use wait::WaitPolicy;

pub use portolan_wire::packet::{MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS};
pub use portolan_wire::port_id::PortId;
