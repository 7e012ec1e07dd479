//! Modules as the files that debuggers read them from.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::library::without_addresses;
use super::materialise::{self, materialise};
use super::{Module, library_addresses, library_memory};
use crate::discover::linux;
use crate::kernel::{Found, Kernel, KernelError, Sources};
use crate::pages::Pages;
use crate::scratch::Scratch;
use crate::serve::{Library, Parts};
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
    copies: Scratch,
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
    file: Option<PathBuf>,
    /// The copy for LLDB, once it was asked for; none if there can be none.
    linked: Option<Option<(PathBuf, u64)>>,
    /// The numbers of the copies of its file.
    copies: Vec<u64>,
}

impl Libraries {
    /// Of the modules whose files are in `index`.
    ///
    /// # Errors
    ///
    /// If there can be no folder for copies.
    pub fn new(index: Index) -> io::Result<Self> {
        let copies = Scratch::new()?;
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
        let listed = self.list_of(target, &mut kernel);
        self.kernel = Some(kernel);
        listed?;
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

    fn list_of(&mut self, target: &mut dyn Target, kernel: &mut Kernel) -> Result<(), KernelError> {
        let leaving = kernel.leaving_modules(target)?;
        match kernel.list_modules(&mut Pages::new(target)) {
            Ok(modules) => self.list_in(target, kernel, modules, &leaving),
            // It is being changed: what it was before is nearer to what it is than nothing.
            Err(_) if !self.known.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(())
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
                None => {
                    let before = self.copied;
                    let file = id.as_ref().and_then(|id| kernel.file_of(&module, id));
                    Known {
                        library: file.as_ref().map(|file| self.library(&module, file)),
                        file: file.map(|file| file.path().to_owned()),
                        linked: None,
                        copies: (before + 1..=self.copied).collect(),
                        module,
                        id,
                    }
                }
            };
            self.known.push(known);
        }
        for gone in before {
            self.remove(gone);
        }
    }

    /// What cannot be removed now is removed at the end.
    fn remove(&self, gone: Known) {
        for number in gone.copies {
            fs::remove_dir_all(self.folder(number)).ok();
        }
    }

    /// Copies of the files of those that were listed last, linked to where they are, for LLDB, and the lowest
    /// address in each. They are made when they are first asked for.
    pub fn copies(&mut self, memory: &mut dyn Memory) -> Vec<(PathBuf, u64)> {
        let mut known = std::mem::take(&mut self.known);
        for it in known.iter_mut().filter(|it| it.linked.is_none()) {
            let before = self.copied;
            it.linked = Some(self.linked(memory, it));
            it.copies.extend(before + 1..=self.copied);
        }
        self.known = known;
        let copies = self.known.iter();
        copies
            .filter_map(|it| it.linked.clone().flatten())
            .collect()
    }

    fn linked(&mut self, memory: &mut dyn Memory, known: &Known) -> Option<(PathBuf, u64)> {
        let elf = ElfFile::open(known.file.as_ref()?).ok()?;
        let copy = materialise(memory, &known.module, &elf).ok()?;
        let path = self.write(&known.module.name, &copy.bytes).ok()?;
        Some((path, copy.base))
    }

    fn library(&mut self, module: &Module, elf: &ElfFile) -> Library {
        let unplaced = without_addresses(elf).and_then(|it| self.write(&module.name, &it).ok());
        let file = unplaced.unwrap_or_else(|| elf.path().to_owned());
        Library {
            file: match module.live {
                true => file,
                false => other_path(&file),
            },
            parts: Parts::Sections(library_addresses(module, elf)),
            memory: library_memory(module, elf),
        }
    }

