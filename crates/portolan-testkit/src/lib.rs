//! What Portolan's own tests share.
//!
//! * [`flavour`]: one test over sockets and over shared memory;
//! * [`process`]: the same test program again as another process, which begins with one socket;
//! * [`soak`]: tests that go on for as long as they are told to;
//! * [`usage`]: what a process uses, from `/proc`;
//! * [`wait`]: waiting for what comes at some time.

pub mod flavour;
pub mod process;
pub mod soak;
pub mod usage;
pub mod wait;
