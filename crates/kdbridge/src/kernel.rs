//! A running kernel: its names, source lines, types, modules and stacks, from its file if there
//! is one, and from its own memory.

mod found;
mod scope;
mod xnu;

pub use found::Found;

use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::discover::linux;
use crate::discover::xnu::KextError;
use crate::macho::Uuid;
use crate::modules::{self, Layout, Module, ModulesError};
use crate::symbols::bytes::text_at;
use crate::symbols::{
    BuildId, Cache, DebugInfo, DwarfError, ElfError, ElfFile, Index, KallsymsError, Kind,
    SourceFrame, Symbol, SymbolTable, kallsyms, may_be_kernel,
};
use crate::target::{KERNEL_HALF, Memory, Registers, Target, TargetError};
use crate::types::{BtfError, Tag, Type, TypeId, Types};
use crate::unwind::{Arrays, Format, Frame, OrcTable, Unwinder};
use crate::xnu::FilesError;

/// Where the kernel may be.
const KERNEL: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;
const MOST_BTF: u64 = 64 << 20;
/// Is called with the module that is unloaded.
const FREE_MODULE: &str = "free_module";

/// A step that may take a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Looking for the kernel's file.
    Searching,
    /// Reading names and source lines out of it.
    ReadingFile,
    /// Reading names out of the kernel's memory.
    ReadingMemory,
    /// Reading what describes variables, which is done once for each kernel.
    Indexing,
}

/// Where to look for files, where to keep what was worked out, and whom to tell.
pub struct Sources<'a> {
    /// Files of kernels and modules.
    pub index: Index,
    /// What was worked out before.
    pub cache: Cache,
    /// Is told what takes a moment.
    pub progress: &'a mut dyn FnMut(Step),
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("index", &self.index)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// A kernel that stands still, with what is known about it.
#[derive(Debug)]
pub struct Kernel {
    found: Found,
    /// How far it is from where it was linked to be.
    slide: u64,
    index: Index,
    file: Option<PathBuf>,
    /// At the addresses where the kernel was linked to be.
    symbols: SymbolTable,
    debug: Option<DebugInfo>,
    types: Types,
    modules: Vec<Loaded>,
    /// Why nothing is known of modules.
    unlisted: Option<KernelError>,
    /// Those of the modules come first.
    tables: Vec<(Range<u64>, OrcTable)>,
    format: Format,
}

/// A module with what its file or the kernel says about it.
#[derive(Debug)]
pub struct Loaded {
    /// The module.
    pub module: Module,
    /// Its names.
    pub symbols: SymbolTable,
    /// Its file, if there is one of the same build-id.
    pub file: Option<ElfFile>,
    /// Where its file is, or what that was made from.
    pub path: Option<PathBuf>,
    /// By which an extension of XNU and its files know each other.
    pub uuid: Option<Uuid>,
    /// How far its file's addresses are below; `None` where each section has a place of its own.
    slide: Option<u64>,
    debug: Option<DebugInfo>,
}

/// A function on a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The place on the stack; inlined functions share it.
    pub frame: Frame,
    /// The function's name.
    pub function: Option<String>,
    /// How far in the function `frame.ip` is; not for inlined ones.
    pub offset: Option<u64>,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// Whether it was inlined in the next one.
    pub inlined: bool,
    /// The module it belongs to.
    pub module: Option<String>,
}

impl Kernel {
    /// Reads what is needed for names and stacks of Linux. Without a file of the same build-id, names come out
    /// of the kernel's memory, and there are no source lines.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if neither has any names.
    pub fn open(
        memory: &mut dyn Memory,
        found: linux::Kernel,
        sources: Sources<'_>,
    ) -> Result<Self, KernelError> {
        let Sources {
            index,
            cache,
            progress,
        } = sources;
        progress(Step::Searching);
        let id = found.build_id.as_ref();
        let path = id.and_then(|id| index.find(id, may_be_kernel));
        if let Some(path) = path {
            progress(Step::ReadingFile);
            let file = ElfFile::open(&path)?;
            let symbols = SymbolTable::of_file(&file)?;
            if let Some(slide) = slide_of(&found, &symbols) {
                let found = linux::Kernel { slide, ..found };
                return Self::from_file(memory, found, index, &cache, &file, symbols);
            }
        }
        progress(Step::ReadingMemory);
        Self::from_memory(memory, found, index)
    }

