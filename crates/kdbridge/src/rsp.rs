//! The GDB remote serial protocol: what both ends share, and the end that asks.

pub mod hex;
pub mod link;
pub mod packet;
mod probe;
mod registers;
pub mod target;

pub use target::RspTarget;
