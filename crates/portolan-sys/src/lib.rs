//! Linux calls that `rustix` lacks, as safe functions over owned descriptors.
//!
//! These things live here, and nothing else:
//!
//! * [`ancillary`]: receiving a packet together with everything the kernel attaches to it
//!   (descriptors, credentials, a pidfd), and asking for those attachments;
//! * [`by_number`]: system calls that are made to see whether they are let through;
//! * [`confine`]: filters of system calls, namespaces and children, for a program that locks itself in;
//! * [`fork`]: noticing, without a system call, that this process is a forked child of the one
//!   that made a value;
//! * [`inherit`]: descriptors that are left open over an exec, and known by their numbers only;
//! * [`notify`]: system calls that wait for what another process says of them;
//! * [`spawn`]: starting a program from a large process with many threads;
//! * [`holder`]: a child process that shares its parent's descriptors;
//! * [`orphans`]: the descriptors that such a child, or the program before this one, has left;
//! * [`signals`]: waiting for signals without a handler;
//! * nothing that has policy, a protocol or a retry in it.

#![deny(unsafe_code)]

pub mod ancillary;
pub mod by_number;
pub mod confine;
pub mod fork;
pub mod holder;
pub mod inherit;
pub mod notify;
pub mod orphans;
pub mod signals;
pub mod spawn;