    fn from_file(
        memory: &mut dyn Memory,
        found: linux::Kernel,
        index: Index,
        cache: &Cache,
        file: &ElfFile,
        symbols: SymbolTable,
    ) -> Result<Self, KernelError> {
        let types = match file.section(".BTF") {
            Some(section) => Types::of_btf(file.bytes(section)?)?,
            None => Types::default(),
        };
        let orc = OrcTable::in_file(file, found.slide);
        let kernel = Self {
            debug: debug_of(file.path(), cache)?,
            file: Some(file.path().to_owned()),
            types,
            ..Self::of(found, index, symbols)
        };
        Ok(kernel.with_stacks(memory, orc))
    }

    fn from_memory(
        memory: &mut dyn Memory,
        found: linux::Kernel,
        index: Index,
    ) -> Result<Self, KernelError> {
        let slide = found.slide;
        let symbols = kallsyms(memory, found.banner)?.moved(slide.wrapping_neg());
        let kernel = Self {
            types: live_types(memory, slide, &symbols).unwrap_or_default(),
            ..Self::of(found, index, symbols)
        };
        Ok(kernel.with_stacks(memory, None))
    }

    /// One of which no more is known than its names.
    fn of(found: linux::Kernel, index: Index, symbols: SymbolTable) -> Self {
        Self {
            slide: found.slide,
            found: Found::Linux(found),
            index,
            file: None,
            symbols,
            debug: None,
            types: Types::default(),
            modules: Vec::new(),
            unlisted: None,
            tables: Vec::new(),
            format: Format::ThreeBits,
        }
    }

    /// Adds what stacks are unwound with, and the modules.
    fn with_stacks(mut self, memory: &mut dyn Memory, orc: Option<OrcTable>) -> Self {
        let orc = orc.or_else(|| self.live_orc());
        self.format = self.orc_format(memory, orc.as_ref());
        self.tables = orc.map(|table| (KERNEL, table)).into_iter().collect();
        // A list that is being changed shows no modules this time, and nothing else suffers.
        let modules = self.list_modules(memory).unwrap_or_default();
        let layout = self.module_layout();
        let mut room = modules::MOST_SYMBOLS_OF_ALL;
        let loaded = modules.into_iter();
        let loaded = loaded.map(|it| self.loaded(memory, it, layout.as_ref(), &mut room));
        let loaded: Vec<Loaded> = loaded.collect();
        let tables = loaded.iter().flat_map(|it| {
            let table = it.module.orc.map(OrcTable::in_memory);
            let parts = it.module.parts();
            parts.filter_map(move |part| Some((part, table.clone()?)))
        });
        self.tables = tables.chain(std::mem::take(&mut self.tables)).collect();
        self.modules = loaded;
        self
    }

    /// What was found out about it before.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Whether its files, and those of its modules, were searched for in all of the places.
    #[must_use]
    pub fn was_searched_for(&self) -> bool {
        !self.index.is_cut_off()
    }

    /// How far it is from where it was linked to be.
    #[must_use]
    pub fn slide(&self) -> u64 {
        self.slide
    }

    /// The file that its names come from; `None` if they come from its memory.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whether there are source lines.
    #[must_use]
    pub fn has_lines(&self) -> bool {
        self.debug.is_some()
    }

