//! Another process of the benchmark, from the outside.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::de::DeserializeOwned;

/// How long a process has to end before it is killed.
const TIME_TO_END: Duration = Duration::from_secs(2);

/// A process that takes orders, a line each, and answers. It is killed when it is let go of.
pub(crate) struct Process {
    name: String,
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
    patience: Duration,
}

impl Process {
    /// Starts the command with its standard input and output tied to this process.
    pub(crate) fn start(
        command: &mut Command,
        name: String,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("no standard input")?;
        let said = child.stdout.take().context("no standard output")?;
        Ok(Self {
            name,
            child,
            orders,
            said: BufReader::new(said),
            patience,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn order(&mut self) -> anyhow::Result<()> {
        self.orders
            .write_all(b"go\n")
            .with_context(|| format!("the {} has ended", self.name))
    }

    pub(crate) fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        match self.line()? {
            line if line == word => Ok(()),
            line => bail!("the {} said {line:?}", self.name),
        }
    }

    /// The next line, which is JSON.
    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("no answer: {line:?}"))
    }

    /// The next line without its end. Fails if none comes in time.
    fn line(&mut self) -> anyhow::Result<String> {
        let deadline = Instant::now() + self.patience;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if self.said.buffer().is_empty() {
                self.wait_until(deadline)?;
            }
            if self.said.fill_buf()?.is_empty() {
                bail!("the {} has ended", self.name);
            }
            let wanted = self.said.buffer().split_inclusive(|byte| *byte == b'\n');
            let part = wanted.into_iter().next().unwrap_or_default().to_vec();
            self.said.consume(part.len());
            line.extend(part);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn wait_until(&self, deadline: Instant) -> anyhow::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left)?;
        let fd = self.said.get_ref().as_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left))? {
            0 => bail!("the {} hangs", self.name),
            _ => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A bootstrap server is a process with a child that it has to end, and does when it is told so;
        // the others have ended then. Either may have ended by itself.
        let child = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(child, rustix::process::Signal::TERM).ok();
        let deadline = Instant::now() + TIME_TO_END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
