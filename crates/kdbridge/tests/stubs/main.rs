//! Stubs that tests play.

#![expect(clippy::unwrap_used, reason = "a test may fail in any way it likes")]

mod hostile;
mod stub;
mod vmware;
