//! What can be typed. Help, completions and the man pages are made from this.

pub(crate) mod look;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use kdbridge::boot_args;
use kdbridge::rsp::link::Address;

use crate::place::{self, Place};

/// A bridge between any debugger and a kernel in a virtual machine.
#[derive(Debug, Parser)]
#[command(name = "kdbridge", version)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) debugger: Debugger,
}

/// What starts a debugger.
#[derive(Debug, Args)]
pub(crate) struct Debugger {
    #[arg(short, long, value_name = "TARGET", default_value = ":1234", help = place::HELP)]
    pub(crate) target: Place,
    #[command(flatten)]
    pub(crate) kernel: Kernel,
    /// A debugger and its arguments: gdb or lldb, which is started connected to the kernel.
    #[arg(last = true, value_name = "DEBUGGER")]
    pub(crate) debugger: Vec<OsString>,
}

/// Which kernel, and where its files are.
#[derive(Debug, Args)]
pub(crate) struct Kernel {
    /// The file of the kernel, with its symbols; one that does not belong to the kernel is refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) vmlinux: Option<PathBuf>,
    /// A file or folder with the files of modules, beside /usr/lib/debug, or with an XNU kernel, its dSYM
    /// bundle or its extensions, such as a kernel debug kit; may be given several times.
    #[arg(short = 's', long, visible_alias = "symbols", value_name = "PATH", value_parser = existing())]
    pub(crate) files: Vec<PathBuf>,
    /// Have an XNU kernel behind KDP look in every MS milliseconds, so that it can be interrupted.
    ///
    /// While it runs, it does not listen. It is told to enter its debugger by itself after a while, and
    /// is let go on at once unless somebody wants it to stop. That costs a short pause each time, and a
    /// line on its console.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub(crate) interrupt_every: Option<Duration>,
}

/// Takes a path at which something is: files that are not found are no error later on.
fn existing() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| fs::metadata(&path).map(|_| path))
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    Ok(Duration::from_millis(
        text.parse::<std::num::NonZeroU32>()?.get().into(),
    ))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Let debuggers connect to a kernel, and tell them where it is.
    ///
    /// The machine runs until a debugger connects, and runs on without breakpoints when the last one has
    /// left, in whatever way. The first that changes something controls the machine; others read.
    #[command(visible_alias = "connect")]
    Serve(Serve),
    /// Stand between a stub and a debugger that might end the machine, and do nothing else.
    ///
    /// A debugger that kills the machine leaves it, and it runs on without breakpoints when the last one
    /// has left, in whatever way. No kernel is looked for and nothing is told of symbols: what debuggers
    /// know is what they were given. LLDB can connect to a machine that runs.
    KillGuard(KillGuard),
    #[command(flatten)]
    Look(look::Look),
    /// Translate the boot-arg `debug` of an XNU kernel between names and a number.
    ///
    /// `kdbridge boot-args halt,nmi,arp` prints `debug=0x45`, and `kdbridge boot-args 0x45` prints
    /// `halt,nmi,arp`; both then say what each flag does. On the Mac that is to be debugged, `sudo
    /// nvram boot-args="debug=0x45"` sets it, where System Integrity Protection allows that; it counts
    /// from the next start on.
    BootArgs(BootArgs),
    /// Put KDP in front of a machine whose stub speaks the GDB protocol, so that a debugger on a Mac can
    /// attach to it with `kdp-remote`.
    ///
    /// The machine stands still until a debugger has come. When that has left, the machine runs, and
    /// stops for the next one. With an XNU kernel in the machine, the debugger is told its UUID and
    /// where it is.
    ServeKdp(ServeKdp),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the man pages.
    Man {
        /// Write one page for each command into this directory instead of one page to standard
        /// output.
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[arg(value_name = "TARGET", default_value = ":1234", help = place::HELP)]
    pub(crate) target: Place,
    #[command(flatten)]
    pub(crate) kernel: Kernel,
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// Let a debugger end the machine by killing what it debugs.
    #[arg(long)]
    pub(crate) allow_kill: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KillGuard {
    /// The stub: HOST:PORT, :PORT, or unix:PATH; QEMU's `-s` listens at :1234.
    #[arg(value_name = "TARGET", default_value = ":1234")]
    pub(crate) target: Address,
    #[command(flatten)]
    pub(crate) listen: Listen,
}

/// What debuggers connect to.
#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Where debuggers connect: HOST:PORT, :PORT, or unix:PATH, which only you can connect to.
    #[arg(long = "listen", value_name = "ADDRESS", default_value = ":2345")]
    pub(crate) address: Address,
}

#[derive(Debug, Args)]
#[command(after_long_help = flags())]
pub(crate) struct BootArgs {
    /// Flags by name, with or without `DB_`, or numbers, with commas between them; `debug=` may stand
    /// in front.
    #[arg(required_unless_present = "list")]
    pub(crate) flags: Option<String>,
    /// Print all flags that there are.
    #[arg(long, conflicts_with = "flags")]
    pub(crate) list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeKdp {
    /// The stub: HOST:PORT, PORT, or unix:PATH.
    pub(crate) stub: Address,
    /// Where to listen, by UDP. Whoever can send there controls the machine.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:41139")]
    pub(crate) listen: SocketAddr,
}

/// A table of the flags.
fn flags() -> String {
    let rows = boot_args::FLAGS.iter();
    let rows = rows.map(|flag| format!("  {:#8x}  {:25}  {}", flag.bit, flag.name, flag.meaning));
    format!("Flags:\n{}", rows.collect::<Vec<_>>().join("\n"))
}
