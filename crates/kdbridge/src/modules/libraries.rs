//! Modules as the files that debuggers read them from.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::library::without_addresses;
use super::materialise::{self, materialise};
use super::{Module, library_addresses, library_memory};
use crate::discover::linux;
use crate::kernel::{Found, Kernel, KernelError, Sources};
use crate::pages::Pages;
use crate::serve::Library;
use crate::symbols::{BuildId, Cache, ElfFile, Index};
use crate::target::{Memory, Target};

/// The name of a file with nothing in it, as LLDB shows it.
const NOTHING: &str = "modules";

/// The kernel has no module with a longer name.
const LONGEST_NAME: usize = 64;

/// Files of modules, and copies of them that are linked to where the modules are; the copies are removed
/// when this is dropped.
#[derive(Debug)]
pub struct Libraries {
    index: Index,
    kernel: Option<Kernel>,
    known: Vec<Known>,
    copies: TempDir,
    /// How many there have been.
    copied: u64,
    /// Where the file with nothing in it is.
    nothing: u64,
}

/// A module that was listed last.
#[derive(Debug)]
struct Known {
    module: Module,
    id: Option<BuildId>,
    library: Option<Library>,
}

impl Libraries {
    /// Of the modules whose files are in `index`.
    ///
    /// # Errors
    ///
    /// If there can be no folder for copies.
    pub fn new(index: Index) -> io::Result<Self> {
        let copies = tempfile::tempdir()?;
        let nothing = materialise::nothing();
        fs::write(copies.path().join(NOTHING), nothing.bytes)?;
        Ok(Self {
            index,
            kernel: None,
            known: Vec::new(),
            copies,
            copied: 0,
            nothing: nothing.base,
        })
    }

    /// Those that are loaded in the kernel now, but for those that are just being unloaded.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if neither the kernel nor a file says what its modules are.
    pub fn list(
        &mut self,
        target: &mut dyn Target,
        found: linux::Kernel,
    ) -> Result<Vec<Library>, KernelError> {
        let mut kernel = self.kernel(target, found)?;
        let leaving = kernel.leaving_modules(target)?;
        match kernel.list_modules(&mut Pages::new(target)) {
            Ok(modules) => self.list_in(target, &kernel, modules, &leaving),
            // It is being changed: what it was before is nearer to what it is than nothing.
            Err(_) if !self.known.is_empty() => {}
            Err(error) => return Err(error),
        }
        self.kernel = Some(kernel);
        let known = self.known.iter();
        Ok(known.filter_map(|it| it.library.clone()).collect())
    }

    /// Where the kernel loads and unloads modules.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if neither the kernel nor a file has any names.
    pub fn hooks(
        &mut self,
        memory: &mut dyn Memory,
        found: linux::Kernel,
    ) -> Result<Vec<u64>, KernelError> {
        let kernel = self.kernel(memory, found)?;
        let hooks = kernel.module_hooks();
        self.kernel = Some(kernel);
        Ok(hooks)
    }

    /// A file with nothing in it, and an address where nothing is.
    #[must_use]
    pub fn nothing(&self) -> (PathBuf, u64) {
        (self.copies.path().join(NOTHING), self.nothing)
    }

    /// The kernel as it was opened before, unless another one runs now.
    fn kernel(
        &mut self,
        memory: &mut dyn Memory,
        found: linux::Kernel,
    ) -> Result<Kernel, KernelError> {
        if let Some(kernel) = self.kernel.take()
            && matches!(kernel.found(), Found::Linux(known) if known.is_same(&found))
        {
            return Ok(kernel);
        }
        let sources = Sources {
            index: self.index.clone(),
            cache: Cache::of_user(),
            progress: &mut |_| {},
        };
        Kernel::open(memory, found, sources)
    }

    fn list_in(
        &mut self,
        target: &mut dyn Target,
        kernel: &Kernel,
        modules: Vec<Module>,
        leaving: &[u64],
    ) {
        let mut before = std::mem::take(&mut self.known);
        for module in modules {
            if leaving.contains(&module.at) {
                continue;
            }
            let id = module.build_id(target);
            let known = before
                .iter()
                .position(|it| it.module == module && it.id == id);
            let known = match known {
                Some(known) => before.swap_remove(known),
                None => Known {
                    library: id.as_ref().and_then(|id| {
                        let file = kernel.file_of(&module, id)?;
                        Some(self.library(target, &module, &file))
                    }),
                    module,
                    id,
                },
            };
            self.known.push(known);
        }
        let copies = before.into_iter().filter_map(|it| it.library?.copy);
        for (copy, _) in copies {
            // What is left is removed at the end.
            fs::remove_file(copy).ok();
        }
    }

    fn library(&mut self, memory: &mut dyn Memory, module: &Module, elf: &ElfFile) -> Library {
        // GDB can do without.
        let copy = materialise(memory, module, elf).ok().and_then(|copy| {
            let path = self.write(&module.name, &copy.bytes).ok()?;
            Some((path, copy.base))
        });
        let unplaced = without_addresses(elf).and_then(|it| self.write(&module.name, &it).ok());
        let file = unplaced.unwrap_or_else(|| elf.path().to_owned());
        Library {
            file: match module.live {
                true => file,
                false => other_path(&file),
            },
            sections: library_addresses(module, elf),
            copy,
            memory: library_memory(module, elf),
        }
    }

    /// LLDB takes a file at the same path for the same one.
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        self.copied += 1;
        let folder = self.copies.path().join(self.copied.to_string());
        fs::create_dir(&folder)?;
        let path = folder.join(format!("{}.ko", file_name(name, self.copied)));
        File::create_new(&path)?.write_all(bytes)?;
        Ok(path)
    }
}

/// The name itself if files can have it: it is what a guest says, which may say `../..`.
fn file_name(name: &str, number: u64) -> Cow<'_, str> {
    let is_usual = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-');
    if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_usual) {
        name.into()
    } else {
        format!("module-{number}").into()
    }
}

/// Another path of the same file. When a module has started it has fewer sections, but GDB does not look
/// at the sections of what it knows already.
fn other_path(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new("."));
    folder.join(".").join(path.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_module_leads_out_of_the_folder() {
        let mut libraries = Libraries::new(Index::only(Vec::new())).unwrap();
        let inside = fs::canonicalize(libraries.copies.path()).unwrap();
        let outside = tempfile::tempdir().unwrap();
        let other = outside.path().join("other");
        fs::write(other.with_extension("ko"), "before").unwrap();
        let long = "m".repeat(LONGEST_NAME + 1);
        let escaping = ["", "..", "../../m", "a/b", "a b", "a\0", "é", &long];
        for name in escaping.into_iter().chain(other.to_str()) {
            let path = libraries.write(name, b"after").unwrap();
            assert!(fs::canonicalize(&path).unwrap().starts_with(&inside));
            let number = libraries.copied;
            assert!(path.ends_with(format!("{number}/module-{number}.ko")));
        }
        assert_eq!(fs::read(other.with_extension("ko")).unwrap(), b"before");
        let path = libraries.write("snd-hda_0", b"usual").unwrap();
        assert!(path.ends_with("snd-hda_0.ko"));
        assert_eq!(fs::read(path).unwrap(), b"usual");
    }
}
