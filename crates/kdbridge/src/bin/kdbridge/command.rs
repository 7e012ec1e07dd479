//! What the subcommands do.

mod boot_args;
mod debug;
mod kill_guard;
mod look;
mod serve;
mod serve_kdp;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::args::{Arguments, Command};
use crate::output;

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Some(command) = arguments.command else {
        return debug::run(&arguments.debugger);
    };
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::KillGuard(arguments) => kill_guard::run(&arguments),
        Command::Look(command) => look::run(command),
        Command::BootArgs(arguments) => boot_args::run(&arguments),
        Command::ServeKdp(arguments) => serve_kdp::run(&arguments),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "kdbridge", &mut io::stdout());
            Ok(())
        }
        Command::Man { directory } => man(directory.as_deref()),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn man(directory: Option<&Path>) -> anyhow::Result<()> {
    let command = Arguments::command();
    let Some(directory) = directory else {
        return Ok(clap_mangen::Man::new(command).render(&mut io::stdout())?);
    };
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    output::remark(format_args!("man pages are in {}", directory.display()));
    Ok(())
}
