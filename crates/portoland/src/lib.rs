//! The bootstrap server: names, rights to them, and the policy that guards them.
//!
//! What decides does no I/O and reads no clock:
//!
//! * [`registry`]: who has which name.
//! * [`objects`]: which memory and which semaphores of groups there are.
//! * [`supervisor`]: which job runs, and when it is started again.
//! * [`job`]: what a job file says.
//!
//! What acts decides nothing and never waits; each has a descriptor to wait for:
//!
//! * [`launch`] makes processes of jobs, and ends them.
//! * [`log`] keeps what jobs write, [`sockets`] makes the sockets that they inherit, [`watch`] looks after
//!   the paths that start them, and [`notify`] speaks `sd_notify` both ways.
//! * [`journal`] is what the server writes down for the one after it, and [`holder`] the parent that keeps
//!   its descriptors and starts it again.
//!
//! [`server`] drives all of it: an event loop over ports, connections, demand, and the ends of processes
//! and ports. It can run inside any process, see [`server::private`]. [`daemon`] is the server as a process
//! of its own, with a directory and a socket.
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
pub mod objects;
pub mod registry;
pub mod server;
pub mod sockets;
pub mod supervisor;
pub mod watch;
