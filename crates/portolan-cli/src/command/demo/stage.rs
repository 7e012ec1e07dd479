//! Where the story is played: by jobs that are locked in, if this machine has walls.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use portolan::bootstrap::Bootstrap;
use portolan_sandbox::profile::Tier;
use portoland::job::{Job, Reading};
use portoland::launch::{Exit, Inheritance, Instance, Launcher, random_instance};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::{GROUP, print};
use crate::args::Part;

/// What the players have in common.
pub(super) struct Stage<'a> {
    bootstrap: &'a Bootstrap,
    launcher: Launcher,
    program: PathBuf,
    containers: Containers,
    walls: Walls,
}

/// How the players are locked in.
enum Walls {
    In(Tier),
    /// They are not.
    None(String),
}

impl<'a> Stage<'a> {
    pub(super) fn new(bootstrap: &'a Bootstrap) -> anyhow::Result<Self> {
        let mut stage = Self {
            bootstrap,
            launcher: Launcher::without_cgroups(),
            program: env::current_exe()?,
            containers: Containers::new()?,
            walls: Walls::None(String::new()),
        };
        stage.walls = match stage.launcher.ward(&stage.job(Part::Server, true)?) {
            Ok(Some(ward)) => Walls::In(ward.tier),
            Ok(None) => Walls::None("they have no entitlements".to_owned()),
            Err(error) => Walls::None(error.reason()),
        };
        Ok(stage)
    }

    /// Has a part played by a program of this story.
    pub(super) fn start(&self, part: Part, in_group: bool) -> anyhow::Result<Player> {
        let mut job = self.job(part, in_group)?;
        let text = entitlements(in_group);
        let known = self.bootstrap.confine(&job.label, text.as_bytes())?;
        let Ok(right) = known.right.into_socket() else {
            anyhow::bail!("the right is in use")
        };
        if let Walls::None(_) = self.walls {
            job.entitlements = None;
        }
        let (output, theirs) = io::pipe()?;
        let errors = io::stderr();
        let started = self.launcher.start(
            &job,
            &Inheritance {
                reporter: None,
                bootstrap: right.as_fd(),
                standard_in: None,
                standard_out: Some(theirs.as_fd()),
                standard_error: Some(errors.as_fd()),
                sockets: &[],
                environment: &[],
                instance: random_instance()?,
            },
        );
        let instance = started.map_err(|error| anyhow::anyhow!(error.reason()))?;
        Ok(Player { instance, output })
    }

    fn job(&self, part: Part, in_group: bool) -> anyhow::Result<Job> {
        let name = clap::ValueEnum::to_possible_value(&part).context("a part without a name")?;
        let name = name.get_name();
        let text = format!(
            "Label = \"demo.{name}\"\nProgram = \"/\"\n[Entitlements]\n{}",
            entitlements(in_group)
        );
        let mut job = Reading::of(text.as_bytes()).job.context("the demo's job")?;
        let program = self.program.to_str().context("a path that is no text")?;
        job.program = Some(self.program.clone());
        job.program_arguments = [program, "demo", "--part", name].map(str::to_owned).into();
        let data = self
            .containers
            .0
            .to_str()
            .context("a path that is no text")?;
        job.environment_variables
            .insert("XDG_DATA_HOME".to_owned(), data.to_owned());
        Ok(job)
    }
}

/// What is said of it.
impl fmt::Display for Stage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.walls {
            Walls::In(tier) => write!(f, "The programs below are locked in ({tier})."),
            Walls::None(why) => write!(f, "The programs below are not locked in: {why}."),
        }
    }
}

fn entitlements(in_group: bool) -> String {
    let groups = match in_group {
        true => format!("[\"{GROUP}\"]"),
        false => "[]".to_owned(),
    };
    format!(
        "\"com.apple.security.app-sandbox\" = true\n\
         \"com.apple.security.application-groups\" = {groups}\n"
    )
}

/// A directory for the containers of the story, so that nothing of it is left in a home.
struct Containers(PathBuf);

impl Containers {
    fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("portolan-demo-{:016x}", random_instance()?));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // What cannot be removed is empty directories where such things are removed anyway.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A program that plays a part.
pub(super) struct Player {
    instance: Instance,
    output: PipeReader,
}

impl Player {
    /// Prints what the server says until it says that it serves.
    pub(super) fn read_until_ready(&mut self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"serving\n") {
            let read = self.output.read(&mut byte)?;
            anyhow::ensure!(read == 1, "the server ended too early");
            text.extend(byte);
        }
        print(&text)?;
        Ok(())
    }

    /// Prints what it says and waits for its end.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        self.output.read_to_end(&mut text)?;
        print(&text)?;
        let exit = self.wait()?;
        anyhow::ensure!(exit == Some(Exit::Status(0)), "a part of the demo failed");
        Ok(())
    }

    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.instance.signal(Signal::KILL)?;
        self.wait().map(drop)
    }

    fn wait(&self) -> anyhow::Result<Option<Exit>> {
        let pidfd = self.instance.pidfd();
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None)?;
        Ok(self.instance.reap()?)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // After an error the others must not stay behind; one that has ended cannot be killed.
        self.instance.signal(Signal::KILL).ok();
    }
}
