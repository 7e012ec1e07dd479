//! `kdbridge bt`: how the processors got where they are.

use std::fmt;

use serde::Serialize;

use super::hex;
use super::info::{Processor, processor};
use crate::kernel::{Call, Kernel};
use crate::pages::Pages;
use crate::target::{Cpu, Target, TargetError};

/// The functions on the stack of a processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backtrace {
    /// The processor.
    #[serde(flatten)]
    pub processor: Processor,
    /// Its functions, the innermost first.
    pub frames: Vec<Function>,
}

/// A function that was called or inlined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Where it stands, or what it called returns to.
    #[serde(serialize_with = "hex")]
    pub at: u64,
    /// Its stack pointer.
    #[serde(serialize_with = "hex")]
    pub sp: u64,
    /// Its name; `None` if it has none, as programs have not.
    pub function: Option<String>,
    /// How far in the function that is; not for inlined ones.
    pub offset: Option<u64>,
    /// The module it belongs to.
    pub module: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// Whether it was inlined in the next one.
    pub inlined: bool,
    /// Whether it is a program's, not the kernel's.
    pub user: bool,
}

/// Looks at the stacks of these processors.
///
/// # Errors
///
/// What went wrong on the way to the target.
pub fn bt(
    target: &mut dyn Target,
    kernel: &mut Kernel,
    cpus: &[Cpu],
) -> Result<Vec<Backtrace>, TargetError> {
    let registers = cpus.iter().map(|&cpu| Ok((cpu, target.registers(cpu)?)));
    let registers = registers.collect::<Result<Vec<_>, TargetError>>()?;
    let mut memory = Pages::new(target);
    let stacks = registers.iter().map(|(cpu, registers)| {
        let calls = kernel.backtrace(&mut memory, registers);
        Backtrace {
            processor: processor(&mut memory, kernel, *cpu, registers),
            frames: calls.into_iter().map(Function::from).collect(),
        }
    });
    Ok(stacks.collect())
}

impl From<Call> for Function {
    fn from(call: Call) -> Self {
        Self {
            at: call.frame.ip,
            sp: call.frame.sp,
            function: call.function,
            offset: call.offset,
            module: call.module,
            file: call.file,
            line: call.line,
            inlined: call.inlined,
            user: call.frame.user,
        }
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}", self.processor.cpu)?;
        if let (Some(task), Some(pid)) = (&self.processor.task, self.processor.pid) {
            write!(f, ": {task} ({pid})")?;
        }
        writeln!(f)?;
        let mut numbered = self.frames.iter().enumerate();
        numbered.try_for_each(|(number, frame)| writeln!(f, "#{number:<3}{frame}"))
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inlined {
            true => write!(f, "{:18}", "")?,
            false => write!(f, "{:#018x}", self.at)?,
        }
        match (&self.function, self.offset) {
            (Some(name), Some(offset)) => write!(f, " {name}+{offset:#x}")?,
            (Some(name), None) => write!(f, " {name}")?,
            (None, _) if self.user => write!(f, " in user mode")?,
            (None, _) => write!(f, " ??")?,
        }
        if self.inlined {
            write!(f, " (inlined)")?;
        }
        if let Some(module) = &self.module {
            write!(f, " [{module}]")?;
        }
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " at {file}:{line}"),
            _ => Ok(()),
        }
    }
}
