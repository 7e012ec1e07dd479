//! The bootstrap server: names, rights to them, and the policy that guards them.
//!
//! * [`registry`] is the state: who has which name. It does no I/O and reads no clock.
//! * [`server`] drives it: an event loop over ports, connections, and the ends of processes and
//!   ports. It can run inside any process, see [`server::private`].
//! * [`daemon`] is the server as a process of its own, with a directory and a socket.
//! * [`holder`] is its small parent, which has all that it opens and starts it again, and
//!   [`journal`] says what that is.
//! * [`supervisor`] is the state of jobs: which of them runs, and when it is started again. It does
//!   no I/O either.
//! * [`job`] reads job files, without the server, which does not start jobs yet.
//! * [`launch`] makes processes of jobs, and ends them. It decides nothing.
//! * [`log`] keeps what jobs write, [`sockets`] makes the sockets that they inherit, [`watch`] looks
//!   after the paths that start them, and [`notify`] speaks `sd_notify` both ways. Each has a
//!   descriptor to wait for, and none of them waits.
//!
//! The server is never on the way of a message: it hands out rights, and when it is gone, every
//! conversation goes on.

pub mod daemon;
pub mod holder;
pub mod job;
pub mod journal;
pub mod launch;
pub mod log;
pub mod notify;
pub mod registry;
pub mod server;
pub mod sockets;
pub mod supervisor;
pub mod watch;
