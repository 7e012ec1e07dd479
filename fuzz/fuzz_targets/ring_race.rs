//! Both halves of a ring, while a hostile peer on another thread writes anything anywhere.
//! The body is the one that the property test in crates/portolan-ring/tests/ring.rs runs.
#![no_main]

#[path = "../../crates/portolan-ring/tests/memory/mod.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod memory;
#[path = "../../crates/portolan-ring/tests/ops/mod.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod ops;

libfuzzer_sys::fuzz_target!(|input: &[u8]| ops::race::check(input));
