//! `kdbridge info`: which kernel this is.

use std::fmt;

use serde::Serialize;

use super::hex;
use crate::kernel::Kernel;
use crate::pages::Pages;
use crate::target::{Cpu, KERNEL_HALF, Memory, Registers, Target, TargetError};

/// Which kernel it is, where it lies, and what its processors do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Info {
    /// `Linux version …` or `Darwin Kernel Version …`, as the kernel says.
    pub version: String,
    /// How it was found.
    pub method: String,
    /// By which Linux's file is known.
    pub build_id: Option<String>,
    /// By which XNU's file is known.
    pub uuid: Option<String>,
    /// Where its text begins.
    #[serde(serialize_with = "hex")]
    pub text: u64,
    /// How far it is from where it was linked to be.
    #[serde(serialize_with = "hex")]
    pub slide: u64,
    /// The file that names come from; `None` if they come from the kernel's memory.
    pub file: Option<String>,
    /// How many symbols are known.
    pub symbols: usize,
    /// Whether there are source lines.
    pub lines: bool,
    /// Whether there are types.
    pub types: bool,
    /// How many modules or extensions are loaded; `None` if that is not known.
    pub modules: Option<usize>,
    /// The processors.
    pub cpus: Vec<Processor>,
}

/// What a processor does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Processor {
    /// Its number.
    pub cpu: u32,
    /// Where it stands.
    #[serde(serialize_with = "hex")]
    pub at: u64,
    /// The name of that place, in the kernel.
    pub name: Option<String>,
    /// Whether it executes a program, not the kernel.
    pub user: bool,
    /// The program it executes, or executes for.
    pub task: Option<String>,
    /// The number of that.
    pub pid: Option<u32>,
}

/// Looks at a kernel.
///
/// # Errors
///
/// What went wrong on the way to the target.
pub fn info(target: &mut dyn Target, kernel: &mut Kernel) -> Result<Info, TargetError> {
    let cpus = target.cpus()?;
    let cpus = cpus
        .into_iter()
        .map(|cpu| Ok((cpu, target.registers(cpu)?)));
    let cpus = cpus.collect::<Result<Vec<_>, TargetError>>()?;
    let mut memory = Pages::new(target);
    let cpus = cpus
        .iter()
        .map(|(cpu, it)| processor(&mut memory, kernel, *cpu, it));
    let cpus = cpus.collect();
    let found = kernel.found();
    Ok(Info {
        version: found.version().to_owned(),
        method: found.method(),
        build_id: found.build_id(),
        uuid: found.uuid(),
        text: found.text(),
        slide: kernel.slide(),
        file: kernel.file().map(|file| file.display().to_string()),
        symbols: kernel.symbols().len(),
        lines: kernel.has_lines(),
        types: !kernel.types().is_empty() || kernel.has_lines(),
        modules: match kernel.unlisted() {
            Some(_) => None,
            None => Some(kernel.modules().len()),
        },
        cpus,
    })
}

pub(super) fn processor(
    memory: &mut dyn Memory,
    kernel: &mut Kernel,
    cpu: Cpu,
    registers: &Registers,
) -> Processor {
    let user = registers.segments[0] & 3 != 0;
    // One that has not been started yet executes for nobody.
    let starts = !user && registers.rip < KERNEL_HALF;
    let task = if starts {
        None
    } else {
        kernel.task(memory, cpu.0)
    };
    Processor {
        cpu: cpu.0,
        at: registers.rip,
        name: kernel.shown_at(registers.rip),
        user,
        task: task.as_ref().map(|(name, _)| name.clone()),
        pid: task.map(|(_, pid)| pid),
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.version)?;
        if let Some(id) = &self.build_id {
            writeln!(f, "build-id  {id}")?;
        }
        if let Some(uuid) = &self.uuid {
            writeln!(f, "UUID      {uuid}")?;
        }
        writeln!(f, "text      {:#x}", self.text)?;
        writeln!(f, "slide     {:#x}, by {}", self.slide, self.method)?;
        let source = match &self.file {
            Some(file) => file,
            None if self.uuid.is_some() => {
                "the kernel's memory, for no file of this UUID was found"
            }
            None => "the kernel's memory, for no file of this build-id was found",
        };
        writeln!(f, "symbols   {} from {source}", self.symbols)?;
        let yes_no = |is_there| if is_there { "yes" } else { "no" };
        let (lines, types) = (yes_no(self.lines), yes_no(self.types));
        writeln!(f, "lines     {lines}")?;
        writeln!(f, "types     {types}")?;
        match self.modules {
            Some(number) => writeln!(f, "modules   {number}")?,
            None => writeln!(f, "modules   unknown, as `kdbridge modules` explains")?,
        }
        self.cpus.iter().try_for_each(|cpu| writeln!(f, "{cpu}"))
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}     {:#018x}", self.cpu, self.at)?;
        match &self.name {
            _ if self.user => write!(f, " in user mode")?,
            Some(name) => write!(f, " {name}")?,
            None => {}
        }
        match (&self.task, self.pid) {
            (Some(task), Some(pid)) => write!(f, ", {task} ({pid})"),
            _ => Ok(()),
        }
    }
}
