//! What a kernel is and where it lies, found in its memory.

pub mod linux;
pub mod xnu;
