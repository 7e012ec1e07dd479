//! Stubs that tests play.

#![expect(clippy::unwrap_used, reason = "a test may fail in any way it likes")]

mod again;
mod debugger;
mod hostile;
mod kgdb;
mod late;
mod lost;
mod numbers;
mod passed;
mod physical;
mod processors;
mod raw;
mod running;
#[path = "../serving/mod.rs"]
mod serving;
mod standing;
mod stub;
mod told;
mod unknown;
mod vmware;
