//! What Portolan's own tests share.
//!
//! * [`process`]: the same test program again as another process, which begins with one socket;
//! * [`soak`]: tests that go on for as long as they are told to;
//! * [`usage`]: what a process uses, from `/proc`.

pub mod process;
pub mod soak;
pub mod usage;
