//! Extensions as gdb is told of them, now and whenever the kernel has loaded or unloaded one.

use std::collections::BTreeSet;

use super::{Extension, FilesError, Places, Symbols, live_names};
use crate::discover::xnu::{self, FILE_BASE, Kernel, Kext, KextError};
use crate::kernel::KernelError;
use crate::macho::Uuid;
use crate::pages::Pages;
use crate::serve::{Library, Parts};
use crate::target::{Memory, Target, TargetError};

const SUMMARIES: &str = "gLoadedKextSummaries";

/// The kernel calls it when its list is another one: of what was loaded before that is started, of what was
/// unloaded when its memory is another's already.
const UPDATED: &str = "OSKextLoadedKextSummariesUpdated";

/// `OSRuntimeFinalizeCPP(OSKext *)`, which it calls when an extension has stopped and still has its memory.
const FINALIZES: &str = "_Z20OSRuntimeFinalizeCPPP6OSKext";

/// So many words of an `OSKext` are looked at.
const OBJECT_WORDS: u64 = 64;

/// Where the name is in what an `OSKext` knows of its image (`kmod_info_t`).
const TO_NAME: u64 = 16;

/// Files of extensions, as copies for gdb that are kept.
#[derive(Debug)]
pub struct Extensions {
    places: Places,
    kernel: Option<Names>,
    known: Vec<(Kext, Option<Library>)>,
    /// The load tags of those that have stopped, and are in the list until it is another one.
    leaving: BTreeSet<u32>,
}

/// Where a kernel has what is needed of it.
#[derive(Debug, Clone, Copy)]
struct Names {
    uuid: Uuid,
    base: u64,
    summaries: Option<u64>,
    updated: Option<u64>,
    finalizes: Option<u64>,
}

