//! A server in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use portolan::bootstrap::Bootstrap;
use rustix::process::{Pid, Signal};

use super::Plan;
use super::part::Part;
use crate::{place, session};

/// How long the server has for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The server, ended with all its jobs when this is dropped.
pub(super) struct World {
    pub(super) directory: PathBuf,
    portolan: PathBuf,
    holder: Child,
    /// From the start of the process to the answer to the first connection.
    pub(super) started_in: Duration,
}

/// What ends a server, so that another goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disturbance {
    Restart,
    Kill,
}

impl World {
    /// Starts a server that loads the files of `jobs` by itself, if there is such a directory.
    pub(super) fn new(plan: &Plan, name: &str, jobs: Option<&Path>) -> anyhow::Result<Self> {
        let directory = session::private_directory(&plan.directory.0.join(name))?;
        let mut command = command(&plan.portolan, &directory);
        if let Some(jobs) = jobs {
            command.env("PORTOLAN_JOBS_DIR", jobs);
        }
        let began = Instant::now();
        let holder = command.arg("bootstrap").stdin(Stdio::null()).spawn()?;
        let mut world = Self {
            directory,
            portolan: plan.portolan.clone(),
            holder,
            started_in: Duration::ZERO,
        };
        world.wait_until_it_answers()?;
        world.started_in = began.elapsed();
        Ok(world)
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let none = "org.example.none".parse()?;
        let socket_is_there = || match Bootstrap::connect(&self.directory) {
            // The socket is there before all jobs are, and is answered after.
            Ok(server) => Ok(server.status(&none).is_err().then_some(())),
            Err(_) => Ok(None),
        };
        poll("a server", socket_is_there)
    }

    pub(super) fn bootstrap(&self) -> anyhow::Result<Bootstrap> {
        Ok(Bootstrap::connect(&self.directory)?)
    }

    /// The command `portolan` with this server.
    pub(super) fn portolan(&self) -> Command {
        command(&self.portolan, &self.directory)
    }

    /// The process that keeps the server's descriptors, and the server.
    pub(super) fn processes(&self) -> anyhow::Result<[u32; 2]> {
        Ok([self.holder.id(), self.server()?])
    }

    /// The server's process.
    pub(super) fn server(&self) -> anyhow::Result<u32> {
        let holder = self.holder.id();
        poll("the server", || {
            let children = place::children_of(holder)?;
            let is_server = |pid: &&u32| executable(**pid) == executable(holder);
            Ok(children.iter().find(is_server).copied())
        })
    }

    /// Has the server end, does `meanwhile`, and gives the time until the next one has answered a
    /// look-up of this name.
    pub(super) fn disturb(
        &self,
        server: &Bootstrap,
        name: &str,
        how: Disturbance,
        meanwhile: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        let name = name.parse()?;
        let old = self.server()?;
        let began = Instant::now();
        match how {
            Disturbance::Restart => server.restart()?,
            Disturbance::Kill => {
                let pid = pid_of(old).context("no process")?;
                rustix::process::kill_process(pid, Signal::KILL)?;
            }
        }
        meanwhile()?;
        // What was asked of the server that is gone is refused.
        poll("the next server", || Ok(server.look_up(&name).ok()))?;
        let took = began.elapsed();
        ensure!(self.server()? != old, "the same server");
        Ok(took)
    }

    /// Writes a job file for this program, and gives its path.
    pub(super) fn write_job(
        &self,
        label: &str,
        part: Part,
        names: &[String],
    ) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(format!("{label}.toml"));
        write_job(&path, label, part, names)?;
        Ok(path)
    }
}

fn command(portolan: &Path, directory: &Path) -> Command {
    let mut command = Command::new(portolan);
    command
        .env("PORTOLAN_RUNTIME_DIR", directory)
        .env("PORTOLAN_AUTOSTART", "0")
        .env("PORTOLAN_LOG", "error")
        .env_remove("PORTOLAN_JOBS_DIR")
        .env_remove("PORTOLAN_BOOTSTRAP_FD");
    command
}

fn executable(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The file of a job that is this program in a part, and has these services.
pub(super) fn write_job(
    path: &Path,
    label: &str,
    part: Part,
    names: &[String],
) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program")?;
    let name = names.first().map_or("", String::as_str);
    let mut text = format!("Label = {label:?}\nProgramArguments = [{program:?}");
    for argument in part.arguments(name, 0) {
        text += &format!(", {argument:?}");
    }
    text += "]\n[MachServices]\n";
    for name in names {
        text += &format!("{name:?} = true\n");
    }
    Ok(fs::write(path, text)?)
}

impl Drop for World {
    fn drop(&mut self) {
        // It ends its jobs first. What does not is killed.
        if let Some(pid) = pid_of(self.holder.id()) {
            rustix::process::kill_process(pid, Signal::TERM).ok();
        }
        let server = place::children_of(self.holder.id()).unwrap_or_default();
        let ended = poll("its end", || Ok(self.holder.try_wait()?.map(drop)));
        if ended.is_err() {
            self.holder.kill().ok();
            self.holder.wait().ok();
            for pid in server.into_iter().filter_map(pid_of) {
                rustix::process::kill_process(pid, Signal::KILL).ok();
            }
        }
        // The whole of it goes at the end.
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Looks again and again until there is something.
pub(super) fn poll<T>(
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = look()? {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("waited in vain for {what}")
}

/// Runs a command that must succeed.
pub(super) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // One line is enough of a thousand.
    let first = said.lines().next().unwrap_or_default();
    ensure!(
        output.status.success(),
        "{}: {first}",
        command.get_program().display()
    );
    Ok(())
}
