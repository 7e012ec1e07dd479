//! Everything of portolan-wire that decodes.
//! The body is the one that the property tests in crates/portolan-wire/tests/packets.rs run.
#![no_main]

#[path = "../../crates/portolan-wire/tests/decoders/mod.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|input: &[u8]| decoders::check(input));
