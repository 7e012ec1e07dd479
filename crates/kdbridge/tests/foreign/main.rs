//! Stubs of others behind the bridge, and debuggers in front of it.

#![expect(clippy::unwrap_used, reason = "a test may fail in any way it likes")]

mod arm;
#[path = "../debugger/mod.rs"]
mod debugger;
mod lab_arm;
mod lab_gdbserver;
mod lab_lldb_server;
mod program;
#[path = "../serving/mod.rs"]
mod serving;
mod sessions;
