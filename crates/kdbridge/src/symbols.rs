//! Names, source lines and types of a kernel: from files that belong to it, and from its own
//! memory where there are none.

mod build_id;
pub(crate) mod bytes;
mod cache;
mod compressed;
mod dwarf;
mod elf;
mod index;
mod kallsyms;
mod relocate;
mod table;
#[cfg(test)]
pub(crate) mod testing;

pub use build_id::BuildId;
pub use cache::Cache;
pub(crate) use cache::hash;
pub use dwarf::{DebugInfo, DwarfError, SourceFrame};
pub use elf::{ElfError, ElfFile, Section, build_id_in};
pub use index::{Index, may_be_kernel};
pub use kallsyms::{KallsymsError, kallsyms};
pub use relocate::Placement;
pub(crate) use relocate::relocate;
pub use table::{Kind, Symbol, SymbolTable};