    /// Its names, at the addresses where it was linked to be.
    #[must_use]
    pub fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }

    /// Its modules, or the extensions of XNU.
    #[must_use]
    pub fn modules(&self) -> &[Loaded] {
        &self.modules
    }

    /// Why nothing is known of its modules, if it is not that there are none.
    #[must_use]
    pub fn unlisted(&self) -> Option<&KernelError> {
        self.unlisted.as_ref()
    }

    /// Its types.
    #[must_use]
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// Where the symbol of this name is now, also if it is a module's. For a variable that each
    /// processor has for itself, that is only its place among those.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<u64> {
        self.find(name).map(|(_, address)| address)
    }

    /// Where a module is loaded and unloaded, to be told of both: the functions that are called once
    /// its sections have their addresses, before those are freed that only its start needed, and
    /// before all are.
    #[must_use]
    pub fn module_hooks(&self) -> Vec<u64> {
        let names = ["do_init_module", "do_free_init", FREE_MODULE];
        names.iter().filter_map(|it| self.address_of(it)).collect()
    }

    /// Where the modules are described that processors are about to free.
    ///
    /// # Errors
    ///
    /// [`TargetError`] if it does not tell its registers.
    pub fn leaving_modules(&self, target: &mut dyn Target) -> Result<Vec<u64>, TargetError> {
        /// The first argument of a function.
        const RDI: usize = 5;
        let mut leaving = Vec::new();
        let free = self.address_of(FREE_MODULE);
        for cpu in target.cpus()? {
            let registers = target.registers(cpu)?;
            if Some(registers.rip) == free {
                leaving.push(registers.general[RDI]);
            }
        }
        Ok(leaving)
    }

    /// The name of what is at an address, and how far behind its beginning that is.
    #[must_use]
    pub fn name_at(&self, address: u64) -> Option<(Symbol<'_>, u64)> {
        if let Some(loaded) = self.module_at(address) {
            let symbol = loaded.symbols.at(address)?;
            let offset = address - symbol.address;
            return Some((symbol, offset));
        }
        if address < KERNEL_HALF {
            // A program's. Some symbols are where the kernel has it before it is mapped.
            return None;
        }
        let linked = address.wrapping_sub(self.slide);
        let symbol = self.symbols.at(linked)?;
        let offset = linked - symbol.address;
        Some((symbol, offset))
    }

    /// That name as debuggers write it: `<schedule+16>`.
    #[must_use]
    pub fn shown_at(&self, address: u64) -> Option<String> {
        let (symbol, offset) = self.name_at(address)?;
        // In a file of ELF, what is data and has no length is a mark that a compiler or a linker made.
        let is_elf = self.file.is_some() && matches!(self.found, Found::Linux(_));
        if is_elf && symbol.kind == Kind::Data && symbol.size == 0 {
            return None;
        }
        Some(match offset {
            0 => format!("<{}>", symbol.name),
            _ => format!("<{}+{offset}>", symbol.name),
        })
    }

    /// The functions on the stack of a processor, the innermost first.
    pub fn backtrace(&mut self, memory: &mut dyn Memory, registers: &Registers) -> Vec<Call> {
        let unwinder = Unwinder {
            tables: &self.tables,
            format: self.format,
        };
        let frames = unwinder.frames(memory, registers);
        frames.into_iter().flat_map(|it| self.calls(it)).collect()
    }

    /// Reads the list of modules anew.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if the kernel has no types that say how its list is made, or it cannot be read.
    pub fn list_modules(&mut self, memory: &mut dyn Memory) -> Result<Vec<Module>, KernelError> {
        let head = self.address_of("modules").ok_or(KernelError::NoModules)?;
        let layout = self.module_layout().ok_or(KernelError::NoModules)?;
        Ok(modules::list(memory, &layout, head)?)
    }

    /// Where the variables of a processor begin: what is to be added to the address of one.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoCpu`] if there is no such processor.
    pub fn per_cpu_base(&self, memory: &mut dyn Memory, cpu: u32) -> Result<u64, KernelError> {
        const MOST_CPUS: u32 = 8192;
        let table = self.address_of("__per_cpu_offset");
        let table = table.ok_or(KernelError::NoCpu(cpu))?;
        let mut count = [0; 4];
        if let Some(at) = self.address_of("nr_cpu_ids") {
            memory.read(at, &mut count)?;
        }
        let count = match u32::from_le_bytes(count) {
            0 => MOST_CPUS,
            count => count,
        };
        if cpu >= count {
            return Err(KernelError::NoCpu(cpu));
        }
        Ok(memory.word(table.wrapping_add(u64::from(cpu) * 8))?)
    }

    /// The program that a processor executes for: its name and number.
    pub fn task(&mut self, memory: &mut dyn Memory, cpu: u32) -> Option<(String, u32)> {
        let task = self.find_type(Tag::Struct, "task_struct")?;
        let (name, pid) = (
            self.types.offset(task, "comm")?,
            self.types.offset(task, "pid")?,
        );
        let (kind, at) = match self.find("current_task") {
            Some(found) => found,
            None => {
                let (kind, hot) = self.find("pcpu_hot")?;
                let ty = self.find_type(Tag::Struct, "pcpu_hot")?;
                let offset = self.types.offset(ty, "current_task")?;
                (kind, hot.wrapping_add(offset))
            }
        };
        // A kernel for one processor has it for all.
        let base = match kind {
            Kind::PerCpu => self.per_cpu_base(memory, cpu).ok()?,
            _ => 0,
        };
        let task = memory.word(base.wrapping_add(at)).ok()?;
        let mut comm = [0; 16];
        memory.read(task.wrapping_add(name), &mut comm).ok()?;
        let mut number = [0; 4];
        memory.read(task.wrapping_add(pid), &mut number).ok()?;
        let name = text_at(&comm, 0).into_owned();
        Some((name, u32::from_le_bytes(number)))
    }

    /// The type of this name, from BTF, or else from debug information.
    pub fn find_type(&mut self, tag: Tag, name: &str) -> Option<TypeId> {
        if let Some(found) = self.types.find(tag, name) {
            return Some(found);
        }
        let debug = self.debug.as_mut()?;
        let found = debug.find_type(tag, name, &mut self.types);
        found.ok().flatten()
    }

    /// The module that an address belongs to.
    #[must_use]
    pub fn module_at(&self, address: u64) -> Option<&Loaded> {
        let mut all = self.modules.iter();
        all.find(|it| it.module.contains(address))
    }

    fn find(&self, name: &str) -> Option<(Kind, u64)> {
        if let Some(symbol) = self.symbols.by_name(name) {
            return Some((symbol.kind, self.placed(&symbol)));
        }
        let mut modules = self.modules.iter();
        let symbol = modules.find_map(|it| it.symbols.by_name(name))?;
        Some((symbol.kind, symbol.address))
    }

    /// Where a symbol of the kernel is. Per-CPU variables that are linked at 0 do not move with it.
    pub(crate) fn placed(&self, symbol: &Symbol<'_>) -> u64 {
        let is_of_cpu = symbol.kind == Kind::PerCpu && symbol.address < KERNEL.start;
        let slide = if is_of_cpu { 0 } else { self.slide };
        symbol.address.wrapping_add(slide)
    }

    fn calls(&mut self, frame: Frame) -> Vec<Call> {
        let inside = frame.inside();
        let name = self.name_at(inside);
        let offset = name.as_ref().map(|(_, offset)| *offset);
        let offset = offset.map(|it| it.wrapping_add(frame.ip.wrapping_sub(inside)));
        let name = name.map(|(symbol, _)| symbol.name.into_owned());
        let module = self.module_at(inside).map(|it| it.module.name.clone());
        let mut lines = match frame.user {
            true => Vec::new(),
            false => self.lines(inside),
        };
        if lines.is_empty() {
            lines.push(SourceFrame::default());
        }
        let call = |line: SourceFrame| Call {
            frame,
            function: match line.inlined {
                true => line.function,
                false => line.function.or(name.clone()),
            },
            offset: offset.filter(|_| !line.inlined),
            file: line.file,
            line: line.line,
            inlined: line.inlined,
            module: module.clone(),
        };
        lines.into_iter().map(call).collect()
    }

    fn lines(&mut self, address: u64) -> Vec<SourceFrame> {
        let mut modules = self.modules.iter_mut();
        if let Some(loaded) = modules.find(|it| it.module.contains(address)) {
            return loaded.lines(address);
        }
        let linked = address.wrapping_sub(self.slide);
        let debug = self.debug.as_mut();
        debug.map(|it| it.frames(linked)).unwrap_or_default()
    }

    fn module_layout(&mut self) -> Option<Layout> {
        let module = self.find_type(Tag::Struct, "module")?;
        Layout::of(&self.types, module)
    }

    /// The file of a module, which has its build-id.
    #[must_use]
    pub fn file_of(&self, module: &Module, id: &BuildId) -> Option<ElfFile> {
        let path = self.index.find(id, |name| module.may_be_file(name));
        path.and_then(|path| ElfFile::open(&path).ok())
    }

    fn loaded(
        &self,
        memory: &mut dyn Memory,
        module: Module,
        layout: Option<&Layout>,
        room: &mut u64,
    ) -> Loaded {
        let id = module.build_id(memory);
        let file = id.and_then(|id| self.file_of(&module, &id));
        let symbols = layout.map(|it| modules::symbol_table(memory, it, &module, room));
        Loaded {
            symbols: symbols.and_then(Result::ok).unwrap_or_default(),
            module,
            path: file.as_ref().map(|file| file.path().to_owned()),
            file,
            uuid: None,
            slide: None,
            debug: None,
        }
    }

    fn live_orc(&self) -> Option<OrcTable> {
        let ips = self.address_of("__start_orc_unwind_ip")?;
        let end = self.address_of("__stop_orc_unwind_ip")?;
        Some(OrcTable::in_memory(Arrays {
            ips,
            entries: self.address_of("__start_orc_unwind")?,
            count: end.saturating_sub(ips) / 4,
        }))
    }

    fn orc_format(&mut self, memory: &mut dyn Memory, table: Option<&OrcTable>) -> Format {
        let functions = ["schedule", "panic", "start_kernel"];
        let mut functions = functions.iter().filter_map(|it| self.address_of(it));
        if table.is_some_and(|it| functions.any(|at| it.is_renumbered(memory, at))) {
            return Format::Renumbered;
        }
        let entry = self.find_type(Tag::Struct, "orc_entry");
        let known = entry.and_then(|entry| {
            let bits = self.types.member(entry, "type")?.bits?;
            let end = self.types.member(entry, "end");
            Some((bits, end.map_or(2, |it| (it.offset % 8) as u8)))
        });
        match known {
            Some((2, end)) => Format::TwoBits { end },
            Some(_) => Format::ThreeBits,
            None if self.found.is_before_6_4() => Format::TwoBits { end: 2 },
            None => Format::ThreeBits,
        }
    }
}

