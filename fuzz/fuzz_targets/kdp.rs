//! The packets of KDP and its frames on a serial line.
//! The body is the one that the property tests in crates/kdbridge/tests/kdp_packets.rs run.
#![no_main]

#[path = "../../crates/kdbridge/tests/packets/mod.rs"]
mod packets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| packets::check(input));
