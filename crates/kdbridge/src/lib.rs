//! A bridge between any debugger that speaks the GDB remote protocol and a kernel behind a GDB stub
//! (QEMU, VMware, kgdb) or KDP. It supplies what the kernel's side does not.
//!
//! Everything that reads a kernel does so through [`target::Memory`], and everything that drives one
//! through [`target::Target`]; the modules that speak a protocol implement them.

pub mod boot_args;
pub mod commands;
pub mod discover;
mod elf;
pub mod expression;
mod folders;
pub mod kdp;
pub mod kernel;
pub mod macho;
pub mod modules;
pub mod pages;
pub mod paging;
pub mod rsp;
pub mod scratch;
pub mod serve;
pub mod symbols;
pub mod target;
pub mod types;
pub mod unwind;
pub mod xnu;
