//! Peers that share memory with a right or a port, and keep to no rules there: each harms its own
//! channel and nothing else.

mod holders;
mod lenders;
mod nonsense;
mod ports;
mod processes;
mod raw_memory;
#[path = "../stage/mod.rs"]
mod stage;

use std::time::Duration;

use portolan_port::Timeout;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

/// Where other processes begin; nothing to do in the one that runs the tests.
#[test]
fn play_a_part() {
    processes::play_part();
}
