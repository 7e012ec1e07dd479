//! Linux calls that `rustix` lacks, as safe functions over owned descriptors.
//!
//! These things live here, and nothing else:
//!
//! * [`ancillary`]: receiving a packet together with everything the kernel attaches to it
//!   (descriptors, credentials, a pidfd), and asking for those attachments;
//! * [`fork`]: noticing, without a system call, that this process is a forked child of the one
//!   that made a value;
//! * [`inherit`]: duplicating a descriptor that a parent left open and that is known by its
//!   number only;
//! * nothing that has policy, a protocol or a retry in it.

#![deny(unsafe_code)]

pub mod ancillary;
pub mod fork;
pub mod inherit;
