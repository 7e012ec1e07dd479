//! Mach IPC for Linux.
//!
//! Processes talk through *ports*. Rights to ports are capabilities that travel in messages, the
//! *bootstrap server* publishes them under names, and the sandbox decides who may use which name.
//!
//! * Ports, rights and messages are re-exported from [`portolan_port`]; start at [`ReceiveRight`],
//!   [`SendRight`] and [`Message`].
//! * [`bootstrap`] publishes and finds rights by name; [`bootstrap::jobs`] has programs started when
//!   they are needed.
//! * [`defaults`] are the settings that the members of an application group share.
//!   [`shm`], [`semaphore`] and [`group_socket`] are what else they share.
//! * [`message_port`] is the comfortable way: a name, a callback, requests with time-outs.

pub mod bootstrap;
pub mod defaults;
pub mod group_socket;
pub mod message_port;
mod named;
pub mod semaphore;
pub mod shm;

pub use portolan_port::{
    BatchMessage, Body, CreateError, Loan, MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS, Message,
    MintError, Notification, PendingReply, PortId, PortSet, PortStatus, ReceiveBatch, ReceiveError,
    ReceiveRight, ReplyError, RequestError, Right, SendBatch, SendError, SendErrorKind,
    SendOnceRight, SendRight, Sender, SharedMapping, Timeout, WaitPolicy,
};
pub use portolan_wire::code::BootstrapCode;
pub use portolan_wire::group::{GroupError, GroupId};
pub use portolan_wire::label::{JobLabel, LabelError};
pub use portolan_wire::name::{NameError, ServiceName};
