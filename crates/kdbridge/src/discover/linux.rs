//! Linux on x86-64, wherever it was put at boot.

mod remembered;

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::symbols::{BuildId, Cache, ElfError, ElfFile, SymbolTable, build_id_in};
use crate::target::{Memory, TargetError};
use remembered::Remembered;

/// Where kernels are linked to be, if nobody changed that.
pub const FILE_BASE: u64 = 0xffff_ffff_8100_0000;

/// The interrupt descriptor table, which is at the same place in every boot.
const IDT: u64 = 0xffff_fe00_0000_0000;
const PAGE_FAULT: u64 = 14;

/// Where kernels may lie, and the steps between the places.
const IMAGES: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;
const SLOT: u64 = 0x20_0000;

/// The most slots that a kernel takes.
const MAX_SLOTS: u64 = 64;

const BANNER: &[u8] = b"Linux version ";
const MAX_BANNER: usize = 256;

/// The most that is searched for what no file gives the place of.
const SEARCHED: u64 = 16 << 20;
const SEARCH_STEP: usize = 1 << 16;

/// `REX.W`, the prefix of most instructions of a kernel: every tenth byte of them, and of no other data.
const OF_CODE: u8 = 0x48;
const PAGE: usize = 4096;

/// So many things in a slot, or beside a banner, may look like what is searched for.
const MAX_LOOKALIKES: usize = 256;

/// How the note with a build-id begins: the name's size, that of a SHA-1, and the kind, in front of the name.
const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";

/// The most notes that are read.
const MAX_NOTES: u64 = 1 << 16;

/// What the file of a kernel says about where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    text: u64,
    banner: u64,
    page_fault: Option<u64>,
    notes: Range<u64>,
    build_id: BuildId,
}

/// Why a file is not that of a kernel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It lacks what every kernel has.
    #[error("not a Linux kernel with its symbols: it has no {0}")]
    Lacks(&'static str),
    /// It cannot be read.
    #[error(transparent)]
    Elf(#[from] ElfError),
}

impl Image {
    /// Reads what is needed from the file and its symbols.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if it is no kernel's, or has no symbols.
    pub fn of(elf: &ElfFile, symbols: &SymbolTable) -> Result<Self, ImageError> {
        let address = |name| symbols.by_name(name).map(|symbol| symbol.address);
        let notes = elf.section(".notes").ok_or(ImageError::Lacks("notes"))?;
        Ok(Self {
            text: address("_text").ok_or(ImageError::Lacks("symbol _text"))?,
            banner: address("linux_banner").ok_or(ImageError::Lacks("symbol linux_banner"))?,
            page_fault: address("asm_exc_page_fault").or_else(|| address("page_fault")),
            notes: notes.address..notes.address.wrapping_add(notes.size.min(MAX_NOTES)),
            build_id: elf.build_id().ok_or(ImageError::Lacks("build-id"))?,
        })
    }

    /// The build-id of the file.
    #[must_use]
    pub fn build_id(&self) -> &BuildId {
        &self.build_id
    }

    /// Where its text is linked to begin.
    #[must_use]
    pub fn text(&self) -> u64 {
        self.text
    }
}

/// How a kernel was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By the handler of page faults, which the interrupt descriptor table names.
    InterruptTable,
    /// By looking at every place where it may lie.
    SlotScan,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InterruptTable => "the interrupt descriptor table",
            Self::SlotScan => "its place among all where kernels may lie",
        })
    }
}

/// A kernel in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Where its text begins.
    pub text: u64,
    /// How far that is from where it was linked to be.
    pub slide: u64,
    /// Where its banner is.
    pub banner: u64,
    /// The first line of its log.
    pub version: String,
    /// What its notes say.
    pub build_id: Option<BuildId>,
    /// How it was found.
    pub method: Method,
    /// How many reads of memory that took.
    pub reads: u32,
}

impl Kernel {
    /// `6.1.0`, as `uname -r` has it.
    #[must_use]
    pub fn release(&self) -> &str {
        let rest = self.version.split(' ').nth(2);
        rest.unwrap_or_default()
    }

