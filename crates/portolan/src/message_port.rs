//! Named ports with a callback, after `CFMessagePort`.
//!
//! A [`LocalMessagePort`] publishes a name and answers each request with a callback
//! `(id, data) -> Option<data>`. A [`RemoteMessagePort`] finds it by the name and sends requests
//! with time-outs.
//!
//! ```
//! use portolan::ServiceName;
//! use portolan::bootstrap::Bootstrap;
//! use portolan::message_port::{LocalMessagePort, RemoteMessagePort, ReplyMode};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bootstrap = Bootstrap::private()?;
//! let name: ServiceName = "org.example.shout".parse()?;
//! let local = LocalMessagePort::create(&bootstrap, &name, |request| {
//!     Some(request.data().to_ascii_uppercase())
//! })?
//! .into_port();
//! local.spawn()?;
//!
//! let second = Duration::from_secs(1);
//! let remote = RemoteMessagePort::create(&bootstrap, &name)?;
//! let answer = remote.send_request(1, "hello", second, ReplyMode::ReceiveTimeout(second))?;
//! assert_eq!(answer.as_deref(), Some(&b"HELLO"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! # Where it differs from CFMessagePort
//!
//! * A failure comes with its reason: a remote port that cannot be made says why, a local port
//!   that exists already says so ([`Created`]).
//! * No run loop is needed. A local port is served by the threads that call
//!   [`run`](LocalMessagePort::run) or [`run_once`](LocalMessagePort::run_once), by a thread of its
//!   own ([`spawn`](LocalMessagePort::spawn)), or from an event loop (`AsFd`), and several of these
//!   at once call the callback at once; CF allows either a run loop or a queue. A remote port
//!   needs none of this: its requests wait on their own.
//! * While a request waits, its thread does nothing else. CF runs the run loop meanwhile, so that
//!   other callbacks come in between. A callback may send requests, to ports of its own process
//!   too; but a request that only the waiting thread could serve ends with its time-out.
//! * A right is asked for at each [`RemoteMessagePort::create`], so what it finds is never stale;
//!   if this process has a remote port for the very port that is found, it is that one again.
//!   The tables behind this are keyed by the name and the [`PortId`](crate::PortId) of the service,
//!   so several bootstrap servers in one process are not confused.
//! * A request whose callback panics fails at once, and the port goes on.
//! * There are no ports without a name and no hidden threads: the death of a remote port is
//!   noticed by whoever uses it next.

mod invalidation;
mod local;
mod remote;
mod table;

pub use local::{CreateLocalError, Created, LocalMessagePort, Pass, Request};
pub use remote::{RemoteMessagePort, ReplyMode, SendRequestError};
