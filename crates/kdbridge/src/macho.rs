//! Mach-O, the format of XNU kernels, kernel extensions and their debug information (dSYM), in files
//! and in the memory of a kernel.

mod convert;
mod file;
mod image;
mod search;
mod uuid;

pub(crate) use convert::loaded_segments;
pub use convert::{ConvertError, to_elf};
pub(crate) use file::symbols_in;
pub use file::{FileError, MachFile, Symbol};
pub use image::{HEADER_BYTES, Image, ImageError, Kind, Section, Segment, SymbolTable};
pub use search::{Files, Index, SearchError, find, open_matching};
pub use uuid::{NotUuid, Uuid};