impl Names {
    /// Out of the kernel's file, or out of memory if there is none.
    fn of(memory: &mut dyn Memory, kernel: &Kernel, places: &Places) -> Result<Self, KernelError> {
        let of = |address: &dyn Fn(&str) -> Option<u64>| Self {
            uuid: kernel.uuid,
            base: kernel.base,
            summaries: address(SUMMARIES),
            updated: address(UPDATED),
            finalizes: address(FINALIZES),
        };
        match Symbols::of(kernel, places) {
            // C has another underscore in front there.
            Ok(symbols) => Ok(of(&|name| symbols.address(&format!("_{name}")))),
            Err(FilesError::None(_)) => {
                let names = live_names(memory, kernel)?;
                let slide = kernel.base.wrapping_sub(FILE_BASE);
                let address = |name: &str| Some(names.by_name(name)?.address.wrapping_add(slide));
                Ok(of(&address))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Extensions {
    /// Of a kernel whose files, and those of its extensions, are in `places`.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self {
            places,
            kernel: None,
            known: Vec::new(),
            leaving: BTreeSet::new(),
        }
    }

    /// Those that are loaded in the kernel now and have files, but for those that are just being unloaded.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if neither a file nor the kernel's memory says where its list is, or if that cannot be
    /// read.
    pub fn list(
        &mut self,
        target: &mut dyn Target,
        found: &Kernel,
    ) -> Result<Vec<Library>, KernelError> {
        let names = self.names(target, found)?;
        let pointer = names.summaries.ok_or(KernelError::NoExtensions)?;
        let mut pages = Pages::new(target);
        match xnu::kexts(&mut pages, pointer) {
            Ok(kexts) => self.take(&mut pages, kexts, names.uuid),
            // What it was before is nearer to what it is than nothing; at the kernel's start it is nothing.
            Err(KextError::Updating) => {}
            Err(_) if !self.known.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
        self.see_leaving(target, &names)?;
        let stay = self.known.iter();
        let stay = stay.filter(|(kext, _)| !self.leaving.contains(&kext.load_tag));
        Ok(stay.filter_map(|(_, library)| library.clone()).collect())
    }

    /// Where the kernel has another list, and where an extension leaves.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if a file of the kernel cannot be used.
    pub fn hooks(
        &mut self,
        memory: &mut dyn Memory,
        found: &Kernel,
    ) -> Result<Vec<u64>, KernelError> {
        let names = self.names(memory, found)?;
        // Without a list there is nothing to see.
        let hooks = names.summaries.map(|_| [names.updated, names.finalizes]);
        Ok(hooks.into_iter().flatten().flatten().collect())
    }

    /// Where things are in the kernel that runs now; what was known of another one is forgotten.
    fn names(&mut self, memory: &mut dyn Memory, found: &Kernel) -> Result<Names, KernelError> {
        let known = self.kernel;
        let known = known.filter(|it| (it.uuid, it.base) == (found.uuid, found.base));
        if let Some(names) = known {
            return Ok(names);
        }
        self.known.clear();
        self.leaving.clear();
        let names = Names::of(memory, found, &self.places)?;
        self.kernel = Some(names);
        Ok(names)
    }

    fn take(&mut self, memory: &mut dyn Memory, kexts: Vec<Kext>, kernel: Uuid) {
        let is_known = |kext: &Kext| self.known.iter().any(|(known, _)| known == kext);
        // Some kernels list themselves.
        let others = kexts.iter().filter(|kext| kext.uuid != kernel);
        let new = others.filter(|kext| !is_known(kext)).cloned().collect();
        let new = Extension::all(memory, new, Some(&self.places));
        self.known.retain(|(known, _)| kexts.contains(known));
        self.known.extend(new.into_iter().map(|extension| {
            let library = library(&extension);
            (extension.kext, library)
        }));
    }

    /// Sees whether a processor stands where an extension leaves, or where those that have left are in the
    /// list no more.
    fn see_leaving(&mut self, target: &mut dyn Target, names: &Names) -> Result<(), TargetError> {
        /// The first argument of a function.
        const RDI: usize = 5;
        for cpu in target.cpus()? {
            let registers = target.registers(cpu)?;
            if Some(registers.rip) == names.updated {
                self.leaving.clear();
            }
            if Some(registers.rip) == names.finalizes
                && let Some(kext) = self.kext_of(target, registers.general[RDI])
            {
                self.leaving.insert(kext);
            }
        }
        Ok(())
    }

    /// The load tag of the extension that an `OSKext` is about. Where in the object its image is differs from
    /// kernel to kernel; what is there has the extension's name in it, in the extension's own memory.
    fn kext_of(&self, memory: &mut dyn Memory, object: u64) -> Option<u32> {
        let words = (0..OBJECT_WORDS).map_while(|n| memory.word(object.wrapping_add(n * 8)).ok());
        let words: Vec<u64> = words.collect();
        let mut named = words.into_iter().filter_map(|word| {
            let inside = |kext: &Kext| word.wrapping_sub(kext.address) < kext.size;
            let (kext, _) = self.known.iter().find(|(kext, _)| inside(kext))?;
            let mut name = vec![0; kext.name.len()];
            memory.read(word.wrapping_add(TO_NAME), &mut name).ok()?;
            (name == kext.name.as_bytes()).then_some(kext.load_tag)
        });
        named.next()
    }
}

fn library(extension: &Extension) -> Option<Library> {
    Some(Library {
        file: extension.elf.clone()?,
        parts: Parts::Segments(extension.places.clone()),
        memory: extension.memory(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Nothing;

    fn kext(number: u8) -> Kext {
        Kext {
            name: "com.example".to_owned(),
            uuid: Uuid([number; 16]),
            address: 0x1000,
            size: 0x1000,
            load_tag: number.into(),
        }
    }

    #[test]
    fn a_kernel_that_lists_itself_is_no_extension() {
        let mut extensions = Extensions::new(Places::default());
        extensions.take(&mut Nothing, vec![kext(0), kext(1)], Uuid([0; 16]));
        let known: Vec<&Kext> = extensions.known.iter().map(|(kext, _)| kext).collect();
        assert_eq!(known, [&kext(1)]);
        extensions.take(&mut Nothing, vec![kext(0), kext(2)], Uuid([0; 16]));
        let known: Vec<&Kext> = extensions.known.iter().map(|(kext, _)| kext).collect();
        assert_eq!(known, [&kext(2)]);
    }
}