impl Loaded {
    fn lines(&mut self, address: u64) -> Vec<SourceFrame> {
        let linked = self.linked(address);
        let debug = self.debug();
        debug.map(|it| it.frames(linked)).unwrap_or_default()
    }

    /// Where its debug information has what is at `address`.
    fn linked(&self, address: u64) -> u64 {
        address.wrapping_sub(self.slide.unwrap_or_default())
    }

    /// Its debug information, whose reading begins when it is asked for.
    fn debug(&mut self) -> Option<&mut DebugInfo> {
        if self.debug.is_none() {
            self.debug = self.open_debug();
        }
        self.debug.as_mut()
    }

    fn open_debug(&self) -> Option<DebugInfo> {
        let file = self.file.as_ref()?;
        let again = ElfFile::open(file.path()).ok()?;
        match self.slide {
            Some(_) => DebugInfo::open(again, &Cache::none()).ok(),
            None => DebugInfo::of_module(again, self.module.placement(file)).ok(),
        }
    }
}

/// How far the kernel is from where a file has it, if the file has its beginning and its banner as far from each
/// other: a guest may claim the build-id of any file.
fn slide_of(found: &linux::Kernel, symbols: &SymbolTable) -> Option<u64> {
    let text = symbols.by_name("_text")?.address;
    let banner = symbols.by_name("linux_banner")?.address;
    let slide = found.text.wrapping_sub(text);
    (banner.wrapping_add(slide) == found.banner).then_some(slide)
}

