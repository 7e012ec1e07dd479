//! An XNU kernel that was found, and the files about it: what a debugger is told of them.

mod extension;
mod extensions;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::discover::xnu::{self, FILE_BASE, Kernel, KextError};
use crate::kdp::Reentry;
use crate::macho::{
    self, ConvertError, FileError, Files, MachFile, SearchError, Segment, Symbol, Uuid,
};
use crate::symbols::{self, BuildId, ElfFile, Kind, SymbolTable};
use crate::target::{Memory, TargetError};

pub use extension::Extension;
pub use extensions::Extensions;

const REENTRY_DEADLINE: &str = "_kdp_reentry_deadline";
const REENTRY_HANDLER: &str = "_kdp_ml_enter_debugger";
const KEXT_SUMMARIES: &str = "_gLoadedKextSummaries";

/// Copies that are made in another way have another one.
const COPY_VERSION: u32 = 2;

/// The function that enters the debugger is three instructions long.
const MOST_HANDLER_BYTES: u64 = 64;

/// Where files are searched, and where copies for gdb are kept.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Files and folders with kernels, extensions, dSYM bundles, kernel debug kits.
    pub search: Vec<PathBuf>,
    /// The folder with the copies. A copy is made once for each UUID.
    pub cache: PathBuf,
}

/// Why files are not used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilesError {
    /// There are none.
    #[error(
        "no file has the UUID {0} of the kernel: name the kernel, its dSYM bundle, or the folder of the \
         kernel debug kit for its version"
    )]
    None(Uuid),
    /// A file that was named is not about this kernel.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// It cannot be read.
    #[error("{0}")]
    File(PathBuf, #[source] FileError),
    /// The copy for gdb could not be made.
    #[error("the copy {0}")]
    Copy(PathBuf, #[source] ConvertError),
}

/// The files of a kernel.
#[derive(Debug)]
pub struct Symbols {
    /// The image, or its debug information where there is only that.
    pub image: MachFile,
    /// The same for gdb, with the addresses to which the kernel is linked.
    pub elf: PathBuf,
    /// How far the kernel lies above them.
    pub slide: u64,
    names: Vec<Symbol>,
}

impl Symbols {
    /// Finds the files of `kernel` and makes the copy of them. Files that are named by themselves must
    /// be about this kernel.
    ///
    /// # Errors
    ///
    /// [`FilesError`].
    pub fn of(kernel: &Kernel, places: &Places) -> Result<Self, FilesError> {
        let found = macho::find(&places.search, kernel.uuid);
        let Some(image) = found.image.as_ref().or(found.dwarf.as_ref()) else {
            let named = places.search.iter().filter(|place| place.is_file());
            for path in named {
                macho::open_matching(path, kernel.uuid)?;
            }
            return Err(FilesError::None(kernel.uuid));
        };
        let elf = copy(&found, kernel.uuid, &places.cache)?;
        let image = macho::open_matching(image, kernel.uuid)?;
        let names = image
            .symbols()
            .map_err(|error| FilesError::File(image.path().to_owned(), error))?;
        Ok(Self {
            slide: kernel.slide(image.image()),
            image,
            elf,
            names,
        })
    }

    /// Where a name of the kernel is in memory.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        let mut named = self.names.iter().filter(|symbol| symbol.name == name);
        named
            .next()
            .map(|symbol| symbol.address.wrapping_add(self.slide))
    }

    /// What it takes to make the kernel look in at intervals; `None` if it cannot, or if its file does
    /// not say where the variable is.
    #[must_use]
    pub fn reentry(&self, every: Duration) -> Option<Reentry> {
        let handler = self.address(REENTRY_HANDLER)?;
        let names = self.names.iter();
        let addresses = names.map(|symbol| symbol.address.wrapping_add(self.slide));
        let end = addresses.filter(|&at| at > handler).min();
        let most = handler.saturating_add(MOST_HANDLER_BYTES);
        Some(Reentry {
            deadline: self.address(REENTRY_DEADLINE)?,
            handler: handler..end.unwrap_or(most).min(most),
            every,
        })
    }

    /// The extensions that are loaded, with copies of those whose files are found.
    ///
    /// # Errors
    ///
    /// [`KextError`] if the kernel's list cannot be read.
    pub fn extensions(
        &self,
        memory: &mut dyn Memory,
        places: &Places,
    ) -> Result<Vec<Extension>, KextError> {
        let Some(pointer) = self.address(KEXT_SUMMARIES) else {
            return Ok(Vec::new());
        };
        let kexts = xnu::kexts(memory, pointer)?;
        Ok(Extension::all(memory, kexts, Some(places)))
    }
}

