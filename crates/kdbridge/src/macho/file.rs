//! Mach-O files, read a piece at a time: the debug information of a kernel has hundreds of megabytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::image::{HEADER_BYTES, Image, ImageError, Section, SymbolTable};
use crate::folders::open_file;
use crate::symbols::bytes::{Bytes, text_at};

/// A file with images for several processors.
const FAT_MAGIC: u32 = 0xcafe_babe;
const FAT_CPU_X86_64: u32 = 0x0100_0007;

/// Processors that one file is for.
const MOST_SLICES: u32 = 16;

/// A kernel has 60 000 symbols.
const MOST_SYMBOLS: u32 = 1 << 24;
const MOST_STRING_BYTES: u32 = 1 << 30;
/// What is longer is no name, and all names together are no longer than `MOST_TEXT`.
const LONGEST_NAME: usize = 4096;
const MOST_TEXT: usize = 64 << 20;

pub(super) const SYMBOL_BYTES: usize = 16;

/// Set in the type of what is for debuggers only.
const N_STAB: u8 = 0xe0;
const N_TYPE: u8 = 0x0e;
const N_SECT: u8 = 0x0e;
const N_EXT: u8 = 0x01;

/// An open file.
#[derive(Debug)]
pub struct MachFile {
    path: PathBuf,
    file: File,
    /// Where in the file the image begins.
    start: u64,
    image: Image,
}

/// A name and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The name as the file has it, with an underscore in front of those of C.
    pub name: String,
    /// The address for which it is linked.
    pub address: u64,
    /// Whether other files see it.
    pub is_global: bool,
    /// Which section it is in, counted from 0 over all segments.
    pub section: usize,
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It has parts that lie outside of it, or that are too large to be true.
    #[error("its table of symbols is broken")]
    Symbols,
}

impl Symbol {
    /// The name as C has it.
    #[must_use]
    pub fn c_name(&self) -> &str {
        self.name.strip_prefix('_').unwrap_or(&self.name)
    }
}

impl MachFile {
    /// Opens a file and reads its load commands, of the image for x86-64 if there are several.
    ///
    /// # Errors
    ///
    /// [`FileError`] if it cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = open_file(path)?;
        let start = slice(&file)?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, start).map_err(short)?;
        let mut commands = vec![0; Image::length(&header)?];
        file.read_exact_at(&mut commands, start).map_err(short)?;
        let image = Image::parse(&commands)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            start,
            image,
        })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its load commands say.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The bytes of a section; `None` if the file does not have them.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn contents(&self, section: &Section) -> io::Result<Option<Vec<u8>>> {
        // The debug information of an image names all its sections, and has the bytes of few.
        if section.is_zero || section.offset == 0 || section.size > self.length()? {
            return Ok(None);
        }
        let mut bytes = vec![0; section.size as usize];
        let at = self.start + section.offset;
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(Some(bytes))
    }

    /// All names that have an address.
    ///
    /// # Errors
    ///
    /// [`FileError::Symbols`] if the table is no table.
    pub fn symbols(&self) -> Result<Vec<Symbol>, FileError> {
        let Some(table) = self.image.symbols else {
            return Ok(Vec::new());
        };
        if table.count > MOST_SYMBOLS || table.string_bytes > MOST_STRING_BYTES {
            return Err(FileError::Symbols);
        }
        let (entries, strings) = self.tables(&table).map_err(|_| FileError::Symbols)?;
        Ok(symbols_in(&entries, &strings).collect())
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn tables(&self, table: &SymbolTable) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let length = self.length()?;
        let bytes = u64::from(table.count) * SYMBOL_BYTES as u64;
        if table.offset + bytes > length || table.strings > length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut entries = vec![0; bytes as usize];
        let mut strings = vec![0; table.string_bytes as usize];
        self.file
            .read_exact_at(&mut entries, self.start + table.offset)?;
        self.file
            .read_exact_at(&mut strings, self.start + table.strings)?;
        Ok((entries, strings))
    }
}

/// The names in a table, of which each may be where another one is.
pub(crate) fn symbols_in(entries: &[u8], strings: &[u8]) -> impl Iterator<Item = Symbol> {
    let entries = entries.chunks_exact(SYMBOL_BYTES);
    let symbols = entries.filter_map(move |entry| symbol(entry, strings));
    let mut room = MOST_TEXT;
    symbols.map_while(move |symbol| {
        room = room.checked_sub(symbol.name.len())?;
        Some(symbol)
    })
}

fn symbol(entry: &[u8], strings: &[u8]) -> Option<Symbol> {
    let [kind, section] = entry.array(4)?;
    if kind & N_STAB != 0 || kind & N_TYPE != N_SECT || section == 0 {
        return None;
    }
    let name = strings.get(entry.u32(0)? as usize..).unwrap_or_default();
    let name = name.get(..LONGEST_NAME).unwrap_or(name);
    Some(Symbol {
        name: text_at(name, 0).into_owned(),
        address: entry.u64(8)?,
        is_global: kind & N_EXT != 0,
        section: usize::from(section) - 1,
    })
}

/// Where the image for x86-64 begins.
fn slice(file: &File) -> Result<u64, FileError> {
    let mut head = [0; 8];
    file.read_exact_at(&mut head, 0).map_err(short)?;
    let [m0, m1, m2, m3, c0, c1, c2, c3] = head;
    if u32::from_be_bytes([m0, m1, m2, m3]) != FAT_MAGIC {
        return Ok(0);
    }
    let count = u32::from_be_bytes([c0, c1, c2, c3]).min(MOST_SLICES);
    for index in 0..u64::from(count) {
        let mut entry = [0; 20];
        file.read_exact_at(&mut entry, 8 + index * 20)
            .map_err(short)?;
        let word = |at| entry.array(at).map_or(0, u32::from_be_bytes);
        if word(0) == FAT_CPU_X86_64 {
            return Ok(word(8).into());
        }
    }
    Err(ImageError::Processor.into())
}

fn short(error: io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ImageError::NotMachO.into(),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_text_is_not_the_name_of_everything() {
        let strings = vec![b'a'; 2 * LONGEST_NAME];
        let entry = [0, 0, 0, 0, N_SECT, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let most = MOST_TEXT / LONGEST_NAME;
        let entries = entry.repeat(most + 1);
        let names = symbols_in(&entries, &strings).map(|it| it.name.len());
        let names: Vec<usize> = names.collect();
        assert_eq!(names, vec![LONGEST_NAME; most]);
    }
}