/// The kernel's own types.
fn live_types(
    memory: &mut dyn Memory,
    slide: u64,
    symbols: &SymbolTable,
) -> Result<Types, KernelError> {
    let at = |name| symbols.by_name(name).map(|it| it.address);
    let (Some(begin), Some(end)) = (at("__start_BTF"), at("__stop_BTF")) else {
        return Ok(Types::default());
    };
    let length = end.saturating_sub(begin).min(MOST_BTF);
    let mut bytes = vec![0; length as usize];
    memory.read(begin.wrapping_add(slide), &mut bytes)?;
    Ok(Types::of_btf(bytes)?)
}

/// The debug information of a file that has some.
fn debug_of(path: &Path, cache: &Cache) -> Result<Option<DebugInfo>, KernelError> {
    match DebugInfo::open(ElfFile::open(path)?, cache) {
        Ok(debug) => Ok(Some(debug)),
        Err(DwarfError::Missing) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why nothing can be said about a kernel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No file belongs to it, and its memory has no names.
    #[error("there are no names: no file of the kernel was found, and its memory has none")]
    NoNames(#[from] KallsymsError),
    /// A file of XNU cannot be used.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Where XNU has its list of extensions is not known.
    #[error(
        "where the kernel lists its extensions is not known: no file of it was found, and it has no names in \
         its memory (with the boot-arg keepsyms=1 it keeps them)"
    )]
    NoExtensions,
    /// XNU's list of extensions cannot be read.
    #[error(transparent)]
    Extensions(#[from] KextError),
    /// The file that belongs to it cannot be used.
    #[error("the kernel's file cannot be used")]
    File(#[from] ElfError),
    /// Its debug information cannot be used.
    #[error("the debug information of the kernel's file cannot be used")]
    DebugInfo(#[from] DwarfError),
    /// Its types cannot be read.
    #[error("the kernel's types cannot be read")]
    Types(#[from] BtfError),
    /// How the list of modules is made is not known.
    #[error("neither a file nor the kernel itself says how its list of modules is made")]
    NoModules,
    /// The list of modules cannot be read.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// There is no such processor.
    #[error("there is no processor {0}")]
    NoCpu(u32),
    /// The target did not do what it was asked.
    #[error(transparent)]
    Target(#[from] TargetError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const SLIDE: u64 = 0x1a00_0000;

    fn found() -> linux::Kernel {
        linux::Kernel {
            text: TEXT + SLIDE,
            slide: 0,
            banner: TEXT + SLIDE + 0x40,
            version: "Linux version 6.1.0 (a@b) #1".to_owned(),
            build_id: BuildId::new(&[7; 20]),
            method: linux::Method::SlotScan,
            reads: 0,
        }
    }

    fn table(places: &[(&'static str, u64)]) -> SymbolTable {
        let mut table = SymbolTable::default();
        for &(name, address) in places {
            table.push(&Symbol {
                name: name.into(),
                address,
                size: 0,
                kind: Kind::Data,
                global: true,
            });
        }
        table.sort();
        table
    }

    #[test]
    fn a_file_is_of_the_kernel_whose_banner_is_where_it_says() {
        let right = [("_text", TEXT), ("linux_banner", TEXT + 0x40)];
        assert_eq!(slide_of(&found(), &table(&right)), Some(SLIDE));
        let wrong = [("_text", TEXT), ("linux_banner", TEXT + 0x48)];
        assert_eq!(slide_of(&found(), &table(&wrong)), None);
        for some in [&right[..1], &right[1..], &[]] {
            assert_eq!(slide_of(&found(), &table(some)), None, "{some:?}");
        }
    }
}
