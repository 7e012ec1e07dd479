//! What is answered without a debugger.

mod bt;
mod mem;
mod print;
mod symbols;
mod trap;

use std::fmt::{self, Display};
use std::sync::atomic::AtomicBool;

use anyhow::{anyhow, bail};
use kdbridge::commands::{info, log, modules, msgbuf, regs};
use kdbridge::expression::Problem;
use kdbridge::kernel::{Found, Kernel};
use kdbridge::target::Target;
use serde::Serialize;

use crate::args::look::{Look, Options};
use crate::{output, session};

pub(super) fn run(command: Look) -> anyhow::Result<()> {
    match command {
        Look::Info(options) => show(&options, |target, kernel| Ok(info::info(target, kernel)?)),
        Look::Bt(args) => bt::run(&args),
        Look::Break(args) => trap::wait(&args),
        Look::Mem(args) => mem::run(&args),
        Look::Regs(args) => show(&args.options, |target, kernel| {
            let cpu = session::cpu(target, args.cpu)?;
            Ok(regs::regs(target, kernel, cpu)?)
        }),
        Look::Print(args) => print::run(&args),
        Look::Modules(options) => show(&options, |_, kernel| match kernel.unlisted() {
            Some(why) => bail!("{why}"),
            None => Ok(modules::modules(kernel)),
        }),
        Look::Symbols(args) => symbols::run(&args),
        Look::Watch(args) => trap::watch(&args),
        Look::Log(options) => show(&options, |target, kernel| match kernel.found() {
            Found::Linux(_) => Ok(Log::Linux(log::log(target, kernel)?)),
            Found::Xnu(_) => Ok(Log::Xnu(msgbuf::msgbuf(target, kernel)?)),
        }),
    }
}

/// What a kernel has printed.
#[derive(Serialize)]
#[serde(untagged)]
enum Log {
    Linux(log::Log),
    Xnu(msgbuf::Lines),
}

impl Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux(log) => log.fmt(f),
            Self::Xnu(lines) => lines.fmt(f),
        }
    }
}

/// Looks at a kernel and prints a report.
fn show<R: Display + Serialize>(
    options: &Options,
    look: impl FnOnce(&mut dyn Target, &mut Kernel) -> anyhow::Result<R>,
) -> anyhow::Result<()> {
    show_waiting(options, |target, kernel, _| look(target, kernel))
}

/// The same of what may take long, and has to end when the command is told to.
fn show_waiting<R: Display + Serialize>(
    options: &Options,
    look: impl FnOnce(&mut dyn Target, &mut Kernel, &AtomicBool) -> anyhow::Result<R>,
) -> anyhow::Result<()> {
    let report = session::with(options, look)?;
    output::report(&report, options.json)
}

/// Shows what is wrong with an expression below it.
fn with_mark<T>(text: &str, result: Result<T, Problem>) -> anyhow::Result<T> {
    result.map_err(|problem| anyhow!("\n{}", problem.shown_in(text)))
}
