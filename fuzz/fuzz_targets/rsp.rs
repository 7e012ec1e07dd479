//! The packets of the GDB protocol.
//! The body is the one that the property tests in crates/kdbridge/tests/rsp_packets.rs run.
#![no_main]

#[path = "../../crates/kdbridge/tests/rsp_bytes/mod.rs"]
mod rsp_bytes;

libfuzzer_sys::fuzz_target!(|input: &[u8]| rsp_bytes::check(input));