    /// LLDB takes a file at the same path for the same one.
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        self.copied += 1;
        let folder = self.folder(self.copied);
        fs::create_dir(&folder)?;
        let path = folder.join(format!("{}.ko", file_name(name, self.copied)));
        File::create_new(&path)?.write_all(bytes)?;
        Ok(path)
    }

    fn folder(&self, number: u64) -> PathBuf {
        self.copies.path().join(number.to_string())
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
    use std::time::Duration;

    use tempfile::NamedTempFile;

    use super::*;
    use crate::symbols::testing::Elf;
    use crate::target::{Cpu, Registers, Stop, TargetError, Trap};

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
    const AT: u64 = 0xffff_ffff_8100_0000;

    /// A machine whose processors cannot be seen.
    struct Unseen;

    const REFUSED: TargetError = TargetError::Refused("do that");

    impl Memory for Unseen {
        fn read(&mut self, at: u64, _: &mut [u8]) -> Result<(), TargetError> {
            Err(TargetError::Unreadable(at))
        }
    }

    impl Target for Unseen {
        fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
            Err(REFUSED)
        }

        fn registers(&mut self, _: Cpu) -> Result<Registers, TargetError> {
            Err(REFUSED)
        }

        fn set_registers(&mut self, _: Cpu, _: &Registers) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn write(&mut self, _: u64, _: &[u8]) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn read_physical(&mut self, _: u64, _: &mut [u8]) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn set(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn clear(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn resume(&mut self) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn step(&mut self, _: Cpu) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn interrupt(&mut self) -> Result<(), TargetError> {
            Err(REFUSED)
        }

        fn wait(&mut self, _: Duration) -> Result<Option<Stop>, TargetError> {
            Err(REFUSED)
        }

        fn detach(&mut self) -> Result<(), TargetError> {
            Err(REFUSED)
        }
    }

    fn note() -> Vec<u8> {
        let mut note = [4u32, 20, 3].map(u32::to_le_bytes).concat();
        note.extend(b"GNU\0");
        note.extend([7; 20]);
        note
    }

    /// Libraries of a kernel that has a file, and that kernel.
    fn of_a_kernel() -> (Libraries, linux::Kernel, NamedTempFile) {
        let names = b"\0_text\0linux_banner\0";
        // Global data in the first section, at its beginning.
        let symbol = |name: u32| {
            let head = [name.to_le_bytes(), [0x11, 0, 1, 0]].concat();
            [head, AT.to_le_bytes().to_vec(), vec![0; 8]].concat()
        };
        let symbols = [vec![0; 24], symbol(1), symbol(7)].concat();
        let file = Elf::new()
            .section(".notes", 7, AT, &note())
            .section(".symtab", 2, 0, &symbols)
            .linked(3, 1)
            .section(".strtab", 3, 0, names)
            .write();
        let found = linux::Kernel {
            text: AT,
            slide: 0,
            banner: AT,
            version: "Linux version 6.1.0".to_owned(),
            build_id: BuildId::new(&[7; 20]),
            method: linux::Method::SlotScan,
            reads: 0,
        };
        let index = Index::only(vec![file.path().to_owned()]);
        (Libraries::new(index).unwrap(), found, file)
    }

    #[test]
    fn a_list_that_fails_does_not_cost_the_kernel() {
        let (mut libraries, found, file) = of_a_kernel();
        libraries.hooks(&mut Unseen, found.clone()).unwrap();
        file.close().unwrap();
        libraries.list(&mut Unseen, found.clone()).unwrap_err();
        libraries.hooks(&mut Unseen, found).unwrap();
    }

    #[test]
    fn nothing_is_left_of_a_module_that_is_gone() {
        let (mut libraries, found, _file) = of_a_kernel();
        let file = Elf::new()
            .section(".text", 1, 0, &[0x90; 8])
            .loaded(4)
            .section(".data", 1, 0xd8, &[7; 8])
            .loaded(1)
            .write();
        let sections = [(".text", AT), (".data", AT + 0x1000)];
        let module = Module {
            name: "dummy".to_owned(),
            at: AT,
            base: AT,
            size: 8,
            others: Vec::new(),
            live: true,
            sections: sections.map(|(name, at)| (name.to_owned(), at)).into(),
            orc: None,
        };
        let elf = ElfFile::open(file.path()).unwrap();
        let library = libraries.library(&module, &elf);
        libraries.known.push(Known {
            module,
            id: None,
            library: Some(library),
            file: Some(file.path().to_owned()),
            linked: None,
            copies: vec![1],
        });
        let count = |libraries: &Libraries| fs::read_dir(libraries.copies.path()).unwrap().count();
        assert_eq!(count(&libraries), 2, "a copy for GDB and nothing");
        let copies = libraries.copies(&mut Unseen);
        assert!(
            matches!(&copies[..], [(path, AT)] if path.is_file()),
            "{copies:?}"
        );
        assert_eq!(libraries.copies(&mut Unseen), copies);
        assert_eq!(count(&libraries), 3, "one for LLDB too");
        let kernel = libraries.kernel(&mut Unseen, found).unwrap();
        libraries.list_in(&mut Unseen, &kernel, Vec::new(), &[]);
        assert_eq!(count(&libraries), 1);
    }
}