    /// Whether another search found this one too.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |kernel: &Self| (kernel.text, kernel.banner);
        of(self) == of(other) && self.build_id == other.build_id && self.version == other.version
    }
}

/// Why no kernel was found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotFound {
    /// The interrupt descriptor table is not where Linux has it, or names nothing of a kernel.
    #[error("no Linux kernel in memory (yet): {0}")]
    NoKernel(&'static str),
    /// There is one, and the file is another's.
    #[error(
        "the file has build-id {file}, the kernel in memory has {kernel}: they do not belong together"
    )]
    OtherKernel {
        /// Of the file.
        file: BuildId,
        /// Of the kernel.
        kernel: BuildId,
    },
    /// There is one without a build-id.
    #[error("the file has build-id {file}, the kernel in memory shows none: {version}")]
    NoBuildId {
        /// Of the file.
        file: BuildId,
        /// What the kernel says of itself.
        version: String,
    },
    /// The target does not let memory be read.
    #[error("the kernel cannot be looked for: {0}")]
    Target(TargetError),
}

impl From<TargetError> for NotFound {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

/// Finds the kernel that a file belongs to.
///
/// # Errors
///
/// [`NotFound`] if there is none, or another.
pub fn locate(memory: &mut dyn Memory, image: &Image) -> Result<Kernel, NotFound> {
    let mut memory = Counted { memory, reads: 0 };
    if let Some(kernel) = by_interrupt_table(&mut memory, image)? {
        return Ok(kernel);
    }
    if let Some(kernel) = by_slots(&mut memory, image)? {
        return Ok(kernel);
    }
    let kernel = find(memory.memory, &Cache::none())?;
    let file = image.build_id.clone();
    Err(match kernel.build_id {
        Some(kernel) => NotFound::OtherKernel { file, kernel },
        None => NotFound::NoBuildId {
            file,
            version: kernel.version,
        },
    })
}

fn by_interrupt_table(
    memory: &mut Counted<'_>,
    image: &Image,
) -> Result<Option<Kernel>, TargetError> {
    let handler = page_fault_handler(memory)?;
    let Some((handler, linked)) = handler.zip(image.page_fault) else {
        return Ok(None);
    };
    let slide = handler.wrapping_sub(linked);
    if slide % SLOT != 0 {
        return Ok(None);
    }
    memory.confirm(image, slide, Method::InterruptTable)
}

fn by_slots(memory: &mut Counted<'_>, image: &Image) -> Result<Option<Kernel>, TargetError> {
    for text in IMAGES.step_by(SLOT as usize) {
        let slide = text.wrapping_sub(image.text);
        if let Some(kernel) = memory.confirm(image, slide, Method::SlotScan)? {
            return Ok(Some(kernel));
        }
    }
    Ok(None)
}

/// Finds a kernel without its file: where it begins, and, by searching its read-only data, its banner and
/// its build-id. Where `cache` says that the same build had them is looked first.
///
/// # Errors
///
/// [`NotFound`] if there is none.
pub fn find(memory: &mut dyn Memory, cache: &Cache) -> Result<Kernel, NotFound> {
    let mut memory = Counted { memory, reads: 0 };
    if let Some(handler) = page_fault_handler(&mut memory)? {
        let text = memory.first_slot(handler)?;
        let remembered = Remembered::of(&mut memory, text, handler, cache)?;
        if let Some(places) = remembered.places()
            && let Some(kernel) = memory.kernel_with(text, &places, Method::InterruptTable)?
            && kernel.build_id.is_some()
        {
            return Ok(kernel);
        }
        if let Some(places) = memory.search_places(text)?
            && let Some(kernel) = memory.kernel_with(text, &places, Method::InterruptTable)?
        {
            remembered.keep(&places);
            return Ok(kernel);
        }
    }
    // The table is not there until the kernel has set itself up.
    for text in IMAGES.step_by(SLOT as usize) {
        if memory.is_code(text)? == Some(true) {
            let none =
                NotFound::NoKernel("there is code where kernels lie, but no banner of Linux");
            let places = memory.search_places(text)?.ok_or(none)?;
            if let Some(kernel) = memory.kernel_with(text, &places, Method::SlotScan)? {
                return Ok(kernel);
            }
        }
    }
    Err(NotFound::NoKernel(
        "nothing handles page faults, and there is no code where kernels lie",
    ))
}

/// What is searched for without a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    banner: u64,
    /// Of the build-id, if there is one.
    note: Option<u64>,
}

