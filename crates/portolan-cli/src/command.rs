//! The commands, one module each where they are more than a few lines.

mod control;
mod defaults;
mod demo;
mod job;
mod load;
mod log;
mod message;
mod names;
mod run;
mod sandbox;
mod serve;
mod shared;
mod show;
mod trace;

use std::fs;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use portolan::bootstrap::{self, Bootstrap, ConnectError};
use portoland::daemon::{self, Mode};

use crate::args::{self, Arguments, Command};
use crate::output;

/// Gives the code to exit with, if nothing is wrong.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Bootstrap(options) => serve_names(&options),
        Command::Sandbox(command) => sandbox::run(&command),
        Command::Run(options) if options.trace => trace::run(&options),
        other => run_to_end(other).map(|()| ExitCode::SUCCESS),
    }
}

fn run_to_end(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Serve(options) => serve::run(&options),
        Command::Call(options) => message::call(&options),
        Command::Send(options) => message::send(&options),
        Command::List(options) => names::list(&options),
        Command::Lookup(options) => names::lookup(&options),
        Command::Status(options) => names::status(&options),
        Command::Run(options) => run::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Unload(options) => control::unload(&options),
        Command::Enable(options) => control::enable(&options),
        Command::Disable(options) => control::disable(&options),
        Command::Kickstart(options) => control::kickstart(&options),
        Command::Stop(options) => control::stop(&options),
        Command::Jobs(options) => show::jobs(&options),
        Command::Print(options) => show::print(&options),
        Command::Blame(options) => show::blame(&options),
        Command::Dump(options) => show::dump(&options),
        Command::Log(options) => log::run(&options),
        Command::Job(command) => job::run(&command),
        Command::Defaults(command) => defaults::run(&command),
        Command::Shm(command) => shared::memory(&command),
        Command::Sem(command) => shared::semaphores(&command),
        Command::Sandbox(command) => sandbox::run(&command).map(drop),
        Command::Bootstrap(options) => serve_names(&options).map(drop),
        Command::Restart => restart(),
        Command::Shutdown => shutdown(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "portolan", &mut script);
            output::bytes(&script)
        }
        Command::Man { directory } => man(directory.as_deref()),
    }
}

fn serve_names(options: &args::Bootstrap) -> anyhow::Result<ExitCode> {
    let mode = match (options.detach, options.detached) {
        (true, _) => Mode::Detach,
        (_, true) => Mode::Detached,
        _ => Mode::Foreground,
    };
    portoland::daemon::log_to_stderr();
    Ok(daemon::run(&bootstrap::directory(), mode)?)
}

fn restart() -> anyhow::Result<()> {
    let restarted = running_server()?.restart();
    restarted.context("the server was not restarted")
}

fn shutdown() -> anyhow::Result<()> {
    running_server()?
        .shutdown()
        .context("the server was not ended")
}

/// Nothing is started only to be ended or restarted. A confined program asks with the right that
/// it inherited, like for everything else.
fn running_server() -> Result<Bootstrap, ConnectError> {
    let inherited = std::env::var_os(run::INHERITED_FD).is_some();
    match inherited {
        true => Bootstrap::from_env(),
        false => Bootstrap::connect(&bootstrap::directory()),
    }
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
