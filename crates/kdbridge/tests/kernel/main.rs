//! Tests with a real kernel in a virtual machine, and with real debuggers.
//!
//! They need what `cargo xtask kernel-lab` brings, and fail without it; `cargo xtask test` leaves them
//! out if it is not there, and says so. All are in modules named `lab_…`, by which it knows them.

#![expect(clippy::unwrap_used, reason = "a test may fail in any way it likes")]

mod bridge;
mod dap;
mod lab_bridge;
mod lab_commands;
mod lab_debuggers;
mod lab_figures;
mod lab_guide;
mod lab_hostile;
mod lab_ide;
mod lab_machine;
mod lab_memory;
mod lab_modules;
mod lab_other_kernel;
mod lab_serve_kdp;
mod lab_signals;
mod lab_symbols;
mod lab_target;
mod machine;
mod relay;
#[path = "../transcripts/mod.rs"]
mod transcripts;
