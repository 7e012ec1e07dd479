//! The commands, one module each where they are more than a few lines.

mod demo;
mod job;
mod message;
mod names;
mod run;
mod serve;

use std::fs;

use anyhow::Context as _;
use clap::CommandFactory as _;
use portolan::bootstrap::{self, Bootstrap};
use portoland::daemon::{self, Mode};

use crate::args::{self, Arguments, Command};
use crate::output;

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Serve(options) => serve::run(&options),
        Command::Call(options) => message::call(&options),
        Command::Send(options) => message::send(&options),
        Command::List(options) => names::list(&options),
        Command::Lookup(options) => names::lookup(&options),
        Command::Status(options) => names::status(&options),
        Command::Run(options) => run::run(&options),
        Command::Job(command) => job::run(&command),
        Command::Bootstrap(options) => serve_names(&options),
        Command::Shutdown => shutdown(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "portolan", &mut script);
            output::bytes(&script)
        }
        Command::Man { directory } => man(directory.as_deref()),
    }
}

fn serve_names(options: &args::Bootstrap) -> anyhow::Result<()> {
    let mode = match (options.detach, options.detached) {
        (true, _) => Mode::Detach,
        (_, true) => Mode::Detached,
        _ => Mode::Foreground,
    };
    portoland::daemon::log_to_stderr();
    Ok(daemon::run(&bootstrap::directory(), mode)?)
}

/// Nothing is started only to be ended. A confined program asks with the right that it inherited,
/// like for everything else.
fn shutdown() -> anyhow::Result<()> {
    let inherited = std::env::var_os(run::INHERITED_FD).is_some();
    let server = match inherited {
        true => Bootstrap::from_env(),
        false => Bootstrap::connect(&bootstrap::directory()),
    };
    server?.shutdown().context("the server was not ended")
}

fn man(directory: Option<&std::path::Path>) -> anyhow::Result<()> {
    let command = Arguments::command();
    match directory {
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout())?,
        Some(directory) => {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            clap_mangen::generate_to(command, directory)
                .with_context(|| format!("cannot write into {}", directory.display()))?;
            output::remark(format_args!("man pages are in {}", directory.display()));
        }
    }
    Ok(())
}
