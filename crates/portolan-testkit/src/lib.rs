//! What Portolan's own tests share.
//!
//! * [`process`]: the same test program again as another process, which begins with one socket;
//! * [`usage`]: what a process uses, from `/proc`.

pub mod process;
pub mod usage;