/// The address in the gate for page faults, if it may be a kernel's.
fn page_fault_handler(memory: &mut Counted<'_>) -> Result<Option<u64>, TargetError> {
    let mut gate = [0; 16];
    if !memory.read(IDT + PAGE_FAULT * 16, &mut gate)? {
        return Ok(None);
    }
    let [a, b, _, _, _, _, c, d, e, f, g, h, ..] = gate;
    let handler = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    Ok(IMAGES.contains(&handler).then_some(handler))
}

struct Counted<'a> {
    memory: &'a mut dyn Memory,
    reads: u32,
}

impl Counted<'_> {
    /// False if it cannot be read.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<bool, TargetError> {
        self.reads += 1;
        match self.memory.read(at, into) {
            Ok(()) => Ok(true),
            Err(TargetError::Unreadable(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel of this image lies there.
    fn confirm(
        &mut self,
        image: &Image,
        slide: u64,
        method: Method,
    ) -> Result<Option<Kernel>, TargetError> {
        let banner = image.banner.wrapping_add(slide);
        let Some(version) = self.banner(banner)? else {
            return Ok(None);
        };
        let notes = image.notes.start.wrapping_add(slide);
        let length = image.notes.end.wrapping_sub(image.notes.start);
        let mut bytes = vec![0; length.min(MAX_NOTES) as usize];
        if !self.read(notes, &mut bytes)? {
            return Ok(None);
        }
        let build_id = build_id_in(&bytes).filter(|id| *id == image.build_id);
        Ok(build_id.map(|build_id| Kernel {
            text: image.text.wrapping_add(slide),
            slide,
            banner,
            version,
            build_id: Some(build_id),
            method,
            reads: self.reads,
        }))
    }

    fn banner(&mut self, at: u64) -> Result<Option<String>, TargetError> {
        let mut text = [0; MAX_BANNER];
        if !self.read(at, &mut text)? || !text.starts_with(BANNER) {
            return Ok(None);
        }
        let line = text.split(|&byte| byte == b'\n' || byte == 0).next();
        let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
        // Kernels carry the banner's first draft too, before they were counted.
        Ok((!line.contains(" # ")).then_some(line))
    }

    /// Nothing is mapped before the slot that the kernel begins with.
    fn first_slot(&mut self, handler: u64) -> Result<u64, TargetError> {
        let mut first = handler & !(SLOT - 1);
        for _ in 0..MAX_SLOTS {
            let before = first.wrapping_sub(SLOT);
            if !IMAGES.contains(&before) || !self.read(before, &mut [0; 8])? {
                break;
            }
            first = before;
        }
        Ok(first)
    }

    /// The kernel whose text begins there, if its banner is where `places` says.
    fn kernel_with(
        &mut self,
        text: u64,
        places: &Places,
        method: Method,
    ) -> Result<Option<Kernel>, TargetError> {
        let Some(version) = self.banner(places.banner)? else {
            return Ok(None);
        };
        let build_id = match places.note {
            Some(note) => self.build_id(note)?,
            None => None,
        };
        Ok(Some(Kernel {
            text,
            slide: text.wrapping_sub(FILE_BASE),
            banner: places.banner,
            version,
            build_id,
            method,
            reads: self.reads,
        }))
    }

    /// Searches the kernel whose text begins there.
    fn search_places(&mut self, text: u64) -> Result<Option<Places>, TargetError> {
        let slots = self.slots(text)?;
        let Some(banner) = self.search_banner(&slots)? else {
            return Ok(None);
        };
        let note = self.search_note(banner)?;
        Ok(Some(Places { banner, note }))
    }

    /// The slots of a kernel that begins at `text`. Those with instructions come last: the text may have many,
    /// and what is searched for is not in it. One that begins with a draft of the banner, which lies where the
    /// read-only data begins, comes first.
    fn slots(&mut self, text: u64) -> Result<Vec<u64>, TargetError> {
        let (mut first, mut data, mut code) = (Vec::new(), Vec::new(), Vec::new());
        let slots = (text..IMAGES.end).step_by(SLOT as usize);
        for slot in slots.take(MAX_SLOTS as usize) {
            let Some(page) = self.page(slot)? else {
                continue;
            };
            if page.windows(BANNER.len()).any(|it| it == BANNER) {
                first.push(slot);
            } else if is_code(&page) {
                code.push(slot);
            } else {
                data.push(slot);
            }
        }
        Ok([first, data, code].concat())
    }

    /// Whether a page is likely to be instructions; `None` if nothing is there.
    fn is_code(&mut self, at: u64) -> Result<Option<bool>, TargetError> {
        let page = self.page(at)?;
        Ok(page.map(|it| is_code(&it)))
    }

    fn page(&mut self, at: u64) -> Result<Option<[u8; PAGE]>, TargetError> {
        let mut page = [0; PAGE];
        Ok(self.read(at, &mut page)?.then_some(page))
    }

    fn search_banner(&mut self, slots: &[u64]) -> Result<Option<u64>, TargetError> {
        for &slot in slots {
            let end = slot + SLOT;
            let mut start = slot;
            for _ in 0..MAX_LOOKALIKES {
                let Some(found) = self.search(start..end, BANNER, 8)? else {
                    break;
                };
                if self.banner(found)?.is_some() {
                    return Ok(Some(found));
                }
                start = found + 8;
            }
        }
        Ok(None)
    }

    fn search_note(&mut self, start: u64) -> Result<Option<u64>, TargetError> {
        let mut next = start;
        for _ in 0..MAX_LOOKALIKES {
            let Some(found) = self.search(next..start.wrapping_add(SEARCHED), NOTE, 4)? else {
                break;
            };
            if self.build_id(found)?.is_some() {
                return Ok(Some(found));
            }
            next = found + 4;
        }
        Ok(None)
    }

    /// The build-id in the note there, if that is the kernel's.
    fn build_id(&mut self, note: u64) -> Result<Option<BuildId>, TargetError> {
        let (mut page, mut bytes) = ([0; 4], [0; 36]);
        // The kernel has whole files in its memory, which it lends to programs; they begin at a page.
        let is_of_file = self.read(note & !0xfff, &mut page)? && page == *b"\x7fELF";
        if is_of_file || !self.read(note, &mut bytes)? || !bytes.starts_with(NOTE) {
            return Ok(None);
        }
        Ok(build_id_in(&bytes))
    }

    /// The first place in a range, at a multiple of `step`, where `wanted` is.
    fn search(
        &mut self,
        range: Range<u64>,
        wanted: &[u8],
        step: usize,
    ) -> Result<Option<u64>, TargetError> {
        let start = range.start & !(step as u64 - 1);
        let mut chunk = vec![0; SEARCH_STEP + wanted.len()];
        for at in (start..range.end).step_by(SEARCH_STEP) {
            if !self.read(at, &mut chunk)? {
                continue;
            }
            let mut places = chunk.windows(wanted.len()).step_by(step);
            if let Some(found) = places.position(|place| place == wanted) {
                return Ok(Some(at + (found * step) as u64));
            }
        }
        Ok(None)
    }
}

fn is_code(page: &[u8; PAGE]) -> bool {
    let prefixes = page.iter().filter(|&&byte| byte == OF_CODE).count();
    prefixes > PAGE / 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const SLIDE: u64 = 0x1a00_0000;

    /// Memory with what the test puts into it, page by page.
    #[derive(Default)]
    struct Pages(std::collections::BTreeMap<u64, Vec<u8>>);

    impl Pages {
        fn put(&mut self, at: u64, bytes: &[u8]) {
            for (at, byte) in (at..).zip(bytes) {
                let page = self.0.entry(at & !0xfff).or_insert_with(|| vec![0; 4096]);
                page[(at & 0xfff) as usize] = *byte;
            }
        }

        fn map(&mut self, range: Range<u64>) {
            for at in range.step_by(4096) {
                self.put(at, &[0]);
            }
        }
    }

    impl Memory for Pages {
        fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
            for (at, byte) in (at..).zip(into) {
                let page = self
                    .0
                    .get(&(at & !0xfff))
                    .ok_or(TargetError::Unreadable(at))?;
                *byte = page[(at & 0xfff) as usize];
            }
            Ok(())
        }
    }

    fn id(byte: u8) -> BuildId {
        BuildId::new(&[byte; 20]).unwrap()
    }

    fn image(byte: u8) -> Image {
        Image {
            text: FILE_BASE,
            banner: FILE_BASE + 0x41_0000,
            page_fault: Some(FILE_BASE + 0x20_0be0),
            notes: FILE_BASE + 0x42_0000..FILE_BASE + 0x42_0024,
            build_id: id(byte),
        }
    }

    fn kernel() -> Pages {
        let mut pages = Pages::default();
        let text = FILE_BASE + SLIDE;
        pages.map(text..text + 0x60_0000);
        let handler = (text + 0x20_0be0).to_le_bytes();
        let [a, b, c, d, rest @ ..] = handler;
        pages.put(IDT + 14 * 16, &[a, b, 0x10, 0, 0, 0x8e, c, d]);
        pages.put(IDT + 14 * 16 + 8, &rest);
        pages.put(text + 0x40_0120, b"Linux version 6.1.0-x (a@b) # SMP\n");
        pages.put(text + 0x41_0000, b"Linux version 6.1.0-x (a@b) #1\n");
        pages.put(text + 0x42_0000, b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0");
        pages.put(text + 0x42_0010, &[7; 20]);
        pages
    }

    #[test]
    fn the_table_says_where_the_kernel_of_a_file_is() {
        let kernel = locate(&mut kernel(), &image(7)).unwrap();
        assert_eq!(kernel.slide, SLIDE);
        assert_eq!(kernel.text, FILE_BASE + SLIDE);
        assert_eq!(kernel.method, Method::InterruptTable);
        assert_eq!(kernel.release(), "6.1.0-x");
        assert!(kernel.reads <= 3);
    }

    #[test]
    fn notes_over_the_end_of_memory_are_none() {
        let image = Image {
            notes: Range {
                start: u64::MAX - 8,
                end: 16,
            },
            ..image(7)
        };
        locate(&mut kernel(), &image).unwrap_err();
    }

    #[test]
    fn without_the_symbol_every_slot_is_looked_into() {
        let image = Image {
            page_fault: None,
            ..image(7)
        };
        let kernel = locate(&mut kernel(), &image).unwrap();
        assert_eq!((kernel.slide, kernel.method), (SLIDE, Method::SlotScan));
        assert!(kernel.reads <= 600);
    }

    #[test]
    fn k09_a_file_of_another_kernel_is_refused_with_both_ids() {
        let error = locate(&mut kernel(), &image(8)).unwrap_err();
        let NotFound::OtherKernel { file, kernel } = &error else {
            panic!("{error}");
        };
        assert_eq!((file, kernel), (&id(8), &id(7)));
        let text = error.to_string();
        assert!(text.contains(&id(7).to_string()) && text.contains(&id(8).to_string()));
    }

    #[test]
    fn a_kernel_is_found_without_its_file() {
        let kernel = find(&mut kernel(), &Cache::none()).unwrap();
        assert_eq!((kernel.slide, kernel.text), (SLIDE, FILE_BASE + SLIDE));
        assert_eq!(kernel.build_id, Some(id(7)));
        assert_eq!(kernel.version, "Linux version 6.1.0-x (a@b) #1");
    }

    /// Instructions at the start of this many slots, behind which the read-only data of [`kernel`] is.
    fn with_much_code(slots: u64) -> Pages {
        let old = kernel();
        let mut pages = Pages::default();
        let text = FILE_BASE + SLIDE;
        for slot in 0..slots {
            pages.put(text + slot * SLOT, &[OF_CODE; PAGE]);
        }
        for (at, page) in old.0 {
            let moved = if at < text + 0x40_0000 {
                at
            } else {
                at + slots * SLOT
            };
            if !pages.0.contains_key(&moved) {
                pages.put(moved, &page);
            }
        }
        pages
    }

    #[test]
    fn the_banner_is_found_behind_much_code() {
        let mut pages = with_much_code(12);
        let found = find(&mut pages, &Cache::none()).unwrap();
        assert_eq!(found.banner, FILE_BASE + SLIDE + 0x41_0000 + 12 * SLOT);
        assert_eq!(found.build_id, Some(id(7)));
        assert!(found.reads < 200, "{} reads", found.reads);
    }

    #[test]
    fn a_slot_of_data_that_has_a_draft_of_the_banner_is_searched_first() {
        let mut pages = with_much_code(1);
        let text = FILE_BASE + SLIDE;
        pages.map(text + SLOT..text + 2 * SLOT);
        pages.map(text + 2 * SLOT..text + 3 * SLOT);
        let found = find(&mut pages, &Cache::none()).unwrap();
        assert_eq!(found.build_id, Some(id(7)));
        assert!(found.reads < 90, "{} reads", found.reads);
    }

    #[test]
    fn a_kernel_that_has_no_table_yet_is_found_without_its_file() {
        let mut pages = with_much_code(1);
        pages.0.remove(&IDT);
        let found = find(&mut pages, &Cache::none()).unwrap();
        assert_eq!((found.slide, found.method), (SLIDE, Method::SlotScan));
        assert_eq!(found.build_id, Some(id(7)));
    }

    #[test]
    fn the_build_id_of_a_file_in_the_kernel_is_not_the_kernels() {
        let mut pages = kernel();
        let file = FILE_BASE + SLIDE + 0x41_2000;
        pages.put(file, b"\x7fELF\x02\x01");
        pages.put(file + 0x300, b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0");
        pages.put(file + 0x310, &[9; 20]);
        assert_eq!(
            find(&mut pages, &Cache::none()).unwrap().build_id,
            Some(id(7))
        );
    }

    fn remembering(folder: &TempDir) -> Cache {
        Cache::at(folder.path().to_owned())
    }

    #[test]
    fn a_build_that_was_found_before_is_found_in_few_reads() {
        let folder = TempDir::new().unwrap();
        let cache = remembering(&folder);
        let first = find(&mut with_much_code(12), &cache).unwrap();
        let again = find(&mut with_much_code(12), &cache).unwrap();
        assert!(again.is_same(&first));
        assert!(again.reads < 20, "{} reads", again.reads);
    }

    #[test]
    fn what_is_remembered_of_another_kernel_is_not_believed() {
        let text = FILE_BASE + SLIDE;
        let (banner, note) = (text + 0x41_0000, text + 0x42_0000);
        let right = [banner, note];
        let wrong = [
            [banner + 8, note],
            [text + 0x40_0120, note],
            [banner, note + 4],
            [banner, IDT],
            [IDT, note],
        ];
        for places in wrong.into_iter().chain([right]) {
            let folder = TempDir::new().unwrap();
            let cache = remembering(&folder);
            let mut pages = kernel();
            let handler = text + 0x20_0be0;
            let mut counted = Counted {
                memory: &mut pages,
                reads: 0,
            };
            let remembered = Remembered::of(&mut counted, text, handler, &cache).unwrap();
            remembered.keep(&Places {
                banner: places[0],
                note: Some(places[1]),
            });
            let found = find(&mut pages, &cache).unwrap();
            assert_eq!((found.banner, found.build_id), (banner, Some(id(7))));
            assert_eq!(
                found.reads < 20,
                places == right,
                "{places:x?}: {} reads",
                found.reads
            );
        }
    }

    #[test]
    fn no_kernel_is_no_kernel() {
        let error = find(&mut Pages::default(), &Cache::none()).unwrap_err();
        assert!(matches!(error, NotFound::NoKernel(_)));
    }
}
