//! What can be typed to look at a kernel without a debugger.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::existing;
use crate::place::{self, Place};

#[derive(Debug, Subcommand)]
pub(crate) enum Look {
    /// Tell which kernel it is, where it lies, and what its processors do.
    Info(Options),
    /// Show the functions on the stack of a processor, with those that were inlined.
    ///
    /// Without a file of the kernel, the names come from its own memory, and there are neither source
    /// lines nor inlined functions.
    Bt(Bt),
    /// Wait until the kernel comes to a function or an address, and show how it got there.
    ///
    /// When the command is told to end (Ctrl-C), it takes the breakpoint off and lets the machine run on.
    Break(Break),
    /// Show memory.
    Mem(Mem),
    /// Show the registers of a processor.
    Regs(Regs),
    /// Print the value of an expression, as GDB does.
    ///
    /// An expression is made of variables, numbers, `&`, `*`, `.`, `->`, `[]`, `+`, `-`, casts like
    /// `(struct task_struct *)0xffff888003af8000`, `sizeof(…)` and `per_cpu(variable, number)`. A
    /// variable that each processor has for itself is that of `--cpu`.
    Print(Print),
    /// List the modules that are loaded.
    Modules(Options),
    /// Find symbols by a part of their name, or the one that an address belongs to.
    Symbols(Symbols),
    /// Wait until a variable is written to, and show who does it.
    ///
    /// When the command is told to end (Ctrl-C), it takes the watchpoint off and lets the machine run on.
    Watch(Watch),
    /// Show what the kernel has printed, out of its memory.
    Log(Options),
}

/// Where the kernel is, and where to look for its file.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(short, long, value_name = "TARGET", default_value = ":1234", help = place::HELP)]
    pub(crate) target: Place,
    /// The file of the kernel, with its symbols; one that does not belong to the kernel is refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) vmlinux: Option<PathBuf>,
    /// A file or folder with kernels and modules that have debug information, or with an XNU kernel,
    /// its dSYM bundle or its extensions, such as a kernel debug kit; may be given several times.
    /// /usr/lib/debug is searched after them.
    #[arg(short, long, visible_alias = "files", value_name = "PATH", value_parser = existing())]
    pub(crate) symbols: Vec<PathBuf>,
    /// Do without files: take all names and types from the kernel's memory.
    #[arg(long, conflicts_with_all = ["vmlinux", "symbols"])]
    pub(crate) no_files: bool,
    /// Neither use nor keep on disk what was worked out about a kernel.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Leave the machine standing still. Over KDP a kernel that runs does not listen any more, so that
    /// there could be only one look.
    #[arg(long)]
    pub(crate) stay: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bt {
    #[command(flatten)]
    pub(crate) options: Options,
    /// The processor.
    #[arg(short, long, default_value_t = 0)]
    pub(crate) cpu: u32,
    /// All processors.
    #[arg(short, long, conflicts_with = "cpu")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Break {
    #[command(flatten)]
    pub(crate) options: Options,
    /// A function, an address, or an expression that is one.
    #[arg(value_name = "PLACE")]
    pub(crate) place: String,
    /// Use a debug register instead of changing the instruction.
    #[arg(long)]
    pub(crate) hardware: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) options: Options,
    /// A variable, or a part of one, of at most eight bytes.
    #[arg(value_name = "EXPR")]
    pub(crate) expression: String,
    /// The processor whose variable is meant, if each has one for itself.
    #[arg(short, long, default_value_t = 0)]
    pub(crate) cpu: u32,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct Patience {
    /// How many seconds to wait.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Mem {
    #[command(flatten)]
    pub(crate) options: Options,
    /// An address, a symbol, or an expression that is one.
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: String,
    /// How many bytes.
    #[arg(default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(crate) length: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Regs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// The processor.
    #[arg(short, long, default_value_t = 0)]
    pub(crate) cpu: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Print {
    #[command(flatten)]
    pub(crate) options: Options,
    /// What to print.
    #[arg(value_name = "EXPR")]
    pub(crate) expression: String,
    /// The processor whose variables are meant where each has its own.
    #[arg(short, long, default_value_t = 0)]
    pub(crate) cpu: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Symbols {
    #[command(flatten)]
    pub(crate) options: Options,
    /// A part of a name, or an address like 0xffffffff81000000.
    #[arg(value_name = "NAME|ADDRESS")]
    pub(crate) what: String,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
