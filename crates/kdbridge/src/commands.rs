//! What `kdbridge` answers by itself, without a debugger. Each command looks at a kernel that stands
//! still and makes a report, which is text to people and JSON to programs.

pub mod bt;
pub mod info;
pub mod log;
pub mod mem;
pub mod modules;
pub mod msgbuf;
pub mod print;
pub mod regs;
pub mod symbols;
pub mod trap;

use serde::Serializer;

/// Addresses in JSON are texts: its numbers have 53 bits with most readers.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn hex<S: Serializer>(address: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{address:#x}"))
}
