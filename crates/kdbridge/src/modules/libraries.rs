//! Modules as the files that debuggers read them from.

use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::{library_addresses, materialise};
use crate::discover::linux;
use crate::kernel::{Kernel, KernelError, Loaded, Sources};
use crate::serve::Library;
use crate::symbols::{Cache, Index};
use crate::target::Memory;

/// Files of modules, and copies of them that are linked to where the modules are; the copies are removed
/// when this is dropped.
#[derive(Debug)]
pub struct Libraries {
    index: Index,
    copies: TempDir,
}

impl Libraries {
    /// Of the modules whose files are in `index`.
    ///
    /// # Errors
    ///
    /// If there can be no folder for copies.
    pub fn new(index: Index) -> io::Result<Self> {
        Ok(Self {
            index,
            copies: tempfile::tempdir()?,
        })
    }

    /// Those that are loaded in the kernel now.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if neither the kernel nor a file says what its modules are.
    pub fn list(
        &self,
        memory: &mut dyn Memory,
        found: linux::Kernel,
    ) -> Result<Vec<Library>, KernelError> {
        let sources = Sources {
            index: self.index.clone(),
            cache: Cache::of_user(),
            progress: &mut |_| {},
        };
        let kernel = Kernel::open(memory, found, sources)?;
        let loaded = kernel.modules().iter();
        Ok(loaded
            .filter_map(|loaded| self.library(memory, loaded))
            .collect())
    }

    fn library(&self, memory: &mut dyn Memory, loaded: &Loaded) -> Option<Library> {
        let elf = loaded.file.as_ref()?;
        // GDB can do without.
        let copy = materialise(memory, &loaded.module, elf)
            .ok()
            .and_then(|copy| {
                let path = self
                    .copies
                    .path()
                    .join(format!("{}.ko", loaded.module.name));
                write(&path, &copy.bytes).ok()?;
                Some((path, copy.base))
            });
        Some(Library {
            file: elf.path().to_owned(),
            sections: library_addresses(&loaded.module, elf),
            copy,
        })
    }
}

/// A debugger may have the old one mapped, so that is left as it is.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}
