//! XNU: what the other kind of kernel has in the place of Linux's files, modules and tables.

use std::path::PathBuf;

use super::{Found, Kernel, KernelError, Loaded, Step, debug_of};
use crate::discover::xnu::{self, Kext};
use crate::modules::Module;
use crate::symbols::{Cache, ElfFile, Index, SymbolTable};
use crate::target::Memory;
use crate::types::Types;
use crate::unwind::Format;
use crate::xnu::{Extension, FilesError, Places, Symbols, live_names};

/// The variable that leads to the list of extensions.
const KEXT_SUMMARIES: &str = "gLoadedKextSummaries";

/// Where names come from.
struct Names {
    file: Option<PathBuf>,
    slide: u64,
    symbols: SymbolTable,
    elf: Option<PathBuf>,
}

impl Kernel {
    /// Reads what is needed for names and stacks of XNU: out of the files in `places`, or out of the
    /// kernel's memory, where some have their names, and none their source lines and types.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if a file that was named is another kernel's, or cannot be used.
    pub fn open_xnu(
        memory: &mut dyn Memory,
        found: xnu::Kernel,
        places: Option<&Places>,
        cache: &Cache,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Self, KernelError> {
        progress(Step::Searching);
        let none = || Err(FilesError::None(found.uuid));
        let names = match places.map_or_else(none, |places| Symbols::of(&found, places)) {
            Ok(files) => {
                progress(Step::ReadingFile);
                Names {
                    symbols: SymbolTable::of_file(&ElfFile::open(&files.elf)?)?,
                    file: Some(files.image.path().to_owned()),
                    slide: files.slide,
                    elf: Some(files.elf),
                }
            }
            Err(FilesError::None(_)) => {
                progress(Step::ReadingMemory);
                Names {
                    symbols: live_names(memory, &found)?,
                    file: None,
                    slide: found.base.wrapping_sub(xnu::FILE_BASE),
                    elf: None,
                }
            }
            Err(error) => return Err(error.into()),
        };
        let debug = names.elf.map(|elf| debug_of(&elf, cache)).transpose()?;
        let mut kernel = Self {
            found: Found::Xnu(found),
            slide: names.slide,
            index: Index::only(Vec::new()),
            file: names.file,
            symbols: names.symbols,
            debug: debug.flatten(),
            types: Types::default(),
            modules: Vec::new(),
            unlisted: None,
            tables: Vec::new(),
            format: Format::ThreeBits,
        };
        match kernel.list_kexts(memory) {
            Ok(kexts) => {
                let extensions = Extension::all(memory, kexts, places).into_iter();
                kernel.modules = extensions.map(loaded).collect();
            }
            Err(error) => kernel.unlisted = Some(error),
        }
        Ok(kernel)
    }

    fn list_kexts(&self, memory: &mut dyn Memory) -> Result<Vec<Kext>, KernelError> {
        let Some(pointer) = self.address_of(KEXT_SUMMARIES) else {
            return Err(KernelError::NoExtensions);
        };
        Ok(xnu::kexts(memory, pointer)?)
    }
}

/// An extension with what its files say; its segments count as its sections.
fn loaded(extension: Extension) -> Loaded {
    let Extension {
        kext,
        segments,
        elf,
        file,
        slide,
        ..
    } = extension;
    let segments = segments.into_iter().map(|it| (it.name, it.address));
    let elf = elf.and_then(|path| ElfFile::open(&path).ok());
    let symbols = elf.as_ref().map(SymbolTable::of_file);
    let symbols = symbols.and_then(Result::ok).unwrap_or_default();
    Loaded {
        module: Module {
            name: kext.name,
            at: kext.address,
            base: kext.address,
            size: kext.size,
            others: Vec::new(),
            live: true,
            sections: segments.collect(),
            orc: None,
        },
        symbols: symbols.moved(slide.unwrap_or_default()),
        file: elf,
        path: file,
        uuid: Some(kext.uuid),
        slide,
        debug: None,
    }
}