/// The names that a kernel has in its own memory, at the addresses where it was linked to be; none
/// where it was not told to keep them.
///
/// # Errors
///
/// What went wrong on the way to the target.
pub fn live_names(memory: &mut dyn Memory, kernel: &Kernel) -> Result<SymbolTable, TargetError> {
    let image = &kernel.image;
    let mut table = SymbolTable::default();
    let Some([entries, strings]) = image.symbols_in_memory() else {
        return Ok(table);
    };
    let mut read = |(at, length): (u64, usize)| {
        let mut bytes = vec![0; length];
        memory.read(at, &mut bytes).map(|()| bytes)
    };
    let (entries, strings) = match (read(entries), read(strings)) {
        (Ok(entries), Ok(strings)) => (entries, strings),
        // The kernel gives them back when it has started.
        (Err(TargetError::Unreadable(_)), _) | (_, Err(TargetError::Unreadable(_))) => {
            return Ok(table);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let sections = image.segments.iter();
    let sections: Vec<&Segment> = sections
        .flat_map(|segment| segment.sections.iter().map(move |_| segment))
        .collect();
    let slide = kernel.base.wrapping_sub(FILE_BASE);
    for symbol in macho::symbols_in(&entries, &strings) {
        let moved = image.segments.iter().any(|it| it.contains(symbol.address));
        let segment = sections.get(symbol.section);
        let executes = segment.is_some_and(|segment| segment.is_executable());
        table.push(&symbols::Symbol {
            name: symbol.c_name().into(),
            address: symbol.address.wrapping_sub(if moved { slide } else { 0 }),
            size: 0,
            kind: if executes { Kind::Function } else { Kind::Data },
            global: symbol.is_global,
        });
    }
    table.sort();
    Ok(table)
}

/// The ELF copy of what was found, made if it is not in the cache.
fn copy(found: &Files, uuid: Uuid, cache: &Path) -> Result<PathBuf, FilesError> {
    let image = found.image.as_ref().or(found.dwarf.as_ref());
    let image = image.ok_or(FilesError::None(uuid))?;
    let dwarf = found.dwarf.as_ref().unwrap_or(image);
    // A copy without the debug information is not the one that is wanted once there is some.
    let suffix = if found.dwarf.is_some() {
        "debug"
    } else {
        "elf"
    };
    // Debuggers show this to people.
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let path = cache.join(format!("{name}.{uuid}.{COPY_VERSION}.{suffix}"));
    if !is_whole(&path, uuid) {
        let (image, dwarf) = (open(image)?, open(dwarf)?);
        write(&image, &dwarf, &path).map_err(|error| FilesError::Copy(path.clone(), error))?;
    }
    Ok(path)
}

/// Whether a copy is there, and its end too, where its sections are listed.
fn is_whole(path: &Path, uuid: Uuid) -> bool {
    let elf = ElfFile::open(path);
    elf.is_ok_and(|it| it.build_id() == BuildId::new(&uuid.0))
}

fn open(path: &Path) -> Result<MachFile, FilesError> {
    MachFile::open(path).map_err(|error| FilesError::File(path.to_owned(), error))
}

/// Writes beside the place and moves it there, so that nobody meets half a copy.
fn write(image: &MachFile, dwarf: &MachFile, path: &Path) -> Result<(), ConvertError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unfinished = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = BufWriter::new(File::create(&unfinished)?);
    let written = macho::to_elf(image, dwarf, &mut file).and_then(|()| Ok(file.flush()?));
    let moved = written.and_then(|()| Ok(fs::rename(&unfinished, path)?));
    if moved.is_err() {
        fs::remove_file(&unfinished)?;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Elf;

    #[test]
    fn a_copy_that_is_cut_short_is_none() {
        let mut note = [4u32, 16, 3].map(u32::to_le_bytes).concat();
        note.extend(b"GNU\0");
        note.extend([7; 16]);
        let whole = Elf::new().section(".note", 7, 0, &note).bytes();
        for length in 0..whole.len() {
            let cut = Elf::file(&whole[..length]);
            assert!(!is_whole(cut.path(), Uuid([7; 16])), "after {length}");
        }
        let file = Elf::file(&whole);
        assert!(is_whole(file.path(), Uuid([7; 16])));
        assert!(!is_whole(file.path(), Uuid([8; 16])));
        assert!(!is_whole(Path::new("/nowhere"), Uuid([7; 16])));
    }
}
